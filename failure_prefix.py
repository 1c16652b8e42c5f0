"""Failure-Prefix Conditioning: learning from solved questions by starting in the middle of a rare wrong answer. arXiv 2601.20829.

    python failure_prefix.py                                                    the embedded model on a laptop CPU, some minutes
    python failure_prefix.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B  the same code with the left column of the settings below

A question the model nearly always solves gives GRPO nothing: all answers of its group are right. There is still something to be learned
from it, how to get out of a wrong start, but wrong starts are hardly ever sampled. So take one of the model's own rare wrong answers,
cut it off, and let the model go on from there, with the cut where it succeeds about half the time:

    p(q, s)      = chance of a right answer when the model goes on from question q and opening s, estimated by sampling
    opening of q = the first tokens of a failure of q, up to the cut where |p(q, s) - tau| is smallest, tau = 0.5
    advantages   = those of GRPO, over the G responses to one question with one opening; reward 1 if the response ends in the right box
    loss         = that of GRPO, on what comes after the opening

What changes against grpo.py:

    (1) screen    sample every question; keep those that were right nearly always, each with one failure of its own       (section 3)
    (2) cut       try several cuts of that failure, keep the one where success is nearest to tau                            (section 3)
    (3) train     question + opening is the context: the opening carries no loss, and the verifier never sees it
    (4) refresh   after some steps mine and cut anew, with the model as it is then                                          (section 5)

Left out: nothing of the method. The paper gives neither the grid of cuts nor the samples per cut; ours are in the settings and say so.
The bank, one line per screened question, is bank.jsonl in the run folder.
Expect on the embedded model: silent groups .12 instead of .76 at the start, reward behind the openings from .5 to .95, held-out score up by 2 points,
of which plain GRPO on the same questions gets 1.5 (results/failure_prefix.md).
"""

import time
from collections import Counter

import torch

from common import (
    TIMED,
    InputError,
    MasterAdamW,
    Run,
    collate,
    completion_logps,
    derive_seed,
    evaluate,
    fit_memory,
    group_advantages,
    grpo_loss,
    load_model,
    micro_batches,
    padded_share,
    parse_settings,
    sampling_gap,
    score_rollouts,
    show_group,
    show_roles,
    train_arms,
)
from problems import Shuffled, fill_record, load_problems, read_record, set_name
from ranks import total
from sampler import GAP_LIMITS, make_sampler, which_sampler

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "arm":               ("failure", "failure", "what to train on: failure: wrong answers cut short; plain: the same questions; correct: right "
                          "answers to them, cut there; medium: questions of medium difficulty", ("failure", "plain", "correct", "medium")),
    "compare":           ([], ["plain"], "arms to train afterwards as well, from the same bank"),
    "bank":              ("", "", "bank.jsonl of an earlier run to start from: nothing is mined before step 1"),
    "questions":         (1000, 128, "saturated questions to mine; section 4"),
    "screen_samples":    (32, 32, "responses to each question in screening; section 4"),
    "saturated_low":     (31, 31, "fewest right ones among them of a saturated question; section 4 (second version of the paper: 121 of 128)"),
    "saturated_high":    (31, 31, "most right ones; section 4 (second version: 127 of 128)"),
    "medium_low":        (13, 13, "fewest right ones of a medium question; not stated; ours"),
    "medium_high":       (19, 19, "most right ones of a medium question; not stated; ours"),
    "cuts":              (9, 9, "places to try to cut a failure, at equal distances; not stated; ours: .1 to .9 of its tokens"),
    "cut_samples":       (32, 16, "responses from each cut; not stated; ours"),
    "tau":               (0.5, 0.5, "success that is wanted behind the cut; section 3"),
    "fixed_cut":         (0.0, 0.0, "cut every failure at this share of its tokens and try no others, 0: try; section 5: .25, .5, .75"),
    "refresh_every":     (0, 0, "steps after which to mine anew with the model of then, 0: never; not stated; ours"),
    "refresh_samples":   (128, 64, "responses in which to look for a failure then; section 5"),
    "data":              ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                          "text after each question; Qwen2.5-Math's own"),
    "steps":             (1000, 60, "batches of samples to learn from; code: 2,000 updates"),
    "prompts_per_step":  (10, 32, "questions in a batch; code"),
    "group_size":        (16, 8, "responses to each question, G; section 4"),
    "temperature":       (1.0, 1.0, "sampling temperature in training; DAPO's code"),
    "max_tokens":        (6000, 192, "longest response, counted behind the opening; section 4"),
    "lr":                (1e-6, 1e-4, "learning rate of AdamW; section 4 (tiny: two updates a batch on few questions; 8e-4 unlearns)"),
    "warmup_steps":      (0, 10, "steps over which the learning rate rises to its value; code: none"),
    "weight_decay":      (0.1, 0.0, "AdamW's; code"),
    "max_grad_norm":     (0.1, 1.0, "gradients longer than this are shortened to it; code"),
    "updates_per_batch": (2, 2, "passes over one batch of samples, one optimizer step each; code"),
    "clip_low":          (0.2, 0.2, "how far the ratio may fall below 1; section 4"),
    "clip_high":         (0.4, 0.4, "how far the ratio may rise above 1; section 4"),
    "scale_by_std":      (True, True, "divide advantages by the group's standard deviation; code"),
    "loss_type":         ("token-mean", "token-mean", "what weighs the same in the batch's mean; DAPO section 3.3",
                          ("token-mean", "sequence-mean")),
    "beta":              (0.0, 0.0, "weight of the KL term to the starting model; DAPO section 2.3"),
    "entropy_coef":      (0.0, 0.0, "weight of an entropy bonus; DAPO uses none"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (20, 10, "steps between evaluations (there is one before step 1 and one at the end)"),
    "eval_samples":      (32, 4, "responses to each held-out question; section 4"),
    "eval_temperature":  (0.6, 1.0, "sampling temperature in evaluation; section 4 (tiny: as in training)"),
    "save_every":        (20, 10, "steps between checkpoints"),
    "seed":              (0, 0, "of data order and sampling"),
    "importance_cap":    (2.0, 0.0, "weigh tokens by min(p trainer / p sampler, this), 0: do not; ours, as verl's default threshold"),
    "max_logp_gap":      (0.0, 0.0, "stop if sampler and trainer differ by more nats on the mean token, 0: 1e-4 in float32, 0.1 in bfloat16"),
    "sampler":           ("auto", "auto", "what draws responses; auto: vllm if there is a GPU", ("auto", "vllm", "transformers")),
    "engine_memory":     (0.4, 0.4, "share of the GPU's memory that vLLM may hold while it samples"),
    "tensor_parallel":   (1, 1, "GPUs that share one vLLM engine"),
    "dtype":             ("bfloat16", "float32", "precision the model computes in; the optimizer's weights are float32", ("bfloat16", "float32")),
    "masters":           ("auto", "auto", "where the optimizer's weights and moments are; auto: on the GPU if they fit", ("auto", "gpu", "cpu")),
    "gradient_checkpointing": (True, False, "recompute activations in the backward pass: less memory, one more forward pass"),
    "micro_batch_tokens": (16384, 4096, "tokens, padding included, in one forward and backward pass: memory only; small ones pad less"),
    "sample_rows":       (256, 256, "sequences sampled side by side: memory only"),
    "threads":           (0, 1, "CPU threads of torch, 0 for its own choice; tensors as small as the embedded model's lose by sharing"),
}


def first_failure(rollouts):
    """The first response that ended by itself with a wrong answer, or None. One that ran into the length limit is no wrong answer."""
    return next((r for r in rollouts if r.finished and not r.reward), None)


def opening(ids, share):
    """The first part of a response: this share of its tokens, rounded down.

    >>> opening([7, 8, 9, 2], 0.5)
    [7, 8]
    """
    return ids[: int(share * len(ids) + 1e-9)]


def nearest(rates, tau):
    """Place of the rate nearest to tau; of the first, which has the shortest opening, if several are as near (section 3).

    >>> nearest([0.75, 0.25, 0.0], tau=0.5)
    0
    """
    return min(range(len(rates)), key=lambda i: (round(abs(rates[i] - tau), 9), i))


def choose_cut(line, tau, fixed_cut=0.0):
    """The share of its tokens at which a failure is cut, and the success that was measured there (None: not measured).

    line: a line of the bank with "cuts", from short to long, and "rates". fixed_cut: this one, whatever was measured.

    >>> choose_cut({"cuts": [0.2, 0.5, 0.8], "rates": [0.9, 0.6, 0.1]}, tau=0.5)
    (0.5, 0.6)
    """
    if fixed_cut:
        return fixed_cut, dict(zip(line["cuts"], line["rates"])).get(fixed_cut)
    best = nearest(line["rates"], tau)                                                                                       # (2)
    return line["cuts"][best], line["rates"][best]


def mine(questions, draw, *, samples, low, high, cuts, cut_samples):
    """Screen questions, and try cuts of one failure of each saturated one -> one line of the bank for each question.

    draw(contexts, n, golds): n scored rollouts of each context -> list of lists. A question is saturated if low..high of its samples
    are right, and usable if one of the others ended by itself; then its line has "failure" and "correct", token ids, "cuts" and "rates".
    """
    lines = []
    for question, group in zip(questions, draw([q["prompt_ids"] for q in questions], samples, [q["answer"] for q in questions]), strict=True):
        right = [r.completion_ids for r in group if r.reward]
        line = {"id": question["id"], "right": len(right), "of": samples, "tokens": sum(len(r.completion_ids) for r in group)}
        failure = first_failure(group) if low <= len(right) <= high else None                                                # (1)
        lines.append(line | ({"failure": failure.completion_ids, "correct": (right or [[]])[0], "cuts": cuts, "rates": []} if failure else {}))
    tried = [(question, line, cut) for question, line in zip(questions, lines, strict=True) for cut in line.get("cuts", []) if cut_samples]
    groups = draw([q["prompt_ids"] + opening(line["failure"], cut) for q, line, cut in tried], cut_samples, [q["answer"] for q, _, _ in tried])
    for (_, line, _), group in zip(tried, groups, strict=True):
        line["rates"].append(sum(r.reward for r in group) / len(group))
        line["tokens"] += sum(len(r.completion_ids) for r in group)
    return lines


def training_items(lines, problems, *, arm, tau, fixed_cut, medium):
    """What an arm trains on, from the lines of a bank -> problems whose prompt_ids include the opening, and its length, "prefix".

    problems: by id. medium: fewest and most right ones of a question of the arm medium, of which as many are taken as were mined.
    """
    saturated = [line for line in lines if "failure" in line]
    if arm == "medium":
        return [problems[line["id"]] | {"prefix": 0} for line in lines if medium[0] <= line["right"] <= medium[1]][: len(saturated)]
    items = []
    for line in saturated:
        prefix = opening(line["failure"], choose_cut(line, tau, fixed_cut)[0])
        prefix = {"failure": prefix, "plain": [], "correct": line["correct"][: len(prefix)]}[arm]
        question = problems[line["id"]]
        items.append(question | {"prompt_ids": question["prompt_ids"] + prefix, "prefix": len(prefix)})                      # (3)
    return items


def summary(lines, tau, fixed_cut):
    """What was mined, as text: a histogram of the success measured behind the chosen cuts, and a warning if few are near tau."""
    rates = [rate for line in lines if "failure" in line for rate in [choose_cut(line, tau, fixed_cut)[1]] if rate is not None]
    text = [f"{len(lines)} questions screened, {sum('failure' in line for line in lines)} with a failure, "
            f"{sum(line['tokens'] for line in lines):,} tokens sampled for it"]
    bins = Counter(min(9, int(10 * rate)) for rate in rates)
    text += [f"  success behind the cut .{low} and up {bins[low]:4}  {'#' * round(50 * bins[low] / len(rates))}" for low in range(10) if rates]
    near = sum(abs(rate - tau) <= 0.25 for rate in rates)
    if not fixed_cut and near < 0.7 * len(rates):
        text.append(f"warning: only {near} of {len(rates)} cuts are within .25 of tau {tau:g}: many groups will be silent; try more --cuts")
    return "\n".join(text)


def main(argv=None):
    # ---- (a) set up ------------------------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    run = Run(args, __file__)
    place = fit_memory(args.model, dtype=args.dtype, masters=args.masters, gradient_checkpointing=args.gradient_checkpointing,
                       micro_batch_tokens=args.micro_batch_tokens, engine_memory=args.engine_memory * (which_sampler(args.sampler) == "vllm"))
    model, tokenizer = load_model(run.checkpoint or args.model, args.dtype, args.gradient_checkpointing)
    reference = load_model(args.model, args.dtype)[0] if args.beta else None
    prompting = {"instruction": args.instruction, "longest_prompt": model.config.max_position_embeddings - args.max_tokens}
    problems = load_problems(args.data, tokenizer, question_column=args.question_column, answer_column=args.answer_column, **prompting)
    eval_sets = {set_name(source): load_problems(source, tokenizer, **prompting) for source in args.eval_sets}
    sampler = make_sampler(args.sampler, model, tokenizer, args.sample_rows, memory=args.engine_memory, tensor_parallel=args.tensor_parallel)
    torch.manual_seed(args.seed)  # after the engine, which seeds everything with a number of its own
    optimizer = MasterAdamW(model, args.lr, args.weight_decay, masters=place)
    by_id, bank = {problem["id"]: problem for problem in problems}, run.out / "bank.jsonl"

    def draw(contexts, n, golds, *purpose):
        rollouts = sampler.generate(contexts, n, args.temperature, args.max_tokens, derive_seed(args.seed, *purpose)) if contexts else []
        score_rollouts(rollouts, [gold for gold in golds for _ in range(n)], tokenizer)
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    def mined(generation):
        """The lines of one generation of the bank, and the questions in the order in which they come up in training."""
        if not generation and args.bank:
            lines = [line for line in read_record(args.bank) if line["generation"] == 0]
        else:
            pool = Shuffled(problems, args.seed).draw(len(problems))
            samples, low, high = args.screen_samples, args.saturated_low, args.saturated_high
            if generation:  # (4) the same questions again; any failure will do, for few are left
                pool = [by_id[line["id"]] for line in mined(0)[0] if "failure" in line]
                samples, low, high = args.refresh_samples, 0, args.refresh_samples - 1
            cuts = [args.fixed_cut] if args.fixed_cut else [round(i / (args.cuts + 1), 3) for i in range(1, args.cuts + 1)]
            sampler.sync()
            lines = fill_record(
                bank, pool, lambda part, place: mine(
                    part, lambda *what: draw(*what, "mine", generation, place, len(what[0])), samples=samples, low=low, high=high, cuts=cuts,
                    cut_samples=0 if args.fixed_cut else args.cut_samples),
                args.questions, lambda line: "failure" in line, generation=generation,
                model=args.model + f" after {generation * args.refresh_every} steps" * (generation > 0))
            sampler.sleep()
        if not {line["id"] for line in lines} <= set(by_id):
            raise InputError(f"--bank {args.bank}: holds questions that --data {args.data} does not; give the --data that it was mined from")
        items = training_items(lines, by_id, arm=args.arm, tau=args.tau, fixed_cut=args.fixed_cut, medium=(args.medium_low, args.medium_high))
        items = [item for item in items if len(item["prompt_ids"]) <= prompting["longest_prompt"]]  # behind longer ones there is no room to answer
        if not items:
            raise InputError(f"--arm {args.arm}: no question to train on among {len(lines)} screened; widen --saturated-low and --saturated-high "
                             "(for the arm medium --medium-low and --medium-high), or screen other problems with --data")
        run.say(summary(lines, args.tau, args.fixed_cut))
        return lines, Shuffled(items, derive_seed(args.seed, generation))

    generation = max(0, run.done - 1) // args.refresh_every if args.refresh_every else 0
    lines, order = mined(generation)
    done = run.restore(optimizer, order=order)

    def held_out():
        sampler.sync()
        return evaluate(
            sampler, tokenizer, eval_sets, n=args.eval_samples, temperature=args.eval_temperature,
            max_tokens=args.max_tokens, seed=derive_seed(args.seed, "eval"))

    if done == 0:
        run.log(0, {**held_out(), "num_tokens": sum(line["tokens"] for line in lines)})
    for step in run.progress(done + 1, args.steps):
        clock, spent = [time.time()], 0
        if args.refresh_every and step > 1 and (step - 1) % args.refresh_every == 0:
            if (step - 1) % args.save_every:
                run.save(step - 1, model, tokenizer, optimizer, order=order)  # whoever stops the mining goes on from here
            generation = (step - 1) // args.refresh_every
            lines, order = mined(generation)                                                                                 # (4)
            spent = sum(line["tokens"] for line in lines)

        # ---- (b) sample --------------------------------------------------------------------------------------------------
        sampler.sync()
        clock.append(time.time())
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, derive_seed(args.seed, "sample", step))
        sampler.sleep()
        clock.append(time.time())

        # ---- (c) verify and advantage ------------------------------------------------------------------------------------
        counts = Counter()
        score_rollouts(rollouts, [q["answer"] for q in questions for _ in range(args.group_size)], tokenizer, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage
        clock.append(time.time())

        # ---- (d) update --------------------------------------------------------------------------------------------------
        # A response with advantage 0 has gradient 0 and is not computed, but its tokens stay in the count that the loss is divided by.
        trained = rollouts if args.beta or args.entropy_coef else [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        trained_tokens = max(1, sum(len(r.completion_ids) for r in trained))
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # with no signal at all the weights stay where they are
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # the weights that sampled, so the ratio starts at exactly 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    if args.importance_cap:
                        ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
                        batch["importance_weights"] = ratio.clamp(max=args.importance_cap)
                    sums["entropy"] += entropy.detach().sum().item()
                    if reference:
                        with torch.no_grad():
                            batch["ref_per_token_logps"] = completion_logps(reference, batch, batch["temperatures"])[0]
                loss, statistics = grpo_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"], clip_low=args.clip_low,
                    clip_high=args.clip_high, loss_type=args.loss_type, num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
                    ref_per_token_logps=batch.get("ref_per_token_logps"), entropy=entropy, entropy_coef=args.entropy_coef,
                    importance_weights=batch.get("importance_weights"))
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            if update == 0:
                gap = sampling_gap(batches, step, args.max_logp_gap or GAP_LIMITS[sampler.dtype])
            grad_norm = optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = total(sums)  # under torchrun, each rank has summed over its own micro-batches
        clock.append(time.time())

        # ---- (e) log, evaluate, save -------------------------------------------------------------------------------------
        silent = (rewards == rewards[:, :1]).all(1)  # (questions,)
        metrics = {
            "reward": rewards.mean().item(),
            "frac_reward_zero_std": silent.float().mean().item(),
            "frac_all_right": (silent & (rewards[:, 0] == 1)).float().mean().item(),
            "completions/mean_length": num_tokens / len(rollouts),
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / len(rollouts),
            "loss": sums["loss"] / args.updates_per_batch,  # near 0 on policy whatever happens: look at reward and grad_norm
            "grad_norm": grad_norm,
            "entropy": sums["entropy"] / trained_tokens,
            **gap,
            **{name: sums[name] / (trained_tokens * args.updates_per_batch) for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "kl")},
            "lr": lr,
            "prefix/length": sum(q["prefix"] for q in questions) / len(questions),
            "prefix/generation": generation,
            "num_tokens": run.last("num_tokens") + spent + num_tokens + sum(map(len, contexts)) * args.group_size,
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": num_tokens / (clock[2] - clock[1]),
            "time/trained_tokens_per_s": trained_tokens / (clock[4] - clock[3]),
            "time/padding": padded_share(batches),
        }
        if step % args.eval_every == 0 or step == args.steps:
            metrics |= held_out()
            metrics["time/evaluate"] = time.time() - clock[-1]
        run.log(step, metrics)
        if step == 1:
            mixed = int((~silent).float().argmax()) * args.group_size
            run.say(show_roles(tokenizer, rollouts[mixed], [
                ("prompt", len(contexts[mixed // args.group_size]) - questions[mixed // args.group_size]["prefix"]),
                ("opening", questions[mixed // args.group_size]["prefix"])]))
            run.say(show_group(tokenizer, rollouts[mixed : mixed + args.group_size], questions[mixed // args.group_size]["answer"]))
        if step % args.save_every == 0 or step == args.steps:
            run.save(step, model, tokenizer, optimizer, order=order)
    run.finish()
    sampler.close()
    train_arms(main, argv, run, args.compare, "--bank", args.bank or str(bank))


if __name__ == "__main__":
    main()
