"""ERPO: learning from solved questions by raising each one's own sampling temperature. arXiv 2511.04800.

    python erpo.py                              the tiny model on a laptop CPU, some minutes
    python erpo.py --model Qwen/Qwen2.5-7B      the same code with the left column of the settings below

The longer a model is trained, the more questions give groups that are all right, and DAPO throws these away.
They are solved, but not safe: at a higher temperature wrong answers appear again. ERPO (Explore Residual
Prompts) remembers every question. One that came out all right is sampled hotter the next time, and a group
that is all right teaches a little all the same, as if one imaginary wrong answer had been in it:

    temperature  T_q = min(T_q + t_step, t_max) after a visit of question q that was all right, from
    `temperature` on
    advantages   as in grpo.py for mixed groups; for an all-right group 1 / sqrt(G + 1) for every response
                 (RA, reactivated advantage)
    refilling    all-wrong groups are dropped, and more questions drawn until the batch is full, at most
                 max_draws times; without RA, all-right groups are dropped too: that is DAPO
    loss         that of grpo.py, with log-probabilities at `temperature` whatever T_q it was sampled at

The paper's method section was not open to us: what is known of it comes from its abstract and from public
reviews and digests. It is known that the base is DAPO, that the temperature belongs to a question, rises when
its group is all right and has a cap, and that RA brings a small pseudo negative reward into all-right groups.
Not known, and ours: every number of these parts, the formula of RA, what happens to T when a question is not
all right any more (here: it stays), and how heated responses are scored. Each is a setting below; other
readings are in results/erpo_variants.py.

What changes against grpo.py:

    (1) track     each question has a temperature of its own
    (2) refill    groups without a signal are replaced, DAPO's dynamic sampling
    (3) RA        all-right groups get a small positive advantage
    (4) score     at which temperature a heated response is scored, --score

With another reward (--reward) "all right" is a group whose every reward is 1. The paper's other model,
Qwen2.5-3B, takes the same settings. Other than in DAPO: one update a batch and no mini-batches, where its
code makes 16; no second clip at ratio 10 for negative advantages (verl's); a batch that is still short
after max_draws is trained on; no penalty for overlong responses, which would give all-right groups a variance
of another kind. Rewards are 1 and 0 as in grpo.py: DAPO's 1 and -1 have the same advantages, but for the 1e-4
under them. On the tiny task it ends below DAPO after as many updates: why, docs/erpo.md.
"""

from collections import Counter

import torch

from common import (
    LOSS_TYPES, collate, completion_logps, group_advantages, grpo_loss, importance_weights, micro_batches,
    reference_logps, sampling_gap, score_rollouts)
from plumbing import derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.run import Run, train_arms
from plumbing.settings import one_line_errors, parse_settings

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "arm": ("erpo", "erpo", "dapo: neither; ra: (3) alone; temp: (1) alone; erpo: both",
            ("dapo", "ra", "temp", "erpo")),
    "compare": ([], ["dapo", "ra"], "arms to train afterwards as well"),
    "t_step": (0.05, 0.05, "how much hotter a question gets at a time; not found; ours"),
    "t_max": (1.2, 1.5, "highest temperature; the paper has one, its value was not found; ours"),
    "score": ("score_T0", "score_T0", "log-probabilities are taken at; score_T0: the temperature of the "
              "start; score_T: what a response was sampled at; not found; ours", ("score_T0", "score_T")),
    "max_draws": (10, 10, "how often questions are drawn to fill one batch; DAPO's code"),
    "questions": (0, 192, "training questions, picked by the seed, 0: all; tiny: each comes up often"),
    "data": ("open-r1/DAPO-Math-17k-Processed:en", "tiny/train.jsonl",
             "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; not found; "
             "ours, as in the author's next project"),
    "instruction": ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                    "text after each question; Qwen2.5-Math's own"),
    "steps": (175, 75, "batches of samples to learn from; reviews of the paper"),
    "prompts_per_step": (256, 16, "questions in a batch; ours, as in the author's next project"),
    "group_size": (8, 8, "responses to each question, G; ours, as in the same author's next project"),
    "temperature": (1.0, 1.0, "sampling temperature in training, at first; not found; DAPO's code"),
    "max_tokens": (3000, 52, "longest response; not found; ours"),
    "lr": (1e-6, 1e-4, "learning rate of AdamW; DAPO section 4.1"),
    "warmup_steps": (10, 10, "steps over which the learning rate rises; as in the author's next project"),
    "weight_decay": (0.1, 0.0, "AdamW's; DAPO's code"),
    "max_grad_norm": (1.0, 0.5, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over a batch, an optimizer step each; ours (1: the clip never acts)"),
    "clip_low": (0.2, 0.2, "how far the ratio may fall below 1; DAPO section 4.1"),
    "clip_high": (0.28, 0.28, "how far the ratio may rise above 1; DAPO section 4.1"),
    "scale_by_std": (True, True, "divide advantages by the group's standard deviation; DeepSeekMath 4.1.2"),
    "loss_type": ("token-mean", "token-mean", "what weighs the same in it; DAPO section 3.3", LOSS_TYPES),
    "beta": (0.0, 0.0, "weight of the KL term to the starting model; DAPO section 2.3"),
    "entropy_coef": (0.0, 0.0, "weight of an entropy bonus; DAPO uses none"),
    "eval_every": (20, 25, "steps between evaluations (one comes before step 1 and one at the end)"),
    "eval_samples": (2, 4, "responses to each held-out question; ours"),
    "final_eval_samples": (4, 0, "the same, before and after training, 0: as many; reviews: 4 on MATH-500"),
    "eval_temperature": (1.0, 1.0, "sampling temperature in evaluation; ours: as in training"),
    "eval_sets": (
        ["HuggingFaceH4/MATH-500@test", "math-ai/aime24@test", "math-ai/aime25@test", "math-ai/amc23@test"],
        ["tiny/test.jsonl", "tiny/harder.jsonl"], "held-out problem sets, as for --data; reviews"),
}
PANELS = {"temperature/mean": "mean temperature of the questions",
          "temperature/at_max": "share of questions at the cap",
          "temperature/draws": "draws to fill a batch"}  # of curves.png


class Tracker:
    """(1) The temperature of every question. Goes into checkpoints.

    start: that of a question that was never visited; step: how much it rises; highest: its cap. Keys are
    question ids, which are the same in every epoch.
    """

    def __init__(self, start, step, highest):
        self.start, self.step, self.highest = start, step, highest
        self.temperatures = {}

    def temperature(self, question):
        """At which temperature the question is sampled now."""
        return self.temperatures.get(question, self.start)

    def update(self, question, rewards):
        """Take note of one group, rewards (G,). The new temperature holds from the next visit on."""
        temperature = self.temperature(question)
        if (rewards == 1).all():
            temperature = min(temperature + self.step, self.highest)
        self.temperatures[question] = temperature

    def metrics(self):
        """Mean temperature of the questions visited so far, and the share of them at the cap."""
        temperatures = sorted(self.temperatures.values())
        return {"temperature/mean": sum(temperatures) / len(temperatures),
                "temperature/at_max": sum(t >= self.highest for t in temperatures) / len(temperatures)}

    def state_dict(self):
        return {"temperatures": self.temperatures}

    def load_state_dict(self, state):
        self.temperatures = state["temperatures"]


def ra_advantage(group_size):
    """(3) The advantage of every response of an all-right group. Positive: the responses are right.

    One wrong response is put into the group's mean and standard deviation (divisor G), and the G real ones
    are trained on: whatever the two rewards are, (r - mean) / std = 1 / sqrt(G + 1).

    >>> ra_advantage(8)
    0.3333333333333333
    """
    return (group_size + 1) ** -0.5


def scoring(temperatures, mode, start):
    """(4) The temperature at which each row's log-probabilities are taken. temperatures (B,): the sampling's.

    start: that of a question that was never heated. A trainer that has one temperature scores at that one.
    """
    return temperatures if mode == "score_T" else torch.full_like(temperatures, start)


def scoring_weights(batch, cap):
    """(4) importance_weights (B, L-1) where a response is scored as it was sampled, elsewhere 1."""
    weights = importance_weights(batch, cap)
    if weights is None:
        return None
    return torch.where((batch["scored_at"] == batch["temperatures"])[:, None], weights, 1.0)


def comparable(batches):
    """The batches, masks without the responses that are scored otherwise than they were sampled."""
    alike = [batch["scored_at"] == batch["temperatures"] for batch in batches]
    return [b | {"completion_mask": b["completion_mask"] & same[:, None]} for b, same in zip(batches, alike)]


def heated_batches(model, rollouts, args):
    """(4) What comparable() leaves out: one micro-batch of it, scored without gradient as it was sampled.

    To be called before a backward pass: only that one lets go of the whole weights that FSDP gathered.
    """
    heats = torch.tensor([r.temperature for r in rollouts])
    alike = (scoring(heats, args.score, args.temperature) == heats).tolist()
    heated = [rollout for rollout, same in zip(rollouts, alike) if not same]
    batches = [collate(part, model.device) for part in micro_batches(heated, args.micro_batch_tokens)[:1]]
    for batch in batches:
        with torch.no_grad():
            batch["old_per_token_logps"] = completion_logps(model, batch, batch["temperatures"])[0]
    return batches


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__, PANELS)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    problems = run.problems
    if args.questions:
        problems = Shuffled(problems, args.seed).draw(min(args.questions, len(problems)))
    order = Shuffled(problems, args.seed)
    t_step = args.t_step if args.arm in ("temp", "erpo") else 0.0
    tracker = Tracker(args.temperature, t_step, max(args.t_max, args.temperature))
    run.restore(order=order, tracker=tracker)

    for step in run.steps():
        # ---- (b) sample and (c) verify and advantage, until the batch is full ------------------------------
        run.phase("sync")
        sampler.sync()
        rollouts, all_rollouts, all_rewards, draws, counts = [], [], [], 0, Counter()
        while len(rollouts) < args.prompts_per_step * args.group_size and draws < args.max_draws:      # (2)
            run.phase("sample")
            questions = order.draw(args.prompts_per_step)
            contexts = [q["prompt_ids"] for q in questions]
            golds = [q["answer"] for q in questions for _ in range(args.group_size)]
            temperatures = [tracker.temperature(q["id"]) for q in questions]                           # (1)
            seed = derive_seed(args.seed, "sample", step, draws)
            drawn = sampler.generate(contexts, args.group_size, temperatures, args.max_tokens, seed)
            draws += 1
            run.phase("verify")
            score_rollouts(drawn, golds, tokenizer, run.reward, counts)
            rewards = torch.tensor([r.reward for r in drawn]).view(-1, args.group_size)  # (questions, G)
            advantages = group_advantages(rewards, args.scale_by_std)
            if args.arm in ("ra", "erpo"):
                advantages[(rewards == 1).all(1)] = ra_advantage(args.group_size)                      # (3)
            for rollout, advantage in zip(drawn, advantages.flatten().tolist(), strict=True):
                rollout.advantage = advantage
            for question, group in zip(questions, rewards, strict=True):  # trained on or not
                tracker.update(question["id"], group)                                                  # (1)
            signal = advantages.any(1).repeat_interleave(args.group_size).tolist()  # of each rollout's group
            rollouts += [rollout for rollout, kept in zip(drawn, signal, strict=True) if kept]
            all_rollouts += drawn
            all_rewards.append(rewards)
        sampler.sleep()
        rollouts = rollouts[: args.prompts_per_step * args.group_size]

        # ---- (d) update ------------------------------------------------------------------------------------
        run.phase("train")
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        batches = [collate(part, model.device) for part in micro_batches(rollouts, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        heated, sums, grad_norm, gap = heated_batches(model, rollouts, args), Counter(), 0.0, {}       # (4)
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # no signal: the weights stay
            for batch in batches:
                batch["scored_at"] = scoring(batch["temperatures"], args.score, args.temperature)      # (4)
                per_token_logps, entropy = completion_logps(model, batch, batch["scored_at"])  # (B, L-1)
                if update == 0:  # these weights sampled: the ratio starts at 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    batch["importance_weights"] = scoring_weights(batch, args.importance_cap)
                    batch["ref_per_token_logps"] = reference_logps(run.reference, batch, batch["scored_at"])
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
            gap = gap or sampling_gap(comparable(batches) + heated, step, run.max_logp_gap)
            grad_norm = run.optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = sum_over_ranks(sums)  # under torchrun, each rank has summed over its own micro-batches

        # ---- (e) log, evaluate, save -----------------------------------------------------------------------
        if step == 1:
            run.show_example(drawn, golds, args.group_size)
        metrics = run.shared_metrics(torch.cat(all_rewards), all_rollouts, batches, sums)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        metrics |= {"temperature/draws": draws, **tracker.metrics()}
        run.finish_step(step, metrics, order=order, tracker=tracker)
    run.finish()
    train_arms(main, argv, run, args.compare)


if __name__ == "__main__":
    main()
