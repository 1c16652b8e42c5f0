"""What positive-negative pairing claims, as statements that can fail, in the tiny task. Used by run.py.

    python results/run.py pos_neg_pairing                          # all arms -> results/pos_neg_pairing.md
    python results/claims_pos_neg_pairing.py RUN FIRST_ARM_RUN     # measures one model -> RUN/analysis.json

P1 to P6 and what would refute them. Both bands come from one training set, disjoint from the held-out set.
"""

import json
import statistics
import sys
from pathlib import Path
from statistics import fmean as mean

import torch
from analysis import (
    ROOT,
    Analyst,
    above,
    bands,
    last_checkpoint,
    leads,
    longer,
    points,
    settings_of,
    student,
    verdict,
)

from common import collate, completion_logps, group_advantages, grpo_loss, pass_at_k
from plumbing.data import Shuffled
from plumbing.records import read_record
from plumbing.verifier import last_boxed
from pos_neg_pairing import pair_advantages

SWEPT = ["--compare"]
QUIET = [*SWEPT, "--eval-every", "50", "--eval-samples", "1"]  # arms that are not in the figure
ARMS = {
    "pool": ["--compare", "--arm", "pool"],  # its history is what the arm variance chooses from
    "pair": ["--compare"],
    "variance": ["--compare", "--choose", "variance", "--history", "FIRST/history.jsonl"],
    "mid": [*QUIET, "--choose", "mid"],
    "hard": [*QUIET, "--choose", "hard"],
    "easy": [*QUIET, "--choose", "easy"],
    "positive": [*QUIET, "--choose", "positive"],
    "negative": [*QUIET, "--choose", "negative"],
    "random": [*QUIET, "--coin"],
    "weight-4": [*QUIET, "--lambda-neg", "4"],
    "pooled-1": [*QUIET, "--adv-mode", "role_pooled"],
    "pooled-4": [*QUIET, "--adv-mode", "role_pooled", "--lambda-neg", "4"],
    "post-4": [*QUIET, "--adv-mode", "post_weight", "--lambda-neg", "4"],
}
PLAIN = ("pooled-1", "pooled-4")  # by the script itself, whose probe draws others: on pairs of their own
COMMANDS = {arm: ["results/pos_neg_variants.py"] for arm in ARMS if arm not in PLAIN}
SEEDS = range(8)
FEW = {"mid": 4, "negative": 4, "weight-4": 4}  # two have no verdict, the third is pair in each seed or not
METRICS = (
    "num_tokens", r"eval/harder/avg@\d+", r"time/(sample|verify|train)", "grad_norm", "frac_reward_zero_std",
    r"pair/mixed_(positive|negative)",
)  # fmt: skip
SHOWN = ("pair", "variance", "pool")  # in the figure
AIMED = ("pair", "variance")  # the direction of their first step is measured
DRAW = bands(SHOWN)
PANELS = {
    r"eval/test/avg@\d+": "held-out pass@1",
    r"eval/test/pass@8": "held-out pass@8",
    "pair/reward_positive": "success on q+",
    "pair/reward_negative": "success on q-",
    "pair/rare_share": "rare events' share of A squared",
}
ZOOMED = ("held-out pass@1", "held-out pass@8")
HELD_OUT = 32  # samples of each held-out problem
POOL = 256  # training questions whose gradient stands for that of the pool
KS = (1, 8, 32)


def gradient(model, questions, roles, purpose):
    """Of the loss of G responses to each question: a flat vector each for the even and the odd questions.

    They add up to the gradient of the batch.

    roles: of the questions, for the advantages of a pair; None: plain GRPO.
    """
    size = model.settings["group_size"]
    groups = model.groups(
        [q["prompt_ids"] for q in questions], [q["answer"] for q in questions], size, purpose
    )
    rewards = torch.tensor([[r.reward for r in group] for group in groups])
    advantages = (
        group_advantages(rewards, eps=1e-6)
        if roles is None
        else pair_advantages(rewards, torch.tensor(roles))
    )
    for group, row in zip(groups, advantages.tolist(), strict=True):
        for rollout, advantage in zip(group, row, strict=True):
            rollout.advantage = advantage
    tokens = sum(len(r.completion_ids) for group in groups for r in group)
    weights = list(model.model.parameters())
    halves = []
    for half in (groups[::2], groups[1::2]):
        vector = torch.zeros(sum(w.numel() for w in weights))
        rollouts = [r for group in half for r in group if r.advantage]
        for place in range(0, len(rollouts), 256):
            batch = collate(rollouts[place : place + 256], "cpu")
            logps, _ = completion_logps(model.model, batch, batch["temperatures"])
            loss, _ = grpo_loss(
                logps, logps.detach(), batch["advantages"], batch["completion_mask"], num_tokens=tokens
            )
            vector += torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        halves.append(vector)
    return halves


def directions(model, chosen, copies, data, seed):
    """Cosines of the first step on the two chosen questions, and of its halves, with that of POOL
    questions, and of the step with itself in fresh samples; 0 where a gradient is 0."""
    problems = {p["id"]: p for p in model.problems(data)}
    pool = sum(gradient(model, Shuffled(list(problems.values()), seed).draw(POOL), None, "pool"))
    pair = [problems[line["id"]] for line in chosen] * (copies // 2)
    roles = [line["role"] for line in chosen] * (copies // 2)
    one, other = gradient(model, pair, roles, "pair")
    again = sum(gradient(model, pair, roles, "pair again"))

    def cosine(a, b):
        return torch.nn.functional.cosine_similarity(a, b, dim=0).item()

    return {
        "cosine": cosine(one + other, pool),
        "halves": [cosine(one, pool), cosine(other, pool)],
        "repeat": cosine(one + other, again),
    }


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)

    def held_out(model):
        problems = model.problems(settings["eval_sets"][0])
        groups = model.groups(
            [p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "held out"
        )
        answers = [{last_boxed(model.tokenizer.decode(r.completion_ids)) for r in group} for group in groups]
        return {
            "right": [int(sum(r.reward for r in group)) for group in groups],
            "distinct": mean(map(len, answers)),
            "entropy": mean(-logp for group in groups for r in group for logp in r.logps),
        }

    result = held_out(Analyst(last_checkpoint(folder), settings))
    base = Analyst(settings["model"], settings)
    if folder == first:
        (Path(first) / "start.json").write_text(json.dumps(held_out(base)))
    if Path(folder).parent.name in AIMED:
        chosen = read_record(Path(folder) / "chosen.jsonl")
        result |= directions(base, chosen, settings["prompts_per_step"], settings["data"], settings["seed"])
        result["chosen"] = [{name: line[name] for name in ("role", "again")} for line in chosen]
    (Path(folder) / "analysis.json").write_text(json.dumps(result))


# ---- the statements ----


class Measured:
    """What the statements are about, of all runs. logs: packed.Logs."""

    def __init__(self, logs):
        self.logs, self.arms = logs, logs.arms
        self.found = {arm: logs.measured(arm) for arm in logs.arms}
        self.start = logs.measured("pool", "start")
        self.steps = {arm: [rows[1:] for rows in logs.rows(arm)] for arm in logs.arms}
        models = self.found | {"start": self.start}
        self.end = {arm: {k: passes(some, k) for k in KS} for arm, some in models.items()}

    def ahead(self, arm, other, k):
        """Held-out pass@k of an arm minus another's, or the starting model's, of each seed that both have."""
        return leads(self.end[arm][k], self.end[other][k])

    def gap(self, arm, other, k):
        """The mean of ahead(), and the interval."""
        return student(self.ahead(arm, other, k))

    def each(self, name, arms):
        """Mean over seeds of a number that was measured on the models, of each arm."""
        return {arm: mean(one[name] for one in self.found[arm]) for arm in arms}


def passes(some, k):
    return [[pass_at_k(HELD_OUT, right, k) for right in one["right"]] for one in some]


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    measured = Measured(logs)
    for part in (headline, exploration, direction, weight, refutations, halves, held_out_questions, reported):
        yield from part(measured)


def headline(m):
    """P1 and P2."""
    yield above("P1 the pair above the two most varied, held-out pass@8", m.ahead("pair", "variance", 8))
    yield above("P1 at pass@1", m.ahead("pair", "variance", 1))
    easy, positive = m.gap("pair", "easy", 8), m.gap("pair", "positive", 8)
    yield (
        "P2 both halves",
        "pass@8: above two of q-, interval too; not below q+ alone",
        f"minus two easy {points(easy)}, minus q+ alone {points(positive)}",
        verdict(easy[1] > 0 and positive[2] > 0),
    )


def exploration(m):
    """P3 and P4."""
    wide = m.gap("pair", "start", KS[-1])
    heat = m.each("entropy", ("pair", "hard"))
    begun = mean(one["entropy"] for one in m.start)
    yield (
        f"P3 exploration is kept (pass@{KS[-1]} in place of pass@64)",
        "pass@k not below the start; entropy falls less than with two hard questions",
        f"{points(wide)}; nats a token {begun:.4f} at the start, pair {heat['pair']:.4f}, two hard "
        f"{heat['hard']:.4f}",
        verdict(wide[2] >= 0 and heat["pair"] > heat["hard"]),
    )
    level = {arm: m.gap(arm, "start", 1) for arm in ("pair", "pool")}
    yield (
        "P4 against the whole pool at as many sequences, pass@1",
        "half of its gain or more",
        f"pair {points(level['pair'])}, pool {points(level['pool'])}",
        verdict(level["pair"][0] >= 0.5 * level["pool"][0] > 0),
    )


def direction(m):
    """P5."""
    cosines = {arm: [one["cosine"] for one in m.found[arm]] for arm in AIMED}
    spread = {arm: statistics.pstdev(values) for arm, values in cosines.items()}
    yield (
        "P5 direction of the first step against the pool's",
        "cosine spreads less over draws than for the two most varied",
        "; ".join(
            f"{arm}: mean {mean(values):.3f}, standard deviation {spread[arm]:.3f}"
            for arm, values in cosines.items()
        ),
        verdict(spread["pair"] < spread["variance"]),
    )


def weight(m):
    """P6."""
    same = max(
        abs(a["grad_norm"] - b["grad_norm"])
        for one, other in zip(m.steps["weight-4"], m.steps["pair"])
        for a, b in zip(one, other)
    )
    answers = {"role_pooled": m.gap("pooled-4", "pooled-1", 8), "post_weight": m.gap("post-4", "pair", 8)}
    yield (
        "P6 the weight of wrong answers, 4 against 1, under per_prompt",
        "no difference: gradient norms of all steps within .001",
        f"largest difference {same:.1e}",
        verdict(same < 1e-3),
    )
    yield (
        "P6 the same under the modes that respond to it",
        "pass@8 differs under role_pooled or post_weight, interval without 0",
        ", ".join(f"{mode} {points(value)}" for mode, value in answers.items()),
        verdict(any(value[1] > 0 or value[2] < 0 for value in answers.values())),
    )


def refutations(m):
    """What would refute the paper's reasoning."""
    coin, harder = m.gap("random", "start", 8), m.gap("pair", "hard", 8)
    yield (
        "would refute it: a coin for rewards",
        "gains nothing",
        points(coin),
        verdict(coin[1] <= 0),
    )
    yield (
        "would refute it: two hard questions",
        "not better than the pair, pass@8",
        f"pair minus two hard {points(harder)}",
        verdict(harder[2] > 0),
    )


def halves(m):
    """The first step once more, and of each half alone."""

    def turned(arm, name):
        return [mean(values) for values in zip(*(one[name] for one in m.found[arm]))]

    same_way = m.each("repeat", AIMED)
    yield (
        "the first step once more, with fresh samples, and its halves",
        "",
        "; ".join(
            f"{arm}: cosine with itself {same_way[arm]:.3f}, halves with the pool's "
            + " and ".join(f"{value:.3f}" for value in turned(arm, "halves"))
            for arm in same_way
        ),
        "reported",
    )


def held_out_questions(m):
    """What becomes of the held-out problems."""
    yield (
        "distinct answers among 32 to a held-out problem",
        "",
        f"start {mean(one['distinct'] for one in m.start):.1f}, "
        + ", ".join(f"{arm} {value:.1f}" for arm, value in m.each("distinct", m.arms).items()),
        "reported",
    )
    lines = (ROOT / "tiny" / "test.jsonl").read_text().splitlines()  # in the order in which they are asked
    families = [json.loads(line)["family"] for line in lines]

    def of(some, family):
        right = [c / HELD_OUT for one in some for c, kind in zip(one["right"], families) if kind == family]
        return 100 * mean(right)

    for arm, some in {"start": m.start, **{arm: m.found[arm] for arm in SHOWN}}.items():
        kinds = ", ".join(f"{family} {of(some, family):.1f}" for family in sorted(set(families)))
        yield f"held-out success by family, {arm}", "", kinds, "reported"
    yield longer(m.logs, SHOWN, "pair", "variance")
    for k in KS:
        gains = ", ".join(f"{arm} {points(m.gap(arm, 'start', k))}" for arm in m.arms)
        yield f"held-out pass@{k} minus the start, points", "", gains, "reported"


def reported(m):
    """The pair itself, and what a run costs."""
    rare = {
        when: mean(
            row["pair/rare_share"]
            for rows in m.steps["pair"]
            for row in rows[part]
            if row["frac_reward_zero_std"] < 1
        )
        for when, part in (("first five", slice(5)), ("last ten", slice(-10, None)))
    }
    mixed = {
        role: mean(row[f"pair/mixed_{role}"] for rows in m.steps["pair"] for row in rows[-10:])
        for role in ("positive", "negative")
    }
    again = {
        role: mean(line["again"] for one in m.found["pair"] for line in one["chosen"] if line["role"] == sign)
        for role, sign in (("q+", 1), ("q-", -1))
    }
    yield (
        "the pair itself",
        "",
        f"success in fresh samples q+ {again['q+']:.2f}, q- {again['q-']:.2f}; rare events hold "
        f"{rare['first five']:.2f} of the squared "
        f"advantages in the first five steps, {rare['last ten']:.2f} in the last ten; "
        f"mixed groups in the last ten steps q+ {mixed['positive']:.2f}, q- {mixed['negative']:.2f}",
        "reported",
    )
    probing = mean(rows[0]["num_tokens"] for rows in m.logs.rows("pair")) / 1e6
    whole = {arm: mean(rows[-1]["num_tokens"] for rows in m.logs.rows(arm)) / 1e6 for arm in SHOWN}
    yield (
        "cost",
        "",
        f"million tokens: probing {probing:.2f}, training on the pair {whole['pair'] - probing:.2f}, on "
        f"the pool {whole['pool']:.2f}; in all, choosing included: pair {whole['pair']:.2f}, variance "
        f"{whole['variance']:.2f}",
        "reported",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
