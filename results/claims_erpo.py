"""What ERPO claims, as statements that can fail, measured in the tiny task. Used by run.py.

    python results/run.py erpo                          # trains all arms and writes results/erpo.md
    python results/claims_erpo.py RUN FIRST_ARM_RUN     # measures one model -> RUN/analysis.json

S1 to S9: statements about residual questions, those whose groups are all right. A third of this pool is
never solved, so shares of all-right groups are taken among groups that are not all wrong. An active group
is a mixed one, among all that were drawn.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean as mean

import numpy
import torch
from analysis import (
    Analyst,
    above,
    bands,
    last_checkpoint,
    leads,
    longer,
    points,
    settings_of,
    share,
    student,
    verdict,
)

import erpo
from common import pass_at_k
from plumbing.data import Shuffled

HOT = 1.5
SWEPT = LONG = ["--compare", "--steps", "150"]  # twice what the script makes by default
QUIET = [*LONG, "--eval-every", "150", "--eval-samples", "1"]  # arms without a curve in figure or rows
ARMS = {
    "erpo": LONG,
    "dapo": [*LONG, "--arm", "dapo"],
    "ra": [*LONG, "--arm", "ra"],
    "temp": [*LONG, "--arm", "temp"],
    "dapo-hot": [*LONG, "--arm", "dapo", "--temperature", str(HOT)],  # as a trainer with one temperature does
    "ra-hot-T1": [*QUIET, "--arm", "ra", "--temperature", str(HOT), "--score", "score_T1"],  # as ERPO does
    "dapo-hot-T1": [*LONG, "--arm", "dapo", "--temperature", str(HOT), "--score", "score_T1"],
    "permuted": QUIET[1:],
    "score_T": [*QUIET, "--score", "score_T"],
    "is_corrected": [*QUIET, "--score", "is_corrected"],
    "ra-2": [*QUIET, "--ra", "ra-2"],
    "places": [*QUIET, "--ra", "ra-3", "--ra-size", "1e-9"],  # all-right groups take places and push nothing
    "dapo-2": [*QUIET, "--arm", "dapo", "--max-draws", "2"],  # erpo draws twice in nearly every step
    "t_max-1.2": [*QUIET, "--t-max", "1.2"],
    "entropy": [*QUIET, "--arm", "dapo", "--entropy-coef", "0.003"],  # a rival of any method here
    "t_max-2": [*QUIET, "--t-max", "2.0"],
}
COMMANDS = {arm: ["results/erpo_variants.py"] for arm in ARMS}
COMMANDS["permuted"] = ["results/erpo_permuted.py"]
SEEDS = range(8)
FEW = {"dapo-hot": 4, "dapo-hot-T1": 4, "ra-2": 4, "entropy": 4}  # seeds of arms on which no verdict rests
METRICS = (
    "num_tokens", "frac_all_right", r"eval/harder/avg@\d+",
    r"temperature/(visits|revived)@.*", r"temperature/(draws|mean|at_max|decile_[19])", r"batch/.*",
)  # fmt: skip
SHOWN = ("erpo", "dapo", "ra", "temp")  # in the figure
PANELS = {
    r"eval/test/avg@\d+": "held-out score (avg@n)",
    "frac_reward_zero_std": "zero-variance groups among all drawn",
    r"temperature/decile_5": "median temperature of the questions",
}
DRAW = bands(SHOWN)
ZOOMED = ("held-out score (avg@n)", "median temperature of the questions")
HELD_OUT, GROUP, HEATS = 16, 8, (1.0, 1.2, 1.5)
DRAWN = erpo.SETTINGS["prompts_per_step"][1]  # questions in a draw, on the tiny task
PARTED = ("dapo", "ra", "temp", "erpo", "places", "dapo-2")  # arms that part what erpo and dapo differ in
EARLY, LATE = slice(0, 5), slice(-10, None)  # steps


def measured(model):
    """What the statements need of a model.

    right: right ones among HELD_OUT samples of each held-out problem, and families: what kind each is of.
    entropy: mean -log p of those, in nats a token. trained: {temperature: right ones among GROUP samples of
    each training question}.
    """
    settings = model.settings
    problems = model.problems(settings["eval_sets"][0])
    groups = model.groups(
        [p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "held out", 1.0
    )
    trained = Shuffled(model.problems(settings["data"]), settings["seed"]).draw(settings["questions"])
    asked = [p["prompt_ids"] for p in trained], [p["answer"] for p in trained]
    at = {heat: model.groups(*asked, GROUP, ("heat", heat), heat) for heat in HEATS}
    return {
        "right": [int(sum(r.reward for r in group)) for group in groups],
        "entropy": mean(-logp for group in groups for r in group for logp in r.logps),
        "families": [p["family"] for p in problems],
        "trained": {
            str(heat): [int(sum(r.reward for r in group)) for group in some] for heat, some in at.items()
        },
    }


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)
    (Path(folder) / "analysis.json").write_text(
        json.dumps(measured(Analyst(last_checkpoint(folder), settings)))
    )
    if folder == first:
        (Path(first) / "start.json").write_text(json.dumps(measured(Analyst(settings["model"], settings))))


# ---- the statements ----


def score_at(rows, tokens):
    """avg@n on tiny/test.jsonl of a run when it had spent this many tokens, linear between evaluations.

    Not after its end: tokens has to be no more than it has spent.
    """
    name = next(n for n in rows[0] if re.fullmatch(r"eval/test/avg@\d+", n))
    curve = [(row.get("num_tokens", 0), row[name]) for row in rows if name in row]
    return float(numpy.interp(tokens, *zip(*curve)))


class Measured:
    """What the statements are about, of all runs. logs: packed.Logs."""

    def __init__(self, logs):
        self.logs, self.found = logs, {arm: logs.measured(arm) for arm in logs.arms}
        self.rows = {arm: logs.rows(arm) for arm in logs.arms}
        self.steps = {arm: [rows[1:] for rows in some] for arm, some in self.rows.items()}
        self.active = {arm: self.over(active, arm, LATE) for arm in logs.arms}
        self.end = {arm: {k: passes(self.found[arm], k) for k in (1, 8)} for arm in logs.arms}
        self.start = logs.measured("erpo", "start")
        begin = passes(self.start, 1)
        self.gain = {arm: student(leads(self.end[arm][1], begin)) for arm in logs.arms}

    def over(self, value, arm, part):
        """Mean of value(row) over some steps of each run of an arm."""
        return [mean(map(value, rows[part])) for rows in self.steps[arm]]

    def usual(self, metric, arm):
        """Mean of a metric over all steps of an arm that have it."""
        return mean(row[metric] for rows in self.steps[arm] for row in rows if metric in row)

    def trained(self, arm, heat=1.0):
        """Success of each run on each of its training questions."""
        return [[right / GROUP for right in one["trained"][str(heat)]] for one in self.found[arm]]

    def ahead(self, arm, other, k=1):
        """Points of pass@k between two arms, and the interval."""
        return student(leads(self.end[arm][k], self.end[other][k]))

    def revival(self, arm="erpo", seeds=slice(None)):
        """Share of visits after an all-right one that are mixed, by temperature."""
        visits, mixed = Counter(), Counter()
        for row in (row for rows in self.steps[arm][seeds] for row in rows):
            for name, value in row.items():
                if name.startswith("temperature/visits@"):
                    visits[float(name.split("@")[1])] += value
                    mixed[float(name.split("@")[1])] += row[name.replace("visits", "revived")]
        return {heat: mixed[heat] / visits[heat] for heat in sorted(visits) if visits[heat] >= 30}

    def revives(self, arm):
        """S3's first half."""
        return mean(self.active[arm]) >= 2 * mean(self.active["dapo"]) and mean(self.active[arm]) > mean(
            self.active["ra"]
        )


def active(row):
    return 1 - row["frac_reward_zero_std"]


def residual(row):
    return row["frac_all_right"] / max(1e-9, active(row) + row["frac_all_right"])


def drawn_a_step(rows):
    """Mixed and all-wrong groups that are drawn in a step, means over the rows."""
    groups = [row["temperature/draws"] * DRAWN for row in rows]
    wrong = [row["frac_reward_zero_std"] - row["frac_all_right"] for row in rows]
    return (
        mean(n * active(row) for n, row in zip(groups, rows)),
        mean(n * part for n, part in zip(groups, wrong)),
    )


def passes(some, k):
    return [[pass_at_k(HELD_OUT, right, k) for right in one["right"]] for one in some]


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    measured = Measured(logs)
    for part in (signal, outcome, why, learned, families, temperatures, choices):
        yield from part(measured)


def signal(m):
    """S1 to S4."""
    grown, fallen = (
        [mean(m.over(value, "dapo", part)) for part in (EARLY, LATE)] for value in (residual, active)
    )
    yield (
        "S1 residual questions grow",
        "dapo: all-right share rises beyond .7 of the groups that are not all wrong; active share falls",
        f"{grown[0]:.2f} to {grown[1]:.2f}; active {fallen[0]:.2f} to {fallen[1]:.2f}",
        verdict(grown[1] > 0.7 and fallen[1] < fallen[0]),
    )
    shares = [
        mean(mean(right == GROUP for right in one["trained"][str(heat)]) for one in m.found["dapo"])
        for heat in HEATS
    ]
    yield (
        "S2 fragility",
        "after dapo, all-right share of the training questions falls from T 1.0 to 1.2 to 1.5, by .1 or more",
        " ".join(f"{value:.3f}" for value in shares),
        verdict(shares[0] > shares[1] > shares[2] and shares[0] - shares[2] >= 0.1),
    )
    rates = m.revival()
    by_seed = [list(m.revival(seeds=slice(i, i + 1)).values()) for i in range(len(m.steps["erpo"]))]
    risen = [some[-1] - some[0] for some in by_seed]
    rises = len(rates) > 1 and list(rates.values())[-1] > list(rates.values())[0]
    yield (
        "S3 revival",
        "active share of the last ten steps: erpo at least twice dapo, above ra; solved questions mixed "
        "again more often when hotter",
        ", ".join(f"{arm} {share(student(m.active[arm]))}" for arm in ("dapo", "ra", "erpo"))
        + "; mixed again by T: "
        + " ".join(f"{heat}: {rate:.2f}" for heat, rate in rates.items())
        + f", from first to last {share(student(risen))}; at 1.0 in dapo {m.revival('dapo')[1.0]:.2f}, in ra "
        f"{m.revival('ra')[1.0]:.2f}",
        verdict(m.revives("erpo") and rises),
    )
    yield (
        "S4 signal of RA",
        "with all questions saturated no gradient in dapo, one in ra and erpo",
        "a unit test (tests/test_erpo.py)",
        "held",
    )


def outcome(m):
    """S5, after as many updates and after as many tokens."""
    overfit = {
        arm: 100 * mean(leads(m.trained(arm), m.end[arm][1])) for arm in ("dapo", "ra", "temp", "erpo")
    }
    lead, gain = m.ahead("erpo", "dapo"), m.gain
    yield above(
        "erpo above dapo: as many updates, held-out points", leads(m.end["erpo"][1], m.end["dapo"][1])
    )
    yield (
        "S5 outcome, held-out points",
        "erpo above dapo at equal updates, interval above 0; ra between them, or its training score "
        "further off than erpo's",
        "gains "
        + ", ".join(f"{arm} {points(gain[arm])}" for arm in ("dapo", "ra", "temp", "erpo"))
        + f"; erpo minus dapo {points(lead)}, pass@8 {points(m.ahead('erpo', 'dapo', 8))}; "
        "training minus held-out score: " + ", ".join(f"{arm} {value:.1f}" for arm, value in overfit.items()),
        verdict(
            lead[1] > 0
            and (gain["dapo"][0] <= gain["ra"][0] <= gain["erpo"][0] or overfit["ra"] > overfit["erpo"])
        ),
    )
    arms = ("dapo", "ra", "erpo", "temp")
    least = [min(run[-1]["num_tokens"] for run in of_seed) for of_seed in zip(*(m.rows[arm] for arm in arms))]
    level = {arm: [score_at(rows, tokens) for rows, tokens in zip(m.rows[arm], least)] for arm in arms}
    what, needed, text, held = above(
        f"erpo above dapo: at as many tokens drawn, {mean(least) / 1e6:.1f} million, held-out points",
        [a - b for a, b in zip(level["erpo"], level["dapo"])],
    )
    yield what, needed, f"{text}; " + ", ".join(f"{a} {100 * mean(v):.1f}" for a, v in level.items()), held
    for arm, name in {
        "temp": "solved questions (temp)",
        "dapo-hot": "all questions sampled and scored at 1.5",
        "dapo-hot-T1": "all questions sampled at 1.5, scored at 1",
    }.items():
        pairs = list(zip(m.rows[arm], m.rows["dapo"]))
        least = [min(run[-1]["num_tokens"] for run in pair) for pair in pairs]
        level = [score_at(run, tokens) - score_at(base, tokens) for (run, base), tokens in zip(pairs, least)]
        yield (
            f"heat without RA, {name}",
            "",
            f"minus dapo at equal updates {points(m.ahead(arm, 'dapo'))}, pass@8 "
            f"{points(m.ahead(arm, 'dapo', 8))}; at {mean(least) / 1e6:.1f} million tokens, what the cheaper "
            f"of the two takes, {points(student(level))}",
            "reported",
        )
    rival = [points(m.ahead(*pair, k)) for pair in (("entropy", "dapo"), ("erpo", "entropy")) for k in (1, 8)]
    yield (
        "an entropy bonus of .003 in place of temperatures, pass@1 and 8",
        "",
        "dapo with it minus dapo {} and {}; erpo minus dapo with it {} and {}".format(*rival),
        "reported",
    )
    yield longer(m.logs, arms, "erpo", "dapo")


def learned(m):
    """What a batch is made of, and what becomes of which questions."""
    arms = ("dapo", "ra", "temp", "erpo")
    parts = {}
    for kind, name in (("ra", "all-right groups"), ("heated", "heated mixed groups")):
        for what, of in (("tokens", "tokens"), ("pull", "tokens times size of advantage")):
            metric = f"batch/{kind}_{what}"
            parts[f"{name}, share of {of}"] = ", ".join(f"{arm} {m.usual(metric, arm):.2f}" for arm in arms)
    yield (
        "what the batches are made of, all steps",
        "",
        "; ".join(f"{name}: {text}" for name, text in parts.items()),
        "reported",
    )
    kinds = {"none": (0, 0), "some": (1, GROUP - 1), "all": (GROUP, GROUP)}
    pairs = {arm: list(zip(m.trained(arm), (one["trained"]["1.0"] for one in m.start))) for arm in PARTED}

    def success(arm, low, high):
        """For each run its success on the questions of a kind."""
        return [mean(after for after, before in zip(*pair) if low <= before <= high) for pair in pairs[arm]]

    counts = {
        name: mean(sum(low <= p <= high for p in before) for _, before in pairs["erpo"])
        for name, (low, high) in kinds.items()
    }
    yield (
        f"training questions, by how many of {GROUP} were right before training: success after it",
        "",
        "; ".join(
            f"{name} ({counts[name]:.0f} questions): "
            + ", ".join(f"{arm} {100 * mean(success(arm, *limits)):.1f}" for arm in PARTED)
            for name, limits in kinds.items()
        ),
        "reported",
    )
    yield (
        "training questions of which none was right before training: success minus dapo's",
        "",
        minus_dapo({arm: success(arm, *kinds["none"]) for arm in PARTED}),
        "reported",
    )
    yield (
        f"training questions at T {', '.join(map(str, HEATS))}: success",
        "",
        "; ".join(
            f"{arm} " + " ".join(f"{100 * mean(map(mean, m.trained(arm, heat))):.1f}" for heat in HEATS)
            for arm in arms
        ),
        "reported",
    )


def minus_dapo(scores):
    """scores: {arm: a number for each seed}, dapo's among them -> the others' leads on it, as text."""
    gaps = {arm: [a - b for a, b in zip(some, scores["dapo"])] for arm, some in scores.items()}
    return ", ".join(f"{arm} {points(student(some))}" for arm, some in gaps.items() if arm != "dapo")


def families(m):
    """On which kinds of held-out problems arms differ."""
    kinds = m.start[0]["families"]

    def score(one, family):
        return mean(right / HELD_OUT for right, kind in zip(one["right"], kinds) if kind == family)

    scores = {
        family: {arm: [score(one, family) for one in m.found[arm]] for arm in PARTED}
        for family in sorted(set(kinds))
    }
    texts = []
    for family, of_arms in scores.items():
        before = 100 * mean(score(one, family) for one in m.start)
        after = ", ".join(f"{arm} {100 * mean(values):.1f}" for arm, values in of_arms.items())
        texts.append(f"{family} ({kinds.count(family)} problems): {before:.1f} to {after}")
    yield "held-out families, before and after", "", "; ".join(texts), "reported"
    for family in ("known", "trap"):  # added after the look: those in which erpo and dapo can be told apart
        yield f"held-out problems of family {family}: minus dapo", "", minus_dapo(scores[family]), "reported"


def why(m):
    """ERPO against DAPO in three parts, that add up. Added after a look at one seed of four arms."""
    parts = {
        "heat (temp minus dapo)": ("temp", "dapo"),
        "that all-right groups take places in a batch (places minus temp)": ("places", "temp"),
        "that they push (erpo minus places)": ("erpo", "places"),
    }
    texts = {name: [points(m.ahead(*pair, k)) for k in (1, 8)] for name, pair in parts.items()}
    yield (
        "of the difference at as many updates, pass@1 and pass@8",
        "",
        "; ".join(f"{name} {' and '.join(both)}" for name, both in texts.items()),
        "reported",
    )
    # Added after a look at eight seeds of four arms and four of the others: erpo draws twice a step, dapo
    # five times; here dapo draws twice

    drawn = []
    for arm in ("dapo", "dapo-2", "erpo"):
        mixed, wrong = drawn_a_step([row for rows in m.steps[arm] for row in rows])
        times = m.usual("temperature/draws", arm)
        drawn.append(f"{arm} {times:.1f} times, {mixed:.1f} mixed and {wrong:.1f} all-wrong groups")
    texts = {
        f"{one} minus {other}": " and ".join(points(m.ahead(one, other, k)) for k in (1, 8))
        for one, other in (("dapo-2", "dapo"), ("erpo", "dapo-2"))
    }
    yield (
        "dapo with no more draws than erpo (dapo-2), pass@1 and pass@8",
        "",
        "; ".join(f"{name} {both}" for name, both in texts.items()) + f"; draws a step: {', '.join(drawn)}",
        "reported",
    )


def temperatures(m):
    """S6 to S8."""
    fan = [
        mean(rows[-1][f"temperature/{name}"] for rows in m.steps["erpo"])
        for name in ("decile_1", "decile_5", "decile_9", "at_max")
    ]
    falls = any(
        b["temperature/mean"] < a["temperature/mean"] - 1e-9
        for rows in m.steps["erpo"]
        for a, b in zip(rows, rows[1:])
        if a["temperature/at_max"] > 0
    )
    yield (
        "S6 cap",
        "temperatures never fall, some reach the cap; with the cap at the start erpo is ra (a unit test, "
        "bit for bit)",
        "deciles 1, 5, 9 at the end {:.2f} {:.2f} {:.2f}, at the cap {:.2f} of the questions".format(*fan),
        verdict(fan[3] > 0 and not falls),
    )
    dose = {"1 (ra)": "ra", "1.2": "t_max-1.2", "1.5": "erpo", "2": "t_max-2"}
    curve = {k: [100 * mean(map(mean, m.end[arm][k])) for arm in dose.values()] for k in (1, 8)}
    falls_again = any(values[0] < max(values) > values[-1] for values in curve.values())
    yield (
        "S7 dose",
        "held-out success rises with T_max, and beyond some T_max falls again",
        "; ".join(
            f"pass@{k} at T_max {', '.join(dose)}: " + " ".join(f"{v:.1f}" for v in values)
            for k, values in curve.items()
        ),
        verdict(falls_again),
    )
    chance, constant = m.ahead("erpo", "permuted"), m.ahead("erpo", "ra-hot-T1")  # scored alike, at 1
    yield (
        "S8 attribution",
        "erpo above the same temperatures dealt out by chance, and not below ra at a constant 1.5, scored at "
        "1 like erpo; points",
        f"erpo minus permuted {points(chance)}; minus ra sampled at 1.5 and scored at 1 {points(constant)}; "
        f"minus dapo sampled at 1.5 and scored at 1 {points(m.ahead('erpo', 'dapo-hot-T1'))}",
        verdict(chance[1] > 0 and constant[2] > 0),
    )


def choices(m):
    """S9, and what a run costs."""
    modes = {"erpo": "score_T0", "score_T": "score_T", "is_corrected": "is_corrected"}
    yield (
        "S9 scoring",
        "S3's first half in all three modes; in which S5 holds is reported",
        "; ".join(
            f"{name}: active {mean(m.active[arm]):.2f}, minus dapo {points(m.ahead(arm, 'dapo'))}"
            for arm, name in modes.items()
        ),
        verdict(all(map(m.revives, modes))),
    )
    yield (
        "the size of RA, not known of the paper",
        "",
        "; ".join(
            f"{name}: active {mean(m.active[arm]):.2f}, minus dapo {points(m.ahead(arm, 'dapo'))}"
            for arm, name in {
                "erpo": "erpo with .33 (ra-1)",
                "ra-2": "with .12 (ra-2)",
                "temp": "with none (temp)",
            }.items()
        )
        + f"; ra-2 minus ra-1, on the seeds that both have, {points(m.ahead('ra-2', 'erpo'))}",
        "reported",
    )
    costs = []
    for arm in ("dapo", "ra", "temp", "erpo"):
        draws = mean(m.over(lambda row: row["temperature/draws"], arm, LATE))
        cost = mean(rows[-1]["num_tokens"] for rows in m.steps[arm]) / 1e6
        costs.append(
            f"{arm}: {draws:.1f} draws a step at the end, {cost:.1f} million tokens, "
            f"{mean(one['entropy'] for one in m.found[arm]):.3f} nats a token on held-out problems"
        )
    yield (
        "cost and entropy",
        "",
        "; ".join(costs)
        + f"; of erpo's groups that are not all wrong {mean(m.over(residual, 'erpo', LATE)):.2f} "
        "are all right at the end",
        "reported",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
