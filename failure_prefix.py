"""Failure-Prefix Conditioning: learning from solved questions behind rare wrong starts. arXiv 2601.20829.

    python failure_prefix.py                        the tiny model on a laptop CPU, some minutes
    python failure_prefix.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B     the settings' left column

A question the model nearly always solves gives GRPO nothing: all answers of its group are right. It could
still teach how to get out of a wrong start, but those are hardly ever sampled. So take one of the model's own
rare wrong answers, cut it off where the model succeeds about half the time, and let it go on from there:

    p(q, s)      chance of a right answer when the model goes on from question q and prefix s, by sampling
    prefix of q  the first tokens of a failure of q, up to the cut where |p(q, s) - tau| is smallest, tau = .5
    loss         that of GRPO, on what comes after the prefix; a group are the G responses behind one prefix

What changes against grpo.py:

    (1) screen    sample every question; keep those nearly always right, each with one failure
    (2) cut       try several cuts of that failure, keep the one where success is nearest to tau
    (3) train     question + prefix is the context: the prefix carries no loss, and the verifier never sees it
    (4) refresh   after some steps mine and cut anew, with the model as it is then

Read were abstracts, the official code ("code" below; it trains on ready prefixes) and two readers' notes on
versions 1 and 2 ("note"). Left out: the code's chat prompt, and version 1's training questions of MATH.
On the tiny task it ends below the same questions plain: why, and what else is ours, docs/failure_prefix.md.
"""

from collections import Counter

import torch

from common import (
    LOSS_TYPES, collate, completion_logps, group_advantages, grpo_loss, importance_weights, micro_batches,
    reference_logps, sampling_gap, score_rollouts)
from plumbing import InputError, derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.records import fill_record
from plumbing.run import Run, drawn_tokens, train_arms
from plumbing.settings import one_line_errors, parse_settings

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "arm": ("failure", "failure", "failure: behind failures cut short; plain: without", ("failure", "plain")),
    "compare": ([], ["plain"], "arms to train afterwards as well, from the same bank"),
    "bank": ("", "", "bank.jsonl of an earlier run to start from: nothing is mined before step 1"),
    "questions": (1000, 128, "saturated questions to mine; note on version 1"),
    "screen_samples": (32, 32, "responses to each question in screening; note on version 1"),
    "saturated_low": (31, 31, "fewest right ones of a saturated question; note on version 1 (2: 121 of 128)"),
    "saturated_high": (31, 31, "most right ones; note on version 1 (version 2: 127 of 128)"),
    "cuts": (9, 9, "places to try to cut a failure; not found; ours: .1 to .9 of its tokens"),
    "cut_samples": (32, 16, "responses from each cut; not found; ours"),
    "tau": (0.5, 0.5, "success that is wanted behind the cut; code and notes"),
    "fixed_cut": (0.0, 0.0, "cut every failure at this share of its tokens, 0: try; version 2: .25, .5, .75"),
    "refresh_every": (0, 0, "steps after which to mine anew with the model of then; not found; ours"),
    "refresh_samples": (128, 64, "responses in which to look for a failure then; note on version 1"),
    "data": ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
             "problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; note on version 1"),
    "instruction": ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                    "text after each question; code has it as a system turn"),
    "steps": (1000, 60, "batches of samples to learn from; code: 2,000 updates"),
    "prompts_per_step": (10, 32, "questions in a batch; code"),
    "group_size": (16, 8, "responses to each question, G; code"),
    "temperature": (1.0, 1.0, "sampling temperature in training; default of the code's TRL"),
    "max_tokens": (6000, 64, "longest response, counted behind the prefix; code"),
    "lr": (1e-6, 1e-4, "learning rate of AdamW; code"),
    "warmup_steps": (0, 10, "steps over which the learning rate rises to its value; code: none"),
    "weight_decay": (0.1, 0.0, "AdamW's; code"),
    "adam_beta2": (0.99, 0.999, "AdamW's second beta; code (tiny: as in the other scripts)"),
    "max_grad_norm": (0.1, 0.5, "gradients longer than this are shortened to it; code"),
    "updates_per_batch": (2, 2, "passes over one batch, one optimizer step each; code"),
    "clip_low": (0.2, 0.2, "how far the ratio may fall below 1; code"),
    "clip_high": (0.4, 0.4, "how far the ratio may rise above 1; code"),
    "scale_by_std": (True, True, "divide advantages by the group's standard deviation; code"),
    "loss_type": ("token-mean", "token-mean", "what weighs the same in it; code", LOSS_TYPES),
    "beta": (0.0, 0.0, "weight of the KL term to the starting model; code"),
    "entropy_coef": (0.0, 0.0, "weight of an entropy bonus; code: none"),
    "eval_every": (100, 20, "steps between evaluations (one comes before step 1 and one at the end)"),
    "eval_samples": (1, 4, "responses to each held-out question; ours"),
    "final_eval_samples": (32, 0, "the same, before and after training, 0: as many; code (see docs/gpu.md)"),
    "eval_temperature": (0.6, 1.0, "sampling temperature in evaluation; code (tiny: as in training)"),
    "eval_max_tokens": (32000, 80, "longest response in evaluation, 0: --max-tokens; code"),
    "eval_sets": (
        ["math-ai/aime24@test", "math-ai/aime25@test", "HuggingFaceH4/MATH-500@test", "rawsh/2024_AMC12",
         "MathArena/hmmt_feb_2025"],
        ["tiny/test.jsonl", "tiny/harder.jsonl"], "held-out problem sets, as for --data; code"),
}


def first_failure(rollouts):
    """The first response that ended by itself with a wrong answer, or None: one cut off does not count."""
    return next((r for r in rollouts if r.finished and not r.right), None)


def prefix_of(ids, share):
    """The first part of a response: this share of its tokens, rounded down."""
    return ids[: int(share * len(ids) + 1e-9)]


def choose_cut(line, tau, fixed_cut=0.0):
    """The share of its tokens at which a failure is cut, and the success measured there (None: not measured).

    line: a line of the bank with "cuts", from short to long, and "rates". The cut whose rate is nearest to
    tau is taken, the shortest of several. fixed_cut: this one, whatever was measured. Raises InputError.

    >>> choose_cut({"cuts": [0.2, 0.5, 0.8], "rates": [0.9, 0.6, 0.4]}, tau=0.5)
    (0.5, 0.6)
    """
    if fixed_cut:
        return fixed_cut, dict(zip(line["cuts"], line["rates"])).get(fixed_cut)
    if not line["rates"]:
        raise InputError("the bank was mined with --fixed-cut: no success was measured; give --fixed-cut")
    distances = [round(abs(rate - tau), 9) for rate in line["rates"]]
    best = distances.index(min(distances))
    return line["cuts"][best], line["rates"][best]


def mine(questions, draw, *, samples, low, high, cuts, cut_samples, longest):
    """Screen questions, and try cuts of one failure of each saturated one -> a line of the bank for each.

    draw(questions, n): n scored rollouts of each -> list of lists. Saturated: low..high of its samples are
    right. Usable: one of the others ended by itself, and a cut of it makes a context of at most `longest`
    tokens; then its line has "failure", token ids, "cuts" and, unless cut_samples is 0, "rates". "tokens" and
    "cut_tokens": what screening and trying took, prompts and prefixes included.
    """
    lines, tried = [], []
    for question, group in zip(questions, draw(questions, samples), strict=True):
        right, prompt = sum(r.right for r in group), question["prompt_ids"]
        lines.append({"id": question["id"], "right": right, "of": samples, "tokens": drawn_tokens(group)})
        failure = first_failure(group) if low <= right <= high else None                               # (1)
        contexts = {cut: prompt + prefix_of(failure.completion_ids, cut) for cut in cuts if failure}
        contexts = {cut: context for cut, context in contexts.items() if len(context) <= longest}
        if contexts:
            lines[-1] |= {"failure": failure.completion_ids, "cuts": list(contexts), "rates": []}
            tried += [(lines[-1], question | {"prompt_ids": c}) for c in contexts.values() if cut_samples]
    groups = draw([question for _, question in tried], cut_samples)
    for (line, _), group in zip(tried, groups, strict=True):
        line["rates"].append(sum(r.right for r in group) / len(group))                                 # (2)
        line["cut_tokens"] = line.get("cut_tokens", 0) + drawn_tokens(group)
    return lines


def training_items(lines, problems, *, arm, tau, fixed_cut):
    """What an arm trains on -> problems with the prefix in prompt_ids, its length, "prefix", and its "rate".

    lines: of a bank. problems: by id. arm: "failure", or "plain" for no prefix.
    """
    items = []
    for line in lines:
        if "failure" in line:
            cut, rate = choose_cut(line, tau, fixed_cut) if arm == "failure" else (0, None)            # (2)
            prefix, question = prefix_of(line["failure"], cut), problems[line["id"]]
            context = question["prompt_ids"] + prefix                                                  # (3)
            items.append(question | {"prompt_ids": context, "prefix": len(prefix), "rate": rate})
    return items


def bank_lines(run, generation):
    """(1) (4) The lines of the bank, read, or mined with the present model. generation: how often before."""
    args, bank = run.args, run.out / "bank.jsonl"
    if args.bank and not generation:
        return run.given_record(args.bank, "id", "tokens", generation=0)
    pool = Shuffled(run.problems, args.seed).draw(len(run.problems))
    samples, low, high = args.screen_samples, args.saturated_low, args.saturated_high
    if generation:  # the same questions again; any failure will do, for few are left
        by_id = {problem["id"]: problem for problem in pool}
        pool = [by_id[line["id"]] for line in bank_lines(run, 0) if "failure" in line][: args.questions]
        samples, low, high = args.refresh_samples, 0, args.refresh_samples - 1
    cuts = [round(i / (args.cuts + 1), 3) for i in range(1, args.cuts + 1)]
    cuts, cut_samples = ([args.fixed_cut], 0) if args.fixed_cut else (cuts, args.cut_samples)

    def work(part, start):
        def draw(items, n):
            return run.draw(items, n, "mine", generation, start, len(items))

        return mine(part, draw, samples=samples, low=low, high=high, cuts=cuts, cut_samples=cut_samples,
                    longest=run.longest_prompt)

    def fill():
        return fill_record(
            bank, pool, work, args.questions, lambda line: "failure" in line, generation=generation)

    return run.record(bank, fill, generation * args.refresh_every, generation=generation)


def training_order(run, generation):
    """(3) The questions to train on, in order, and the tokens that mining took. Raises InputError."""
    args, problems = run.args, {problem["id"]: problem for problem in run.problems}
    lines = bank_lines(run, generation)
    items = training_items(lines, problems, arm=args.arm, tau=args.tau, fixed_cut=args.fixed_cut)
    items = [item for item in items if len(item["prompt_ids"]) <= run.longest_prompt][: args.questions]
    owes_cuts = args.arm == "failure" and not args.fixed_cut
    spent = sum(line["tokens"] + owes_cuts * line.get("cut_tokens", 0) for line in lines)
    if not items and generation:  # nothing fails any more: on with the prefixes of before
        return training_order(run, generation - 1)[0], spent
    if not items:
        raise InputError(f"--arm {args.arm}: no question to train on among {len(lines)} screened; widen "
                         "--saturated-low and --saturated-high, or screen other problems with --data")
    near = [abs(item["rate"] - args.tau) <= 0.25 for item in items if item.get("rate") is not None]
    run.say(f"{len(lines)} questions screened, {len(items)} to train on; success within .25 of tau behind "
            f"{sum(near)} of {len(near)} cuts" + ": try more --cuts" * (sum(near) < 0.7 * len(near)))
    return Shuffled(items, derive_seed(args.seed, generation)), spent


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    generation = max(0, run.done - 1) // args.refresh_every if args.refresh_every else 0
    order, mined_tokens = training_order(run, generation)
    run.restore(order=order)

    for step in run.steps(num_tokens=mined_tokens):
        mined_tokens = 0
        if args.refresh_every and step > 1 and (step - 1) % args.refresh_every == 0:                   # (4)
            run.save(step - 1, order=order)  # whoever stops the mining goes on from here
            generation = (step - 1) // args.refresh_every
            order, mined_tokens = training_order(run, generation)

        # ---- (b) sample ------------------------------------------------------------------------------------
        run.phase("sync")
        sampler.sync()
        run.phase("sample")
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]  # question and prefix                         # (3)
        golds = [q["answer"] for q in questions for _ in range(args.group_size)]
        seed = derive_seed(args.seed, "sample", step)
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, seed)
        sampler.sleep()

        # ---- (c) verify and advantage ----------------------------------------------------------------------
        run.phase("verify")
        counts = Counter()
        score_rollouts(rollouts, golds, tokenizer, run.reward, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage

        # ---- (d) update ------------------------------------------------------------------------------------
        run.phase("train")
        # Advantage 0 means gradient 0: not computed, but its tokens count in the loss's divisor.
        trained = rollouts if args.beta or args.entropy_coef else [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # no signal: the weights stay
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # these weights sampled: the ratio starts at 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    batch["importance_weights"] = importance_weights(batch, args.importance_cap)
                    batch["ref_per_token_logps"] = reference_logps(run.reference, batch)
                    sums["entropy"] += entropy.detach().sum().item()
                loss, statistics = grpo_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"],
                    batch["completion_mask"], clip_low=args.clip_low, clip_high=args.clip_high,
                    importance_weights=batch["importance_weights"], loss_type=args.loss_type,
                    num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
                    ref_per_token_logps=batch["ref_per_token_logps"], entropy_coef=args.entropy_coef,
                    entropy=entropy)
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            run.check_finite(step, batches, sums)
            gap = gap or sampling_gap(batches, step, run.max_logp_gap)
            grad_norm = run.optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = sum_over_ranks(sums)  # under torchrun, each rank has summed over its own micro-batches

        # ---- (e) log, evaluate, save -----------------------------------------------------------------------
        prefix_lengths = [q["prefix"] for q in questions for _ in range(args.group_size)]
        if step == 1:
            run.show_example(rollouts, golds, args.group_size, prefix_lengths)
        metrics = run.shared_metrics(rewards, rollouts, batches, sums)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        metrics["num_tokens"] += mined_tokens
        metrics |= {"prefix/length": sum(prefix_lengths) / len(rollouts), "prefix/generation": generation}
        run.finish_step(step, metrics, order=order)
    run.finish()
    train_arms(main, argv, run, args.compare, "--bank", args.bank or str(run.out / "bank.jsonl"))


if __name__ == "__main__":
    main()
