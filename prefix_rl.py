"""PrefixRL: learning from unsolved questions behind the start of an old right answer. arXiv 2601.18795.

    python prefix_rl.py                                           the tiny model on a laptop CPU, some minutes
    python prefix_rl.py --model meta-llama/Llama-3.1-8B-Instruct  the same code with the settings' left column

A question that the model practically never solves gives GRPO nothing: all answers of its group are wrong. But
whoever samples long enough gets a right one some day, and it has been paid for. PrefixRL does not imitate it.
It cuts it off, and lets the model go on from there:

    questions    those without a success in `screen_samples`; for each, samples until a right one, its trace
    prefixes     three a trace, at cuts drawn once, uniformly from 40 to 80 % of its tokens
    objective    sum over (question, prefix) of E[r(prefix + continuation)] + sum over questions of E[r]
    advantages   A_i = r_i - mean(r)      over the G responses to one context; REINFORCE with a group baseline
    loss         - sum over responses of A_i * sum over its tokens of per_token_logps / number of responses

What is learned behind the prefixes has to reach the questions without them, by the weights that both share.

What changes against grpo.py:

    (1) collect   find the unsolved questions; buy one right answer to each by rejection sampling  (section 5)
    (2) cut       the training set: three prefixes of every trace and the question itself          (section 5)
    (3) grade     the answer is looked for in prefix + continuation; the prefix carries no loss
    (4) update    REINFORCE with this baseline (section 5); no division by std(r), no clip: not found, ours
    (5) count     floating point operations: 2 N D to sample, 6 N D to train         (appendix F.2)

Read were title page and abstract, and of the body two readers' accounts, whose section numbers are given. The
loss is a sum over a response's tokens, so its gradient grows with their number; --max-grad-norm (not found;
ours) bounds it. Screening is in num_tokens, not in flops (the paper: not found). On the tiny task traces are
dear, most are right by accident, and it ends below plain RL (docs/prefix_rl.md). The paper's other model,
Qwen3-4B-Instruct (which checkpoint: not found), takes the same settings. Left out: distilling Llama on
OpenThoughtsV3 before; supervised and importance-weighted training on the traces, the paper's rivals:
results/prefix_rl_baselines.py.
"""

import random
from collections import Counter
from dataclasses import replace

import torch

from common import (
    LOSS_TYPES, batch_loss, collate, completion_logps, group_advantages, importance_weights, micro_batches,
    reference_logps, sampling_gap, score_rollouts)
from plumbing import InputError, derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.records import fill_record
from plumbing.run import Run, drawn_tokens, train_arms
from plumbing.settings import one_line_errors, parse_settings

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "arm": ("mixture", "mixture", "train with and without prefixes (mixture), with them, or without",
            ("mixture", "prefix-only", "plain")),
    "compare": ([], ["prefix-only", "plain"], "arms to train afterwards as well, on the same traces"),
    "traces": ("", "", "traces.jsonl of an earlier run, or of another model: nothing is collected"),
    "questions": (1000, 24, "unsolved questions with a trace to collect; section 5"),
    "screen_samples": (512, 512, "responses to an unsolved question, none of them right; section 5"),
    "max_attempts": (2500, 2500, "fresh responses in which to look for a right one; section 5"),
    "cuts": (3, 3, "prefixes of each trace; section 5"),
    "cut_from": (0.4, 0.4, "shortest prefix, as a share of the trace's tokens; section 5"),
    "cut_to": (0.8, 0.8, "longest prefix; section 5"),
    "max_flops": (0.0, 6e12, "stop when so many operations are spent, 0: never; to compare at equal cost"),
    "data": ("open-r1/DAPO-Math-17k-Processed:en", "tiny/train.jsonl",
             "problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; section 5 (a part)"),
    "instruction": ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                    "text after each question; not found; ours"),
    "steps": (400, 400, "batches of samples to learn from; appendix F.1"),
    "prompts_per_step": (128, 16, "contexts in a batch; appendix F.1 (contexts, not responses: our reading)"),
    "group_size": (8, 8, "responses to each context, n; section 5"),
    "temperature": (1.0, 1.0, "sampling temperature in training; not found; ours"),
    "max_tokens": (16384, 52, "longest continuation, counted behind the prefix; appendix F.1"),
    "lr": (1e-6, 1e-4, "learning rate of AdamW; appendix F.1 (tiny: the baseline's)"),
    "warmup_steps": (0, 10, "steps over which the learning rate rises to its value; not found; ours"),
    "weight_decay": (0.0, 0.0, "AdamW's; not found; ours"),
    "max_grad_norm": (1.0, 0.5, "gradients longer than this are shortened to it; not found; ours"),
    "scale_by_std": (False, False, "divide advantages by the group's standard deviation; not found; ours"),
    "loss_type": ("sequence-sum", "sequence-sum", "what weighs the same; not found; ours", LOSS_TYPES),
    "beta": (0.0, 0.0, "weight of the KL term to the starting model; not found; ours"),
    "entropy_coef": (0.0, 0.0, "weight of an entropy bonus; not found; ours"),
    "eval_every": (50, 20, "steps between evaluations (one comes before step 1 and one at the end)"),
    "eval_samples": (1, 4, "responses to each held-out question, and always to unsolved ones; ours"),
    "final_eval_samples": (256, 0, "to held-out ones before and after training, 0: as many; appendix F.2"),
    "eval_temperature": (0.7, 1.0, "sampling temperature in evaluation; appendix F.2 (tiny: as in training)"),
    "eval_sets": (["math-ai/aime25@test", "MathArena/hmmt_feb_2025"],
                  ["tiny/test.jsonl", "tiny/harder.jsonl"],
                  "held-out problem sets, as for --data; the paper's, without IMO-AnswerBench"),
}
PANELS = {"eval/unsolved/avg@n": "success on the unsolved questions",
          "prefix/reward_without": "reward without a prefix",
          "prefix/reward_with": "reward behind prefixes"}  # of curves.png


def find_trace(questions, draw, *, screen, attempts, block=64):
    """Which questions are unsolved, and one right answer to each of them (section 5) -> one line a question.

    draw(questions, n, purpose): n scored rollouts for each -> list of lists. Both jobs go by blocks and are
    over with the block that has the first right one: of "screened" responses, at most `screen`, "right" were
    right. Unsolved questions, where none was, also have "attempts" made after that, and "trace", the ids of
    the first right one. "screen_tokens", "tokens": what screening and attempts took, prompts included.
    """
    start = {"screened": 0, "right": 0, "attempts": 0, "screen_tokens": 0, "tokens": 0}
    lines = [{"id": question["id"], **start} for question in questions]
    by_id = {question["id"]: question for question in questions}

    def blocks(count, most, purpose, still_open):
        """Draw block by block for all lines that are open and have not had their most."""
        while open_lines := [line for line in lines if line[count] < most and still_open(line)]:
            made = open_lines[0][count]
            open_questions = [by_id[line["id"]] for line in open_lines]
            groups = draw(open_questions, min(block, most - made), (purpose, made))
            for line, group in zip(open_lines, groups, strict=True):
                line[count] += len(group)
                yield line, group

    for line, group in blocks("screened", screen, "screen", lambda line: not line["right"]):
        line["right"] += sum(r.right for r in group)
        line["screen_tokens"] += drawn_tokens(group)
    no_trace = lambda line: not line["right"] and "trace" not in line  # noqa: E731
    for line, group in blocks("attempts", attempts, "attempt", no_trace):
        line["tokens"] += drawn_tokens(group)
        if right := [r.completion_ids for r in group if r.right]:
            line["trace"] = right[0]                                                                   # (1)
    return lines


def training_set(questions, traces, *, arm, cuts, low, high, seed):
    """What an arm trains on -> problems whose prompt_ids include the prefix, and "prefix", its ids.

    questions: problems by id. traces: {id: ids}. The cuts depend on the seed and the question only: they are
    the same over the whole run, after a resume, and in every arm.
    """
    items = []
    for name, trace in traces.items():
        rng = random.Random(derive_seed(seed, "cuts", name))
        prefixes = [trace[: int(rng.uniform(low, high) * len(trace))] for _ in range(cuts)]
        for prefix in {"mixture": [*prefixes, []], "prefix-only": prefixes, "plain": [[]]}[arm]:       # (2)
            question = questions[name]
            items.append(question | {"prompt_ids": question["prompt_ids"] + prefix, "prefix": prefix})
    return items


def score_joined(rollouts, prefixes, golds, tokenizer, reward, counts):
    """Set each rollout's reward from its prefix and its own tokens together: either may hold the answer."""
    pairs = zip(rollouts, prefixes, strict=True)
    joined = [replace(rollout, completion_ids=prefix + rollout.completion_ids) for rollout, prefix in pairs]
    score_rollouts(joined, golds, tokenizer, reward, counts)                                           # (3)
    for rollout, whole in zip(rollouts, joined, strict=True):
        rollout.reward = whole.reward


def reinforce_loss(per_token_logps, advantages, completion_mask, *, importance_weights=None, **terms):
    """Minus advantage times log-probability of every token -> (loss, statistics).

    per_token_logps, completion_mask, importance_weights: (B, L-1). advantages: (B,). terms: as in
    common.batch_loss; the paper's loss_type is "sequence-sum": sum over a response's tokens, mean over the
    batch's responses.
    """
    weights = 1.0 if importance_weights is None else importance_weights
    per_token_loss = -(advantages[:, None] * (per_token_logps * weights))
    return batch_loss(per_token_loss, per_token_logps, completion_mask, **terms)                       # (4)


def flops(parameters, tokens, *, training):
    """Floating point operations for so many tokens, prompts and prefixes included (appendix F.2).

    >>> flops(10, 100, training=True)
    6000
    """
    return (6 if training else 2) * parameters * tokens                                                # (5)


def collect(run):
    """(1) Screen questions and buy traces, or read both -> {id: trace}, tokens of each. Raises InputError."""
    args = run.args

    def work(part, start):
        def draw(questions, n, purpose):
            return run.draw(questions, n, purpose, start)

        return find_trace(part, draw, screen=args.screen_samples, attempts=args.max_attempts)

    def fill():
        pool = Shuffled(run.problems, args.seed).draw(len(run.problems))
        return fill_record(record, pool, work, args.questions, lambda line: "trace" in line)

    record = run.out / "traces.jsonl"
    lines = run.given_record(args.traces, "id") if args.traces else run.record(record, fill)
    traces = {line["id"]: line["trace"] for line in lines if "trace" in line}
    traces = dict(list(traces.items())[: args.questions])
    spent = [sum(line.get(job, 0) for line in lines) for job in ("screen_tokens", "tokens")]
    unsolved = sum(not line.get("right") for line in lines)
    run.say(f"{len(lines)} questions, {unsolved} unsolved, {len(traces)} with a trace; {sum(spent):,} tokens")
    if not traces:
        raise InputError(f"data {args.data}: no unsolved question with a trace among {len(lines)}; raise "
                         "--max-attempts or lower --screen-samples")
    return traces, spent


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__, PANELS)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    parameters = sum(weight.numel() for weight in model.parameters())
    traces, (screened, bought) = collect(run)                                                          # (1)
    by_id = {problem["id"]: problem for problem in run.problems}
    items = training_set(                                                                              # (2)
        by_id, traces, arm=args.arm, cuts=args.cuts, low=args.cut_from, high=args.cut_to, seed=args.seed)
    items = [item for item in items if len(item["prompt_ids"]) <= run.longest_prompt]  # room to answer
    if not items:
        raise InputError(f"--max-tokens {args.max_tokens}: there is no room for so many behind a prefix")
    run.own_sets["unsolved"] = [by_id[name] for name in traces]
    order = Shuffled(items, args.seed)
    run.restore(order=order)
    owed = bought if args.arm != "plain" else 0  # whoever uses traces has paid for them

    for step in run.steps(flops=flops(parameters, owed, training=False), num_tokens=screened + owed):
        if 0 < args.max_flops <= run.last("flops"):  # spent, in this run or before its resume
            break
        # ---- (b) sample ------------------------------------------------------------------------------------
        run.phase("sync")
        sampler.sync()
        run.phase("sample")
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]
        golds = [q["answer"] for q in questions for _ in range(args.group_size)]
        prefixes = [q["prefix"] for q in questions for _ in range(args.group_size)]
        seed = derive_seed(args.seed, "sample", step)
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, seed)
        sampler.sleep()

        # ---- (c) verify and advantage ----------------------------------------------------------------------
        run.phase("verify")
        counts = Counter()
        score_joined(rollouts, prefixes, golds, tokenizer, run.reward, counts)                         # (3)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (contexts, G)
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
        for batch in batches:
            per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
            batch["old_per_token_logps"] = per_token_logps.detach()
            batch["importance_weights"] = importance_weights(batch, args.importance_cap)
            batch["ref_per_token_logps"] = reference_logps(run.reference, batch)
            sums["entropy"] += entropy.detach().sum().item()
            loss, statistics = reinforce_loss(                                                         # (4)
                per_token_logps, batch["advantages"], batch["completion_mask"],
                importance_weights=batch["importance_weights"],
                loss_type=args.loss_type, num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
                ref_per_token_logps=batch["ref_per_token_logps"], entropy_coef=args.entropy_coef,
                entropy=entropy)
            loss.backward()
            sums.update({"loss": loss.item(), **statistics})
        if batches:  # without a signal the weights stay as they are
            run.check_finite(step, batches, sums)
            gap = sampling_gap(batches, step, run.max_logp_gap)
            grad_norm = run.optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = sum_over_ranks(sums)  # under torchrun, each rank has summed over its own micro-batches

        # ---- (e) log, evaluate, save -----------------------------------------------------------------------
        if step == 1:
            run.show_example(rollouts, golds, args.group_size, list(map(len, prefixes)))
        metrics = run.shared_metrics(rewards, rollouts, batches, sums)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        cost = sum(flops(parameters, drawn_tokens(rollouts), training=half) for half in (False, True))
        metrics["flops"] = run.last("flops") + cost
        with_prefix = torch.tensor([bool(q["prefix"]) for q in questions])
        for name, part in (("with", with_prefix), ("without", ~with_prefix)):
            if part.any():
                metrics[f"prefix/reward_{name}"] = rewards[part].mean().item()
        run.finish_step(step, metrics, last=0 < args.max_flops <= metrics["flops"], order=order)
    run.finish()
    train_arms(main, argv, run, args.compare, "--traces", args.traces or str(run.out / "traces.jsonl"))


if __name__ == "__main__":
    main()
