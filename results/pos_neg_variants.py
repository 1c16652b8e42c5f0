"""Other questions than the pair, other readings of the weight, and a new pair now and then.

    pos_neg_variants.py --choose hard                  two of q+; easy: of q-; positive, negative: one;
                                                       mid: the two nearest to one half
    pos_neg_variants.py --arm pool                     leaves history.jsonl, the accuracies of every visit
    pos_neg_variants.py --choose variance --history H  the two whose accuracy varied most
    pos_neg_variants.py --coin                         the pair, rewards by a coin
    pos_neg_variants.py --adv-mode pair_pooled         or post_weight, center_only
    pos_neg_variants.py --resample-every 10            probe and choose anew

Other flags go to pos_neg_pairing.py. Logs what rare events hold of the squared advantages, and distinct
answers a question.
"""

import json
import random
import statistics
import sys
from pathlib import Path

import torch
import variants

import pos_neg_pairing
from common import group_advantages
from plumbing import InputError, derive_seed
from plumbing.records import append, read_lines, read_record, write_aside
from plumbing.run import drawn_tokens
from plumbing.verifier import last_boxed

NEEDED = {
    "pair": (1, 1),
    "hard": (2, 0),
    "easy": (0, 2),
    "positive": (1, 0),
    "negative": (0, 1),
}  # of q+, of q-
GIVEN = variants.Given()
SETTINGS = {
    **variants.choices(pos_neg_pairing, "adv_mode", "pair_pooled", "post_weight", "center_only"),
    "choose": ("pair", "pair", "which questions", (*NEEDED, "mid", "variance")),
    "history": ("", "", "history.jsonl of a run of the arm pool, for --choose variance"),
    "coin": (False, False, "rewards by a coin"),
    "resample_every": (0, 0, "steps after which to probe and choose anew, 0: never"),
}


def choose(rates, how, *, group_size, band, rng, hard=None, history=None):
    """Questions to train on -> list of (id, role), role 1 for q+, -1 for q-, 0 for neither. Raises
    InputError.

    rates: {id: share of right answers in the probe}. how: see the header. hard: ids that q+ may come from
    (None: all). history: {id: accuracies}.
    """
    if how == "mid":
        return [(q, 0) for q in sorted(rates, key=lambda q: abs(rates[q] - 0.5))[:2]]
    if how == "variance":
        varied = {q: statistics.pstdev(seen) for q, seen in (history or {}).items() if len(seen) > 1}
        if len(varied) < 2:
            raise InputError(
                "--choose variance: --history has no two questions that were visited twice; give that of a "
                "run of the arm pool"
            )
        return [(q, 0) for q in sorted(varied, key=lambda q: -varied[q])[:2]]
    low, high = 1 / group_size, band / group_size
    bands = {
        1: [q for q, rate in rates.items() if low <= rate <= high and (hard is None or q in hard)],
        -1: [q for q, rate in rates.items() if low <= 1 - rate <= high and (hard is None or q not in hard)],
    }
    chosen = []
    for (role, found), needed in zip(bands.items(), NEEDED[how], strict=True):
        if len(found) < needed:
            raise InputError(
                f"--choose {how}: {len(found)} of {len(rates)} probed questions are in the band of "
                f"{'q+' if role == 1 else 'q-'}, {needed} are needed; take more --questions, or widen --band"
            )
        chosen += [(q, role) for q in rng.sample(found, needed)]
    return chosen


def probe(problems, purpose, generation):
    """Share of right answers to each problem, in samples of every generation's own, and their tokens."""
    groups = GIVEN.run.draw(problems, GIVEN.args.probe_samples, purpose, generation)
    rates = [sum(r.right for r in group) / len(group) for group in groups]
    return rates, sum(map(drawn_tokens, groups))


def visited(history):
    """The accuracies of every visit in a run of the arm pool, {id: list}, and the tokens that it drew.

    Raises InputError.
    """
    lines = read_record(history or "--history", "id", "accuracies")
    seen = {line["id"]: line["accuracies"] for line in lines}
    return seen, read_record(Path(history).with_name("metrics.jsonl"), "num_tokens")[-1]["num_tokens"]


def chosen(pool, hard, generation):
    """The questions of one generation, from chosen.jsonl if it has them -> problems with "role", and tokens
    spent."""
    args, record = GIVEN.args, GIVEN.run.out / "chosen.jsonl"
    by_id = {p["id"]: p for p in pool} | {f"hard {p['id']}": p for p in hard}
    lines = [line for line in read_lines(record) if line["generation"] == generation]
    if not lines:
        GIVEN.run.sampler.sync()
        rates, spent, history = {}, 0, None
        if args.choose == "variance":  # needs no probe, but the run that visited the whole pool
            history, spent = visited(args.history)
            spent *= generation == 0  # which is paid for once
        else:
            found, spent = probe(list(by_id.values()), "probe", generation)
            rates = dict(zip(by_id, found, strict=True))
        picks = choose(
            rates,
            args.choose,
            group_size=args.group_size,
            band=args.band,
            history=history,
            hard={name for name in by_id if str(name).startswith("hard")} or None,
            rng=random.Random(derive_seed(args.seed, "choose", generation)),
        )
        again, more = probe([by_id[q] for q, _ in picks], "again", generation)
        GIVEN.run.sampler.sleep()
        lines = [
            {
                "generation": generation,
                "id": q,
                "role": role,
                "problem": by_id[q]["problem"],
                "probe": rates.get(q),
                "again": fresh,
                "tokens": (spent + more) / len(picks),
            }
            for (q, role), fresh in zip(picks, again)
        ]
        append(record, lines)
    return [by_id[line["id"]] | {"role": line["role"]} for line in lines], round(
        sum(line["tokens"] for line in lines)
    )


def find_pair(run, pool, hard):
    """As pos_neg_pairing.find_pair, by --choose; the list is changed in place when it is time to resample."""
    GIVEN.pool, GIVEN.hard = pool, hard
    generation = max(0, run.done - 1) // GIVEN.args.resample_every if GIVEN.args.resample_every else 0
    GIVEN.pair, spent = chosen(pool, hard, generation)
    GIVEN.pair[:] = (GIVEN.pair * 2)[:2]  # a question alone fills both places
    lines = read_lines(run.out / "chosen.jsonl")  # of a resumed run: what was trained on before as well
    pos_neg_pairing.hold_out(run, [line for line in lines if line["generation"] <= generation])
    return GIVEN.pair, spent


class Resampling(pos_neg_pairing.Run):
    """A run that chooses anew every --resample-every steps, and knows which step it is at."""

    spent = 0

    def steps(self, **metrics):
        for step in super().steps(**metrics):
            every, self.step, self.spent = self.args.resample_every, step, 0
            if every and step > 1 and (step - 1) % every == 0:
                pair, self.spent = chosen(GIVEN.pool, GIVEN.hard, (step - 1) // every)
                GIVEN.pair[:] = (pair * 2)[:2]
                pos_neg_pairing.hold_out(self, pair)  # for good: what was trained on stays out
            yield step

    def shared_metrics(self, rewards, sampled, *others):
        metrics = super().shared_metrics(rewards, sampled, *others)
        if self.args.coin:
            metrics["reward"] = GIVEN.truth.mean().item()  # the share of right answers, as everywhere
        metrics["num_tokens"] += self.spent
        answers = {
            (tuple(r.prompt_ids), last_boxed(self.tokenizer.decode(r.completion_ids))) for r in sampled
        }
        metrics["pair/distinct_answers"] = len(answers) / len({tuple(r.prompt_ids) for r in sampled})
        return metrics


class Remembering(pos_neg_pairing.Shuffled):
    """The order of the pool, with the accuracy of every visit, which goes to history.jsonl."""

    def __init__(self, items, seed):
        super().__init__(items, seed)
        self.last, self.seen = [], {}
        GIVEN.order = self

    def draw(self, count):
        self.last = super().draw(count)
        return self.last

    def state_dict(self):
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.seen = state["seen"]


def score_rollouts(rollouts, golds, tokenizer, reward, counts=None):
    """As common.score_rollouts; under --coin the rewards are a coin's, the real ones are GIVEN.truth."""
    SCORE_ROLLOUTS(rollouts, golds, tokenizer, reward, counts)
    if GIVEN.args.coin:
        GIVEN.truth = torch.tensor([r.reward for r in rollouts]).view(-1, GIVEN.args.group_size)
        generator = torch.Generator().manual_seed(derive_seed(GIVEN.args.seed, "coin", GIVEN.run.step))
        shape = (len(rollouts) // GIVEN.args.group_size, GIVEN.args.group_size)
        for rollout, value in zip(
            rollouts, torch.randint(0, 2, shape, generator=generator).flatten().tolist()
        ):
            rollout.reward = float(value)


def pair_advantages(rewards, roles, mode="per_prompt", lambda_neg=1.0, scale_by_std=True):
    """As pos_neg_pairing.pair_advantages, with three more modes.

    pair_pooled    outcomes 1 and -lambda_neg, standardised over a copy of q+ and one of q-
    post_weight    per_prompt, then advantages of wrong answers times lambda_neg
    center_only    outcomes minus their mean in each copy
    """
    outcomes = torch.where(rewards == 1, 1.0, -lambda_neg)
    if mode == "center_only":
        advantages = group_advantages(outcomes, scale_by_std=False)
    elif mode == "post_weight":
        advantages = group_advantages(rewards, eps=1e-6) * torch.where(rewards == 1, 1.0, lambda_neg)
    elif mode == "pair_pooled":
        pooled = torch.cat([outcomes[roles == 1], outcomes[roles == -1]], 1)  # (pairs, 2G)
        advantages = torch.zeros_like(rewards)
        advantages[roles == 1], advantages[roles == -1] = group_advantages(pooled, eps=1e-6).chunk(2, 1)
    else:
        advantages = PAIR_ADVANTAGES(rewards, roles, mode, lambda_neg, scale_by_std)
    GIVEN.advantages = advantages
    return advantages


def rare_share(advantages, rewards, roles):
    """Share of the sum of squared advantages that successes of q+ and failures of q- hold; 0 without
    advantages."""
    rare = torch.where(roles[:, None] == 1, rewards == 1, (roles[:, None] == -1) & (rewards == 0))
    total = advantages.square().sum().item()
    return (advantages.square() * rare).sum().item() / total if total else 0.0


def pair_metrics(rewards, roles):
    """As pos_neg_pairing.pair_metrics, with rare_share; in the arm pool, the history is written.

    Under --coin, pair/reward_* are the share of right answers all the same, and pair/coin is the coin's.
    """
    metrics = PAIR_METRICS(rewards, roles)
    if GIVEN.args.coin:
        right = PAIR_METRICS(GIVEN.truth, roles)
        metrics |= {name: value for name, value in right.items() if "/reward_" in name}
        metrics["pair/coin"] = rewards.mean().item()
    if roles.any():
        metrics["pair/rare_share"] = rare_share(GIVEN.advantages, rewards, roles)
    if GIVEN.args.arm == "pool":
        for question, accuracy in zip(GIVEN.order.last, rewards.mean(1).tolist(), strict=True):
            GIVEN.order.seen.setdefault(question["id"], []).append(accuracy)
        lines = [{"id": name, "accuracies": seen} for name, seen in GIVEN.order.seen.items()]
        write_aside(Path(GIVEN.run.out) / "history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return metrics


SCORE_ROLLOUTS, PAIR_ADVANTAGES = pos_neg_pairing.score_rollouts, pos_neg_pairing.pair_advantages
PAIR_METRICS = pos_neg_pairing.pair_metrics

if __name__ == "__main__":
    pos_neg_pairing.Run, pos_neg_pairing.Shuffled, pos_neg_pairing.find_pair = (
        Resampling,
        Remembering,
        find_pair,
    )
    pos_neg_pairing.score_rollouts, pos_neg_pairing.pair_advantages = score_rollouts, pair_advantages
    pos_neg_pairing.pair_metrics = pair_metrics
    variants.extend(pos_neg_pairing, SETTINGS, GIVEN)
    pos_neg_pairing.main(sys.argv[1:])
