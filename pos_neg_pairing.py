"""Positive-negative pairing and Weighted GRPO: training on two well chosen questions. arXiv 2602.03452.

    python pos_neg_pairing.py                                 the tiny model on a laptop CPU, some minutes
    python pos_neg_pairing.py --model Qwen/Qwen2.5-Math-7B    the same code with the settings' left column

Training on one or two questions works surprisingly well, if they are the right ones. Common advice is to take
those whose accuracy varies most. This paper pairs a question that is rarely right (q+: each success says
much) with one that is rarely wrong (q-: each failure says much):

    bands        q- was wrong in a share of 1/G to c/G of its answers in the probe, q+ (our guess: the mirror
                 image) right in such a share; both chosen once
    outcomes     R_i = 1 if right, -lambda_neg if wrong                                      (Weighted GRPO)
    advantages   A_i = (R_i - mean(R)) / (std(R) + 1e-6)     over the G responses of one copy of a question

The weight cancels. With a share p of right answers the outcomes have mean p - lambda_neg (1 - p) and standard
deviation (1 + lambda_neg) s, s that of the 0/1 rewards; so A of a right answer is

    (1 + lambda_neg)(1 - p) / ((1 + lambda_neg) s) = (1 - p) / s,           whatever lambda_neg is.

So read, Weighted GRPO is plain GRPO on the pair (--adv-mode per_prompt). What the paper normalises over could
not be found. --adv-mode role_pooled is the reading that gives the weight a role and fits the abstract best,
which reweights outcomes at the level of the pair: q+ counts successes (1, else 0), q- failures (-lambda_neg,
else 0), standardised together. Three more readings are in results/pos_neg_variants.py.

What changes against grpo.py:

    (1) probe     every question is answered `probe_samples` times; two are chosen, and probed again
    (2) batch     copies of the two fill it, each copy a group of its own
    (3) weight    outcomes in place of rewards, --lambda-neg and --adv-mode

The method's details were not open to us beyond its abstract and two digests: what is theirs and what comes
from the repository it builds on, One-Shot-RLVR, is told apart in the settings. Which questions were chosen
was not found either. With another reward (--reward) an answer is right if its reward is 1. On the tiny task
two questions bring about 2 points, whichever they are, the whole pool 13 (docs/pos_neg_pairing.md). Left out:
the two questions whose accuracy varied most, which the paper compares with: results/pos_neg_variants.py.
"""

import random
from collections import Counter

import torch

from common import (
    LOSS_TYPES, collate, completion_logps, group_advantages, grpo_loss, importance_weights, micro_batches,
    reference_logps, sampling_gap, score_rollouts)
from plumbing import InputError, derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.records import fill_record, write_lines
from plumbing.run import Run, drawn_tokens, train_arms
from plumbing.settings import one_line_errors, parse_settings

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "arm": ("pair", "pair", "what to train on; pair: q+ and q-; pool: all questions", ("pair", "pool")),
    "compare": ([], ["pool"], "arms to train afterwards as well"),
    "hard_data": ("math-ai/aime25@test", "", "problems to pick q+ from, if not from --data; digest"),
    "probe_samples": (128, 32, "responses to each question in the probe; not found; ours"),
    "chosen": ("", "", "chosen.jsonl of an earlier run, whose two questions to take: nothing is probed"),
    "questions": (1209, 400, "questions of the pool, picked by the seed, 0: all; digest: 1,209 of --data"),
    "band": (2, 2, "c: most failures of q- among G; digest, value not found, and its mirror for q+; ours"),
    "adv_mode": ("per_prompt", "per_prompt", "what advantages are normalised over: see pair_advantages",
                 ("per_prompt", "role_pooled")),
    "lambda_neg": (1.0, 1.0, "weight of wrong answers; digest, value not found; ours"),
    "data": ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
             "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; digest"),
    "instruction": (" Let's think step by step and output the final answer within \\boxed{}.", "",
                    "text after each question; base repository"),
    "steps": (200, 50, "batches of samples to learn from; not found; ours"),
    "prompts_per_step": (128, 32, "copies in a batch, half of each question; base repository"),
    "group_size": (8, 8, "responses to each copy, G; base repository"),
    "temperature": (0.6, 1.0, "sampling temperature in training; base repository"),
    "max_tokens": (3072, 52, "longest response; digest"),
    "lr": (1e-6, 1.5e-4, "learning rate of AdamW; base repository"),
    "warmup_steps": (0, 10, "steps over which the learning rate rises to its value; base repository: none"),
    "weight_decay": (0.01, 0.0, "AdamW's; base repository"),
    "max_grad_norm": (1.0, 0.5, "gradients longer than this are shortened to it; base repository"),
    "updates_per_batch": (1, 1, "passes over a batch; base repository (1: the clip never acts)"),
    "clip_low": (0.2, 0.2, "how far the ratio may fall below 1; base repository"),
    "clip_high": (0.2, 0.2, "how far the ratio may rise above 1; base repository"),
    "scale_by_std": (True, True, "divide advantages by the standard deviation; base repository"),
    "loss_type": ("token-mean", "token-mean", "what weighs the same in it; base repository", LOSS_TYPES),
    "beta": (0.001, 0.0, "weight of the KL term to the starting model; base repository"),
    "entropy_coef": (0.001, 0.0, "weight of an entropy bonus; base repository"),
    "eval_every": (20, 25, "steps between evaluations (one comes before step 1 and one at the end)"),
    "eval_samples": (4, 8, "responses to each held-out question; ours"),
    "final_eval_samples": (128, 0, "the same, before and after training, 0: as many; not found; ours"),
    "eval_temperature": (0.6, 1.0, "sampling temperature in evaluation; not found; ours"),
    "eval_sets": (["math-ai/aime25@test", "math-ai/amc23@test"], ["tiny/test.jsonl", "tiny/harder.jsonl"],
                  "held-out problem sets, as for --data; abstract (without the question that is trained on)"),
}
PANELS = {r"eval/[^/]+/pass@8": "held-out pass@8", r"pair/reward_.*": "success on the two questions",
          r"pair/mixed_.*": "share of their copies with a signal"}  # of curves.png


def choose_pair(rates, *, group_size, band, rng, hard=None):
    """(1) Ids of q+ and q-, drawn by rng from the bands [1/G, c/G], ours, and [1 - c/G, 1 - 1/G].

    rates: {id: share of right answers}. band: c. hard: ids that q+ has to come from, and q- not (None: no
    matter). Raises InputError if a band is empty.
    """
    low, high = 1 / group_size, band / group_size
    positive = [q for q, rate in rates.items() if low <= rate <= high and (hard is None or q in hard)]
    negative = [q for q, rate in rates.items() if low <= 1 - rate <= high and (hard is None or q not in hard)]
    for name, found in (("q+", positive), ("q-", negative)):
        if not found:
            raise InputError(f"--arm pair: none of {len(rates)} probed questions is in the band of {name}; "
                             "take more (--questions), or widen --band")
    return rng.choice(positive), rng.choice(negative)


def probe(run, problems):
    """(1) `probe_samples` responses to each problem -> {"id", "right", "tokens"} of each, in probe.jsonl."""
    def work(part, start):  # thousands of responses at a time, of which counts are kept
        groups = run.draw(part, run.args.probe_samples, "probe", start)
        return [{"id": problem["id"], "right": sum(r.right for r in group), "tokens": drawn_tokens(group)}
                for problem, group in zip(part, groups, strict=True)]

    return fill_record(run.out / "probe.jsonl", problems, work, len(problems), bool)


def find_pair(run, pool, hard):
    """(1) Probe and choose -> q+ and q-, problems with "role" 1 and -1, and the tokens that took.

    pool, hard: problems; if hard is not empty, q+ is one of these. A resumed run reads them from
    chosen.jsonl, and --chosen from that of another run. Raises InputError.
    """
    args, record = run.args, run.out / "chosen.jsonl"
    hard = [problem | {"id": f"hard {problem['id']}"} for problem in hard]  # the pool's are numbers too
    by_id = {problem["id"]: problem for problem in [*run.problems, *hard]}

    def choose():
        probed = probe(run, [*pool, *hard])
        rates = {line["id"]: line["right"] / args.probe_samples for line in probed}
        rng = random.Random(derive_seed(args.seed, "choose", 0))
        hard_ids = {problem["id"] for problem in hard} or None
        names = choose_pair(rates, group_size=args.group_size, band=args.band, rng=rng, hard=hard_ids)
        # Who was chosen for a rate was lucky in the probe: fresh samples say what the rate is.
        again = run.draw([by_id[name] for name in names], args.probe_samples, "again", 0)
        spent = sum(line["tokens"] for line in probed) + sum(map(drawn_tokens, again))
        lines = [{"id": name, "role": role, "problem": by_id[name]["problem"], "probe": rates[name],
                  "again": sum(r.right for r in fresh) / len(fresh), "tokens": spent / 2}
                 for name, role, fresh in zip(names, (1, -1), again)]
        write_lines(record, lines)
        return lines

    if args.chosen:
        columns = ("id", "role", "probe", "again", "tokens")
        lines = run.given_record(args.chosen, *columns, problems=by_id.values())
    else:
        lines = run.record(record, choose)
    pair = [by_id[line["id"]] | {"role": line["role"]} for line in lines]
    for line, question, name in zip(lines, pair, ("q+", "q-")):
        run.say(f"{name}: {question['problem']!r}; share of right answers in the probe {line['probe']:.2f}, "
                f"in fresh samples {line['again']:.2f}")
    return pair, round(sum(line["tokens"] for line in lines))


def hold_out(run, pair):
    """Take what is trained on out of the evaluation sets. Raises InputError if nothing is left of one."""
    trained_on = {str(question["problem"]) for question in pair}
    for name, problems in run.eval_sets.items():
        run.eval_sets[name] = [p for p in problems if str(p["problem"]) not in trained_on]
        if not run.eval_sets[name]:
            raise InputError(f"--eval-sets: {name} holds nothing but what is trained on; name another set")


def pair_advantages(rewards, roles, mode="per_prompt", lambda_neg=1.0, scale_by_std=True):
    """(3) Advantages (copies, G) from rewards (copies, G) and roles (copies,): 1 for q+, -1 for q-, else 0.

    per_prompt    outcomes 1 and -lambda_neg, each copy standardised alone: the weight cancels
    role_pooled   q+ counts successes (1, else 0), q- failures (-lambda_neg, else 0), standardised over a copy
                  of q+ and one of q- together

    Standard deviations have the divisor n - 1 and 1e-6 is added, as in the base repository. Raises InputError
    if role_pooled gets something else than pairs.

    >>> pair_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([1])).round(decimals=2).tolist()
    [[1.5, -0.5, -0.5, -0.5]]
    """
    right, positive, negative = rewards == 1, roles == 1, roles == -1
    if mode == "per_prompt":
        outcomes = torch.where(right, 1.0, -lambda_neg)
        return group_advantages(outcomes, scale_by_std, eps=1e-6)
    if not positive.sum() == negative.sum() == len(roles) / 2:
        raise InputError(f"--adv-mode {mode} pools a copy of q+ with one of q-: it goes with --arm pair")
    outcomes = torch.where(positive[:, None], right.float(), -lambda_neg * (~right).float())
    pooled = torch.cat([outcomes[positive], outcomes[negative]], 1)  # (pairs, 2G)
    advantages = torch.zeros_like(rewards)
    advantages[positive], advantages[negative] = group_advantages(pooled, scale_by_std, eps=1e-6).chunk(2, 1)
    return advantages


def pair_metrics(rewards, roles):
    """Success of q+ and of q-, and the share of their copies that have a signal; nothing without roles."""
    metrics = {}
    mixed = (rewards != rewards[:, :1]).any(1)  # (copies,)
    for name, role in (("positive", 1), ("negative", -1)):
        mine = roles == role
        if mine.any():
            metrics[f"pair/reward_{name}"] = rewards[mine].mean().item()
            metrics[f"pair/mixed_{name}"] = mixed[mine].float().mean().item()
    return metrics


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__, PANELS)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    pool = Shuffled(run.problems, args.seed).draw(min(args.questions or len(run.problems), len(run.problems)))
    order, pair, spent = Shuffled(pool, args.seed), [], 0
    if args.chosen or "pair" in (args.arm, *args.compare):
        hard = run.load(args.hard_data, run.longest_prompt) if args.hard_data else []
        pair, spent = find_pair(run, pool, hard)                                                       # (1)
    hold_out(run, pair)  # whatever the arm: all of a run are evaluated on the same questions
    run.restore(order=order)

    for step in run.steps(num_tokens=spent if args.arm == "pair" else 0):
        # ---- (b) sample ------------------------------------------------------------------------------------
        run.phase("sync")
        sampler.sync()
        run.phase("sample")
        if args.arm == "pair":
            questions = [pair[i % 2] for i in range(args.prompts_per_step)]  # half of the batch each  # (2)
        else:
            questions = order.draw(args.prompts_per_step)
        roles = torch.tensor([q.get("role", 0) for q in questions])
        contexts = [q["prompt_ids"] for q in questions]
        golds = [q["answer"] for q in questions for _ in range(args.group_size)]
        seed = derive_seed(args.seed, "sample", step)
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, seed)
        sampler.sleep()

        # ---- (c) verify and advantage ----------------------------------------------------------------------
        run.phase("verify")
        counts = Counter()
        score_rollouts(rollouts, golds, tokenizer, run.reward, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (copies, G)
        advantages = pair_advantages(rewards, roles, args.adv_mode, args.lambda_neg, args.scale_by_std)  # (3)
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
        if step == 1:
            run.show_example(rollouts, golds, args.group_size)
        metrics = run.shared_metrics(rewards, rollouts, batches, sums)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        metrics |= pair_metrics(rewards, roles)
        run.finish_step(step, metrics, order=order)
    run.finish()
    train_arms(main, argv, run, args.compare, "--chosen", args.chosen or str(run.out / "chosen.jsonl"))


if __name__ == "__main__":
    main()
