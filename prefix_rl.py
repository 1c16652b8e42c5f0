"""PrefixRL: learning from unsolved questions by starting in the middle of an old right answer. arXiv 2601.18795.

    python prefix_rl.py                                           the embedded model on a laptop CPU, some minutes
    python prefix_rl.py --model meta-llama/Llama-3.1-8B-Instruct  the same code with the left column of the settings below

A question that the model practically never solves gives GRPO nothing: all answers of its group are wrong. But whoever samples long enough
gets a right one some day, and it has been paid for. PrefixRL does not imitate it. It cuts it off, and lets the model go on from there:

    questions    those without a success in `screen_samples`; for each, fresh samples until the first right answer, its trace
    openings     three a trace, at cuts drawn once, uniformly from 40 to 80 % of its tokens
    objective    sum over question + opening of E[r(opening + continuation)]  +  sum over questions of E[r(response)]        Eq. 3.1
    advantages   A_i = r_i - mean(r)                              over the G responses to one context; REINFORCE with a group baseline
    loss         - sum over responses of A_i * sum over its own tokens of per_token_logps / number of responses

What is learned behind the openings has to reach the questions without them, by the weights that both share.

What changes against grpo.py:

    (1) collect   find the unsolved questions, and buy one right answer to each by rejection sampling                  (section 5)
    (2) cut       the training set: three openings of every trace and the question itself, shuffled together           (section 5)
    (3) grade     the answer is looked for in opening + continuation; the opening carries no loss                      (section 3)
    (4) update    advantages are not divided by the standard deviation; no clip and no ratio                           (section 5)
    (5) count     floating point operations, collection included: 2 N D to sample, 6 N D to train                      (appendix F.2)

Expect on the embedded model: success on the unsolved questions from .00 to .70, and plain RL as far at equal cost, since these questions share
a few rules: README.

The paper's other model, Qwen3-4B-Instruct (which checkpoint: not found), takes the same settings. It first distilled Llama on OpenThoughtsV3.
Left out: supervised training on the traces and importance-weighted training on them, which the paper compares with: results/ has both.
Traces, one line for each question tried, are in traces.jsonl in the run folder.
"""

import random
import time
from collections import Counter
from dataclasses import replace

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
from verifier import last_boxed

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "arm":               ("mixture", "mixture", "what to train on: mixture: openings and questions, 3 to 1; prefix-only: openings; plain: questions",
                          ("mixture", "prefix-only", "plain")),
    "compare":           ([], ["prefix-only", "plain"], "arms to train afterwards as well, on the same questions and traces"),
    "traces":            ("", "", "traces.jsonl of an earlier run, or of another model: nothing is collected"),
    "questions":         (1000, 24, "unsolved questions with a trace to collect; section 5"),
    "screen_samples":    (512, 512, "responses of which none may be right for a question to count as unsolved; section 5"),
    "max_attempts":      (2500, 2500, "fresh responses in which to look for a right one; section 5"),
    "cuts":              (3, 3, "openings of each trace; section 5"),
    "cut_from":          (0.4, 0.4, "shortest opening, as a share of the trace's tokens; section 5"),
    "cut_to":            (0.8, 0.8, "longest opening; section 5"),
    "max_flops":         (0.0, 6e12, "stop when so many operations have been spent, 0: train all steps; to compare arms at equal cost"),
    "flops_before":      (0.0, 0.0, "operations spent on the model before, which count from the start"),
    "data":              ("BytedTsinghua-SIA/DAPO-Math-17k", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; section 5 (OMNI-MATH 6 to 8 as well)"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                          "text after each question; not stated; ours"),
    "steps":             (400, 400, "batches of samples to learn from; appendix F.1"),
    "prompts_per_step":  (128, 16, "contexts in a batch; appendix F.1 (that it counts contexts, not responses, is our reading)"),
    "group_size":        (8, 8, "responses to each context, n; section 5"),
    "temperature":       (1.0, 1.0, "sampling temperature in training; not stated; ours"),
    "max_tokens":        (16384, 144, "longest continuation, counted behind the opening; appendix F.1"),
    "lr":                (1e-6, 2e-4, "learning rate of AdamW; appendix F.1 (tiny: keeps most of the held-out score)"),
    "warmup_steps":      (0, 10, "steps over which the learning rate rises to its value; not stated; ours"),
    "weight_decay":      (0.0, 0.0, "AdamW's; not stated; ours"),
    "max_grad_norm":     (1.0, 1.0, "gradients longer than this are shortened to it; not stated; ours"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (20, 10, "steps between evaluations (there is one before step 1 and one at the end)"),
    "eval_samples":      (256, 4, "responses to each held-out question; appendix F.2"),
    "eval_temperature":  (0.7, 1.0, "sampling temperature in evaluation; appendix F.2 (tiny: as in training)"),
    "save_every":        (20, 20, "steps between checkpoints"),
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
PANELS = {r"eval/unsolved/avg@\d+": "success on the unsolved questions", "prefix/reward_without": "reward without an opening",
          "prefix/reward_with": "reward behind openings"}  # of curves.png


def find_trace(questions, draw, *, screen, attempts, block=64):
    """Which questions are unsolved, and one right answer to each of them (section 5) -> one line for each question.

    draw(questions, n, purpose): n scored rollouts for each -> list of lists. Both jobs go by blocks and are over with the block that has the
    first right one: "screened" responses, of at most `screen`, had "right" right ones. A question is unsolved if there is none. Such ones also
    have "attempts" that were made after that, "tokens", prompts included, that these cost, and "trace", the ids of the first right response,
    missing if there was none.
    """
    lines = [{"id": question["id"], "screened": 0, "right": 0, "attempts": 0, "tokens": 0} for question in questions]

    def blocks(count, most, purpose, open_still):
        """Draws for all lines that are open, as long as there are any that have not had their most."""
        while todo := [(q, line) for q, line in zip(questions, lines, strict=True) if line[count] < most and open_still(line)]:
            made = todo[0][1][count]
            groups = draw([q for q, _ in todo], min(block, most - made), (purpose, made))
            for (question, line), group in zip(todo, groups, strict=True):
                line[count] += len(group)
                yield question, line, group

    for _, line, group in blocks("screened", screen, "screen", lambda line: not line["right"]):
        line["right"] += int(sum(r.reward for r in group))
    for question, line, group in blocks("attempts", attempts, "attempt", lambda line: not line["right"] and "trace" not in line):
        line["tokens"] += sum(len(question["prompt_ids"]) + len(r.completion_ids) for r in group)
        if right := [r.completion_ids for r in group if r.reward]:
            line["trace"] = right[0]                                                                                         # (1)
    return lines


def training_set(questions, traces, *, arm, cuts, low, high, seed):
    """What an arm trains on -> problems whose prompt_ids include the opening, and "prefix", the opening's ids ([]: none).

    questions: problems by id. traces: {id: ids}. The cuts depend on the seed and the question only: they are the same over the whole
    run, after a resume, and in every arm.
    """
    items = []
    for name, trace in traces.items():
        rng = random.Random(derive_seed(seed, "cuts", name))
        openings = [trace[: int(rng.uniform(low, high) * len(trace))] for _ in range(cuts)]
        for prefix in {"mixture": [*openings, []], "prefix-only": openings, "plain": [[]]}[arm]:                             # (2)
            items.append(questions[name] | {"prompt_ids": questions[name]["prompt_ids"] + prefix, "prefix": prefix})
    return items


def score_joined(rollouts, prefixes, golds, tokenizer, counts):
    """Set each rollout's reward from its opening and its own tokens together: part of the answer may stand in the opening."""
    joined = [replace(r, completion_ids=prefix + r.completion_ids) for r, prefix in zip(rollouts, prefixes, strict=True)]
    score_rollouts(joined, golds, tokenizer, counts)                                                                         # (3)
    for rollout, whole in zip(rollouts, joined, strict=True):
        rollout.reward = whole.reward


def reinforce_loss(per_token_logps, advantages, completion_mask, num_sequences):
    """Sum over responses of minus advantage times log-probability, over the number of responses in the whole batch.

    per_token_logps, completion_mask: (B, L-1). advantages: (B,). num_sequences counts responses that are not in this micro-batch as well.
    """
    return -(advantages[:, None] * per_token_logps * completion_mask).sum() / num_sequences                                  # (4)


def flops(parameters, tokens, *, training):
    """Floating point operations for so many tokens, prompts and openings included: 2 N D to sample them, 6 N D to train on them (appendix F.2).

    >>> flops(10, 100, training=True)
    6000
    """
    return (6 if training else 2) * parameters * tokens                                                                      # (5)


def main(argv=None):
    # ---- (a) set up ------------------------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    run = Run(args, __file__, PANELS)
    place = fit_memory(args.model, dtype=args.dtype, masters=args.masters, gradient_checkpointing=args.gradient_checkpointing,
                       micro_batch_tokens=args.micro_batch_tokens, engine_memory=args.engine_memory * (which_sampler(args.sampler) == "vllm"))
    model, tokenizer = load_model(run.checkpoint or args.model, args.dtype, args.gradient_checkpointing)
    prompting = {"instruction": args.instruction, "longest_prompt": model.config.max_position_embeddings - args.max_tokens}
    problems = load_problems(args.data, tokenizer, question_column=args.question_column, answer_column=args.answer_column, **prompting)
    eval_sets = {set_name(source): load_problems(source, tokenizer, **prompting) for source in args.eval_sets}
    sampler = make_sampler(args.sampler, model, tokenizer, args.sample_rows, memory=args.engine_memory, tensor_parallel=args.tensor_parallel)
    torch.manual_seed(args.seed)  # after the engine, which seeds everything with a number of its own
    optimizer = MasterAdamW(model, args.lr, args.weight_decay, masters=place)
    by_id = {problem["id"]: problem for problem in problems}
    pool = Shuffled(problems, args.seed).draw(len(problems))
    parameters = sum(weight.numel() for weight in model.parameters())
    record = run.out / "traces.jsonl"

    def draw(questions, n, *purpose):
        contexts = [q["prompt_ids"] for q in questions]
        rollouts = sampler.generate(contexts, n, args.temperature, args.max_tokens, derive_seed(args.seed, *purpose))
        score_rollouts(rollouts, [q["answer"] for q in questions for _ in range(n)], tokenizer)
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    sampler.sync()
    lines = read_record(args.traces) if args.traces else fill_record(
        record, pool, lambda part, place: find_trace(
            part, lambda questions, n, purpose: draw(questions, n, purpose, place), screen=args.screen_samples, attempts=args.max_attempts),
        args.questions, lambda line: "trace" in line)
    sampler.sleep()
    traces = {line["id"]: line["trace"] for line in lines if "trace" in line}
    unsolved, spent = [line for line in lines if not line.get("right")], sum(line.get("tokens", 0) for line in lines)
    run.say(f"{len(lines)} questions screened, {len(unsolved)} unsolved, {len(traces)} with a trace, {len(unsolved) - len(traces)} dropped after "
            f"{args.max_attempts} attempts; {spent:,} tokens, {flops(parameters, spent, training=False):.3g} operations")
    if not traces:
        raise InputError(f"data {args.data}: no unsolved question with a trace among {len(lines)}; raise --max-attempts or lower --screen-samples")
    items = training_set(by_id, traces, arm=args.arm, cuts=args.cuts, low=args.cut_from, high=args.cut_to, seed=args.seed)
    items = [item for item in items if len(item["prompt_ids"]) <= prompting["longest_prompt"]]  # behind longer ones there is no room to answer
    eval_sets["unsolved"] = [by_id[name] for name in traces]
    order = Shuffled(items, args.seed)
    done = run.restore(optimizer, order=order)

    def held_out():
        sampler.sync()
        return evaluate(
            sampler, tokenizer, eval_sets, n=args.eval_samples, temperature=args.eval_temperature,
            max_tokens=args.max_tokens, seed=derive_seed(args.seed, "eval"))

    if done == 0:
        cost = args.flops_before + (flops(parameters, spent, training=False) if args.arm != "plain" else 0)
        leak = [bool(last_boxed(tokenizer.decode(item["prefix"]))) for item in items if item["prefix"]]
        run.log(0, {**held_out(), "flops": cost, "prefix/has_answer": sum(leak) / max(1, len(leak))})
    for step in run.progress(done + 1, args.steps):
        clock = [time.time()]

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
        prefixes, golds = ([q[name] for q in questions for _ in range(args.group_size)] for name in ("prefix", "answer"))
        score_joined(rollouts, prefixes, golds, tokenizer, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, scale_by_std=False)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage
        clock.append(time.time())

        # ---- (d) update --------------------------------------------------------------------------------------------------
        # A response with advantage 0 has gradient 0 and is not computed, but its tokens stay in the count that the loss is divided by.
        trained = [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        trained_tokens = max(1, sum(len(r.completion_ids) for r in trained))
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for batch in batches:
            per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
            batch["old_per_token_logps"] = per_token_logps.detach()
            weights = torch.ones_like(per_token_logps)
            if args.importance_cap:
                weights = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp().clamp(max=args.importance_cap)
            sums["entropy"] += entropy.detach().sum().item()
            loss = reinforce_loss(per_token_logps * weights, batch["advantages"], batch["completion_mask"], len(rollouts))
            loss.backward()
            sums["loss"] += loss.item()
        if batches:  # with no signal at all the weights stay where they are
            gap = sampling_gap(batches, step, args.max_logp_gap or GAP_LIMITS[sampler.dtype])
            grad_norm = optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = total(sums)  # under torchrun, each rank has summed over its own micro-batches
        clock.append(time.time())

        # ---- (e) log, evaluate, save -------------------------------------------------------------------------------------
        silent = (rewards == rewards[:, :1]).all(1)  # (questions,)
        all_tokens = num_tokens + sum(map(len, contexts)) * args.group_size
        metrics = {
            "reward": rewards.mean().item(),
            "frac_reward_zero_std": silent.float().mean().item(),
            "frac_all_right": (silent & (rewards[:, 0] == 1)).float().mean().item(),
            "completions/mean_length": num_tokens / len(rollouts),
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / len(rollouts),
            "loss": sums["loss"],  # says nothing about progress: look at reward and grad_norm
            "grad_norm": grad_norm,
            "entropy": sums["entropy"] / trained_tokens,
            **gap,
            "lr": lr,
            "num_tokens": run.last("num_tokens") + all_tokens,
            "flops": run.last("flops") + flops(parameters, all_tokens, training=False) + flops(parameters, all_tokens, training=True),
            **{f"prefix/{name}": rewards[[bool(q["prefix"]) == opened for q in questions]].mean().item() for name, opened in
               (("reward_with", True), ("reward_without", False)) if any(bool(q["prefix"]) == opened for q in questions)},
            **{f"prefix/{name}": silent[[bool(q["prefix"]) == opened for q in questions]].float().mean().item() for name, opened in
               (("silent_with", True), ("silent_without", False)) if any(bool(q["prefix"]) == opened for q in questions)},
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": num_tokens / (clock[2] - clock[1]),
            "time/trained_tokens_per_s": trained_tokens / (clock[4] - clock[3]),
            "time/padding": padded_share(batches),
        }
        enough = step == args.steps or args.max_flops and metrics["flops"] >= args.max_flops
        if step % args.eval_every == 0 or enough:
            metrics |= held_out()
            metrics["time/evaluate"] = time.time() - clock[-1]
        run.log(step, metrics)
        if step == 1:
            mixed = int((~silent).float().argmax()) * args.group_size
            size = len(prefixes[mixed])
            run.say(show_roles(tokenizer, rollouts[mixed], [("prompt", len(rollouts[mixed].prompt_ids) - size), ("opening", size)]))
            run.say(show_group(tokenizer, rollouts[mixed : mixed + args.group_size], questions[mixed // args.group_size]["answer"]))
        if step % args.save_every == 0 or enough:
            run.save(step, model, tokenizer, optimizer, order=order)
        if enough:
            break
    run.finish()
    sampler.close()
    train_arms(main, argv, run, args.compare, "--traces", args.traces or str(record))


if __name__ == "__main__":
    main()
