"""LTE, Learning to reason from Trial and Error: retry with a hint at one's own errors. arXiv 2510.26109.

    python lte.py                                  the tiny model on a laptop CPU, some minutes
    python lte.py --model Qwen/Qwen3-8B-Base       the same code with the left column of the settings below

A question whose answers are all wrong gives GRPO nothing. LTE asks it once more, with a hint made of nothing
but those answers: these are wrong. What comes out right takes the place of wrong answers in the group, and is
learned as an answer to the question without the hint:

    hint         none of the G answers cut off: the list of wrong answers; some: the list, and a request to be
                 concise; all: the request alone
    group        G' right answers under the hint replace G' of the G wrong ones, picked at random; wrong ones
                 under the hint are dropped
    advantages   as in grpo.py, over the G members of the group so refined
    ratio        plain members:  r = pi(token | question) / pi_old(token | question)       min(r A, clip(r) A)
                 hinted members: r = pi(token | question) / pi_old(token | question, hint)   r / (r + gamma) A
    loss         - sum over tokens of both / number of tokens of both

The ratio of hinted members compares two prompts and is not 1 even before the first update: the model is drawn
most to tokens gamma times as likely without the hint as with it, hardly to those it would write anyway.

What changes against grpo.py:

    (1) hint      questions with no right answer get `group_size` more responses, under the hint
    (2) refine    right ones among these replace wrong ones, under the plain question
    (3) loss      the shaped ratio for hinted members
    (4) count     questions with no, some and only right answers are counted before any hint

Read were abstracts, version 1's figures ("figures" below) and digests. Not found, and ours: duplicates in the
list, an empty or too long one (no hint), G' = G (all right then: no gradient), one count of tokens for both
kinds of members, gamma, clip, learning rate, no KL term. Left out: methods with solutions from outside. On
the tiny task pass@8 ends at 77, grpo.py's at 72, with an entropy bonus at 86 in both (docs/lte.md).
"""

import random
from collections import Counter
from dataclasses import dataclass, replace

import torch

from common import (
    LOSS_TYPES, Rollout, batch_loss, build_prompt, collate, completion_logps, group_advantages, grpo_loss,
    importance_weights, micro_batches, reference_logps, sampling_gap, score_rollouts)
from plumbing import derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.run import Run, train_arms
from plumbing.settings import one_line_errors, parse_settings
from plumbing.verifier import last_boxed

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "arm": ("lte", "lte", "all-wrong questions get: lte: tries with a hint; extra: without; grpo: none",
            ("lte", "grpo", "extra")),
    "compare": ([], ["grpo", "extra"], "arms to train afterwards as well"),
    "gamma": (0.1, 0.1, "of the shaped ratio r / (r + gamma); not found; LUFFY's, whose shaping it is"),
    "hint": ("\nHint: possible incorrect answers include {}.\nDo not use or mention this hint explicitly in "
             "any intermediate step.", " not {}", "text after the question; {}: the wrong answers; figures"),
    "hint_separator": (", ", " not ", "text between two wrong answers; not found; ours"),
    "concise": ("\nPlease think concisely, and put your final answer within \\boxed{}.", " brief",
                "in place of --instruction where responses were cut off; figures"),
    "data": ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
             "problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; not found; ours"),
    "instruction": ("\nPlease think step by step, and put your final answer within \\boxed{}.", "",
                    "text after each question; figures"),
    "steps": (500, 100, "batches of samples to learn from; digest"),
    "prompts_per_step": (128, 48, "questions in a batch; figures"),
    "group_size": (8, 8, "responses to each question, G, and as many under a hint; digest"),
    "temperature": (1.0, 1.0, "sampling temperature in training; digest"),
    "max_tokens": (8192, 52, "longest response; digest"),
    "lr": (1e-6, 1e-4, "learning rate of AdamW; not found; ours"),
    "warmup_steps": (0, 10, "steps over which the learning rate rises to its value; not found; ours"),
    "weight_decay": (0.1, 0.0, "AdamW's; not found; DAPO's code"),
    "max_grad_norm": (1.0, 0.5, "gradients longer than this are shortened to it; not found; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over a batch, a step each; not found; ours (1: the clip never acts)"),
    "clip_low": (0.2, 0.2, "how far the ratio may fall below 1; not found; ours"),
    "clip_high": (0.2, 0.2, "how far the ratio may rise above 1; not found; ours"),
    "scale_by_std": (True, True, "divide advantages by the group's standard deviation; not found; ours"),
    "loss_type": ("token-mean", "token-mean", "what weighs the same in it; not found; ours", LOSS_TYPES),
    "beta": (0.0, 0.0, "weight of the KL term to the starting model; not found; ours"),
    "entropy_coef": (0.0, 0.0, "weight of an entropy bonus; the paper has a variant with one; not found"),
    "eval_every": (25, 25, "steps between evaluations (one comes before step 1 and one at the end); ours"),
    "eval_samples": (1, 4, "responses to each held-out question; ours (figures: 4, on a set not found)"),
    "final_eval_samples": (4, 0, "the same, before and after training, 0: as many; derived from tables"),
    "eval_temperature": (1.0, 1.0, "sampling temperature in evaluation; not found; ours: as in training"),
    "eval_sets": (["HuggingFaceH4/MATH-500@test", "math-ai/minervamath@test", "math-ai/amc23@test",
                   "math-ai/aime24@test", "math-ai/aime25@test", "Hothan/OlympiadBench:OE_TO_maths_en_COMP"],
                  ["tiny/test.jsonl", "tiny/harder.jsonl"], "held-out problem sets, as for --data; digest"),
}
PANELS = {"hint/none_pass": "questions with no right answer", r"eval/[^/]+/pass@4": "held-out pass@4",
          "hint/refine_rate": "all-wrong questions with a rescue"}  # of curves.png


@dataclass
class Hinted(Rollout):
    """A response that was sampled from asked_ids, with the hint, as its logps say. prompt_ids: without."""
    asked_ids: list = None


def wrong_answers(rollouts, texts):
    """The answers of responses that ended by themselves, once each, in order; what has no box is left out."""
    boxes = [last_boxed(text) for rollout, text in zip(rollouts, texts, strict=True) if rollout.finished]
    return list(dict.fromkeys(box.strip() for box in boxes if box and box.strip()))


def hinted_question(question, answers, cut_off, *, hint, separator, instruction, concise):
    """(1) What a question is asked again with -> text, or None if there is nothing to hint at.

    >>> hinted_question("1+1?", ["3"], 0, hint=" Not {}.", separator=",", instruction=" Think.", concise="")
    '1+1? Not 3. Think.'
    """
    if not answers and not cut_off:
        return None
    listed = hint.replace("{}", separator.join(answers)) if answers else ""
    return question + listed + (concise if cut_off else instruction)


def retry_prompts(questions, groups, tokenizer, **texts):
    """(1) Prompt ids to ask all-wrong questions again with, or None. groups: G responses to each."""
    prompts = []
    for question, group in zip(questions, groups, strict=True):
        responses = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in group]
        cut_off = any(not r.finished for r in group)
        said = question["problem"]  # a text, or chat messages, of which the last one gets the hint
        *before, last = [{"role": "user", "content": said}] if isinstance(said, str) else said
        text = hinted_question(last["content"], wrong_answers(group, responses), cut_off, **texts)
        prompts.append(build_prompt(tokenizer, [*before, last | {"content": text}], "") if text else None)
    return prompts


def refine(group, retries, rng):
    """(2) Right retries take the places of as many wrong members, picked at random -> group, their number."""
    right = [r for r in retries if r.right][: len(group)]
    refined = list(group)
    for member, rollout in zip(rng.sample(range(len(group)), len(right)), right, strict=True):
        refined[member] = rollout
    return refined, len(right)


def retry_all_wrong(run, step, questions, rollouts):
    """Ask questions without a right answer once more; right retries take the place of wrong answers.

    rollouts: G of each question -> members of the refined groups, all retries, right ones of each question.
    """
    args, size, num_rescued = run.args, run.args.group_size, []
    groups = [rollouts[i : i + size] for i in range(0, len(rollouts), size)]
    all_wrong = [i for i, group in enumerate(groups) if not any(r.right for r in group)]
    prompts = [questions[i]["prompt_ids"] for i in all_wrong if args.arm == "extra"]
    if args.arm == "lte":
        prompts = retry_prompts(
            [questions[i] for i in all_wrong], [groups[i] for i in all_wrong], run.tokenizer, hint=args.hint,
            separator=args.hint_separator, instruction=args.instruction, concise=args.concise)
    prompts = [prompt if prompt and len(prompt) <= run.longest_prompt else None for prompt in prompts]
    asked = {i: questions[i] | {"prompt_ids": prompt} for i, prompt in zip(all_wrong, prompts) if prompt}
    retries = run.draw(list(asked.values()), size, "again", step)                                      # (1)
    for i, tries in zip(asked, retries):
        if args.arm == "lte":  # learned as answers to the plain question
            plain = {"prompt_ids": questions[i]["prompt_ids"], "asked_ids": asked[i]["prompt_ids"]}
            tries = [Hinted(**vars(r) | plain) for r in tries]
        rng = random.Random(derive_seed(args.seed, "refine", step, i))
        groups[i], rescued = refine(groups[i], tries, rng)                                             # (2)
        num_rescued.append(rescued)
    return [r for group in groups for r in group], [r for tries in retries for r in tries], num_rescued


def logps_under_hint(model, batch):
    """(3) Log-probabilities of the hinted members' tokens given the hint (B, L-1), without gradient."""
    asked = collate([replace(r, prompt_ids=r.asked_ids) for r in batch["members"]], model.device)
    with torch.no_grad():
        logps = completion_logps(model, asked, asked["temperatures"])[0][asked["completion_mask"]]
    return batch["sampling_per_token_logps"].masked_scatter(batch["completion_mask"], logps)


def lte_loss(per_token_logps, old_per_token_logps, advantages, completion_mask, *, hinted, gamma, clip_low,
             clip_high, importance_weights, **terms):
    """(3) GRPO's loss for plain members, the shaped ratio for hinted ones -> (loss, statistics).

    Log-probs, mask, importance_weights (B, L-1); old ones of hinted members: under the hint. advantages (B,).
    hinted: whether all are, or none. terms: as in common.batch_loss. statistics: sums over tokens.
    """
    if not hinted:
        return grpo_loss(per_token_logps, old_per_token_logps, advantages, completion_mask, clip_low=clip_low,
                         clip_high=clip_high, importance_weights=importance_weights, **terms)
    difference = per_token_logps - old_per_token_logps
    ratio = difference.exp()
    per_token_loss = -(ratio / (ratio + gamma) * advantages[:, None])
    loss, statistics = batch_loss(per_token_loss, per_token_logps, completion_mask, **terms)
    weight = gamma * ratio / (ratio + gamma) ** 2  # of the log-probability's gradient, in place of the ratio
    return loss, statistics | {
        "hint/log_ratio": (difference * completion_mask).sum().item(),
        "hint/weight": (weight * completion_mask).sum().item(),
        "hint/tokens": completion_mask.sum().item()}


def hint_metrics(initial, refined, num_rescued, sums):
    """What the hints did. initial, refined (questions, G): rewards. num_rescued: right retries of each."""
    none, full = (initial < 1).all(1).sum().item(), (initial == 1).all(1).sum().item()
    tokens = max(1, sums["hint/tokens"])
    return {
        "hint/none_pass": none, "hint/some_pass": len(initial) - none - full, "hint/all_pass": full,
        "hint/zero_std_after": (refined == refined[:, :1]).all(1).float().mean().item(),
        "hint/refine_rate": sum(rescued > 0 for rescued in num_rescued) / max(1, len(num_rescued)),
        "hint/rescued": sum(num_rescued) / max(1, len(num_rescued)), "hint/asked": len(num_rescued),
        "hint/log_ratio": sums["hint/log_ratio"] / tokens, "hint/weight": sums["hint/weight"] / tokens}


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__, PANELS)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    order = Shuffled(run.problems, args.seed)
    run.restore(order=order)

    for step in run.steps():
        # ---- (b) sample ------------------------------------------------------------------------------------
        run.phase("sync")
        sampler.sync()
        run.phase("sample")
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]
        golds = [q["answer"] for q in questions for _ in range(args.group_size)]
        seed = derive_seed(args.seed, "sample", step)
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, seed)

        # ---- (c) verify and advantage ----------------------------------------------------------------------
        run.phase("verify")
        counts = Counter()
        score_rollouts(rollouts, golds, tokenizer, run.reward, counts)
        initial = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)   (4)
        members, retries, num_rescued = retry_all_wrong(run, step, questions, rollouts)            # (1) (2)
        sampler.sleep()
        rewards = torch.tensor([r.reward for r in members]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(members, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage

        # ---- (d) update ------------------------------------------------------------------------------------
        run.phase("train")
        # Advantage 0 means gradient 0: not computed, but its tokens count in the loss's divisor.
        trained = members if args.beta or args.entropy_coef else [r for r in members if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in members)
        batches = []
        for hinted in (True, False):  # a micro-batch has one kind of members
            kind = [r for r in trained if isinstance(r, Hinted) == hinted]
            for part in micro_batches(kind, args.micro_batch_tokens):
                batches.append(collate(part, model.device) | {"hinted": hinted, "members": part})
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # no signal: the weights stay
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # these weights sampled: the ratio starts at 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    if batch["hinted"]:  # but under the hint: here the ratio does not start at 1
                        batch["old_per_token_logps"] = logps_under_hint(model, batch)
                    batch["importance_weights"] = importance_weights(batch, args.importance_cap)
                    batch["ref_per_token_logps"] = reference_logps(run.reference, batch)
                    sums["entropy"] += entropy.detach().sum().item()
                loss, statistics = lte_loss(                                                           # (3)
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"],
                    batch["completion_mask"], hinted=batch["hinted"], gamma=args.gamma,
                    clip_low=args.clip_low, clip_high=args.clip_high,
                    importance_weights=batch["importance_weights"], loss_type=args.loss_type,
                    num_tokens=num_tokens, num_sequences=len(members), beta=args.beta,
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
            run.show_example(members, golds, args.group_size)
        metrics = run.shared_metrics(initial, rollouts, batches, sums, further=retries)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        metrics |= hint_metrics(initial, rewards, num_rescued, sums)
        run.finish_step(step, metrics, order=order)
    run.finish()
    train_arms(main, argv, run, args.compare)


if __name__ == "__main__":
    main()
