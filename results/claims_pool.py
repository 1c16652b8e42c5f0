"""GRPO and the five methods on one pool, from one model, at as many sampled tokens. Used by run.py.

    python results/run.py pool                          # all arms -> results/pool.md, results/pool.png
    python results/claims_pool.py RUN FIRST_ARM_RUN     # measures one model -> RUN/analysis.json

The budget of a seed is what grpo.py has drawn in its 100 steps with that seed, num_tokens of its last row: no
number that could be picked. Every other arm draws until it has spent that (pool_variants.py), with all that
counts: screening, probes, attempts, hints, dropped groups. Its last step overshoots by less than itself, and
scores are taken at the budget by linear interpolation between the two evaluations around it, of which the
second is the last step's: what is interpolated is a fraction of one step's gain.
"""

import json
import sys
from pathlib import Path
from statistics import fmean as mean

import numpy
import torch
from analysis import Analyst, above, bands, last_checkpoint, points, settings_of, share, student

import grpo
from plumbing.settings import MACHINE, as_flags

SAMPLES = 8  # of each held-out question
ALIKE = ("data", "eval_sets", "prompts_per_step", "group_size", "temperature", "max_tokens", "lr",
         "warmup_steps")  # fmt: skip
BASE = as_flags({name: (MACHINE | grpo.SETTINGS)[name][1] for name in ALIKE} | {"eval_samples": SAMPLES})
MOST = 500  # steps, which no arm needs: questions and answers as short as they come take 310
BUDGET = [*BASE, f"--steps={MOST}", "--until=FIRST"]
UNTIL = [*BUDGET, "--compare"]
# What is searched for before step 1 is cut down to at most a quarter of the budget for all who search: the
# scripts' own settings would take all of it. Evaluated four or five times, as grpo.py is.
MINING = [
    "--questions=24",
    "--screen-samples=16", "--saturated-low=15", "--saturated-high=15",  # 31 of 32: twice the tokens
    "--cut-samples=8"]  # 9 cuts, as in the script
ARMS = {
    "grpo": [*BASE, "--steps=100"],
    "failure_prefix": [
        *UNTIL, *MINING, "--eval-every=18",
        "--updates-per-batch=1"],  # two would be twice the steps for the same tokens
    "prefix_rl": [
        *UNTIL, "--eval-every=14", "--questions=12",
        "--screen-samples=8",  # unsolved: none of as many as GRPO's group has
        "--max-attempts=64",  # 2,500 at one question are 8 % of the budget
        "--max-flops=0"],  # tokens are what is equal here
    "erpo": [*UNTIL, "--eval-every=10", "--questions=0"],
    "pos_neg_pairing": [*UNTIL, "--eval-every=30", "--questions=240"],  # 32 samples each, as in the script
    "lte": [*UNTIL, "--eval-every=13"],
    "lte+failures": [*UNTIL, *MINING, "--eval-every=13"],
    "grpo+entropy": [*BUDGET, "--entropy-coef=0.003", "--eval-every=25"],  # as claims_lte.py's
}  # fmt: skip
SHOWN = ("grpo", "failure_prefix", "prefix_rl", "erpo", "pos_neg_pairing", "lte")  # in the figure
COMMANDS = {arm: ["results/pool_variants.py", arm] for arm in SHOWN}
COMMANDS |= {
    "grpo": ["grpo.py"],
    "lte+failures": ["results/pool_combined.py"],
    "grpo+entropy": ["results/pool_variants.py", "grpo"],
}
COMPARED = ("lte+failures", "failure_prefix"), ("lte+failures", "lte"), ("grpo+entropy", "lte")
MEETS = {  # how each arm meets the pool
    "failure_prefix": "half of each batch stands behind failures of 24 questions that were right 15 times of "
    "16, half are plain questions of the whole pool; no advice on mixing was found, and behind prefixes "
    "alone nothing else would be trained",
    "prefix_rl": "half of each batch is its mixture on 12 questions without a right answer in 8 and with one "
    "in 64 more, half are plain questions of the whole pool; its own loss on both",
    "erpo": "the budget pays for 4,800 groups, 1.6 for each of the 3,000 questions; a question can be hotter "
    "from its second visit on: see the mean temperature",
    "pos_neg_pairing": "no business here: it trains on two questions, whatever else the pool holds",
    "lte": "as it stands",
    "lte+failures": "half of each batch as in the arm failure_prefix, half as in the arm lte; no hint behind "
    "a prefix",
    "grpo+entropy": "as it stands, with an entropy bonus: no method, and what the least change can do",
}
SEEDS = range(8)
SETS = ("test", "harder")
METRICS = (
    rf"eval/(test|harder)/(avg@{SAMPLES}|pass@\d+)", "frac_(all_right|reward_zero_std)", "temperature/mean",
    "time/(search|sample|verify|train)", "num_tokens")  # fmt: skip
AGAINST = ("num_tokens", "tokens sampled, search included")
PANELS = {
    rf"eval/test/avg@{SAMPLES}": "held-out score (avg@n)",
    rf"eval/harder/avg@{SAMPLES}": "on longer problems",
    "frac_reward_zero_std": "share of zero-variance groups",
}
ZOOMED, LEGEND = tuple(PANELS.values())[:2], 2
DRAW = bands(SHOWN)
LATE = 10  # steps: the last ones


# ---- one model -----------------------------------------------------------------------------------


def entropy(model):
    """Mean -log p of what it samples on the first held-out set, nats a token.

    What runs log is over the tokens that they train on, which are other ones in every method.
    """
    problems = model.problems(model.settings["eval_sets"][0])
    golds = [p["answer"] for p in problems]
    groups = model.groups([p["prompt_ids"] for p in problems], golds, 4, "held out", 1.0)
    return mean(-logp for group in groups for r in group for logp in r.logps)


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)
    models = {"analysis": last_checkpoint(folder)} | ({"start": settings["model"]} if folder == first else {})
    for name, model in models.items():
        found = {"entropy": entropy(Analyst(model, settings))}
        (Path(folder) / f"{name}.json").write_text(json.dumps(found))


# ---- the statements ----


def at(rows, name, tokens):
    """A metric of a run when it had drawn so many tokens, linear between the rows around that that have it.

    Raises ValueError if the run has no such row after it: it ended before it had spent as much.
    """
    xs, ys = zip(*((row.get("num_tokens", 0), row[name]) for row in rows if name in row))
    if xs[-1] < tokens:
        raise ValueError(f"{name} was last measured at {xs[-1]} tokens, before {tokens}: raise --steps")
    return float(numpy.interp(tokens, xs, ys))


def scores(logs, arm, name, part=1):
    """A held-out score of each seed of an arm at its seed's budget, or at a part of it."""
    budgets = [part * rows[-1]["num_tokens"] for rows in logs.rows("grpo")]
    return [at(rows, f"eval/{name}", tokens) for rows, tokens in zip(logs.rows(arm), budgets, strict=True)]


def gaps(logs, arm, name, part=1):
    """What an arm is above GRPO, of each seed."""
    pairs = zip(scores(logs, arm, name, part), scores(logs, "grpo", name, part), strict=True)
    return [one - other for one, other in pairs]


def listed(texts):
    """{arm: text} as one text."""
    return "; ".join(f"{arm} {text}" for arm, text in texts.items())


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    others = [arm for arm in logs.arms if arm != "grpo"]
    for arm in others:
        for name in SETS:
            metric = f"{name}/avg@{SAMPLES}"
            row = above(f"{arm} above GRPO at equal tokens: {name}", gaps(logs, arm, metric))
            levels = [f"{100 * mean(scores(logs, one, metric)):.1f}" for one in (arm, "grpo")]
            yield row[0], row[1], f"{' against '.join(levels)}: {row[2]}", row[3]
    for what, text in described(logs, others).items():
        yield what, "", text, "reported"
    for arm in others:
        yield f"{arm} on this pool", "", MEETS[arm], "as set"


def described(logs, others):
    """{what: text} of what nobody is held to."""
    runs, found = {arm: logs.rows(arm) for arm in logs.arms}, {}
    for name in SETS:
        start = 100 * mean(rows[0][f"eval/{name}/avg@{SAMPLES}"] for some in runs.values() for rows in some)
        found[f"the starting model, avg@{SAMPLES}: {name}"] = f"{start:.1f}"
        metric = f"{name}/pass@{SAMPLES}"
        level = 100 * mean(scores(logs, "grpo", metric))
        leads = {arm: points(student(gaps(logs, arm, metric))) for arm in others}
        found[f"pass@{SAMPLES} above GRPO's {level:.1f}: {name}"] = listed(leads)

    for name in SETS:
        metric = f"{name}/avg@{SAMPLES}"
        early = {arm: points(student(gaps(logs, arm, metric, 0.75))) for arm in others}
        found[f"above GRPO after three quarters of the tokens: {name}"] = listed(early)
        ends = {arm: [100 * mean(scores(logs, arm, metric, part)) for part in (0.75, 1)] for arm in runs}
        rises = {arm: f"{after - before:+.1f}" for arm, (before, after) in ends.items()}
        found[f"what the last quarter adds: {name}"] = listed(rises)
    pieces = [gaps(logs, arm, f"test/avg@{SAMPLES}") for arm in ("lte+failures", "lte", "failure_prefix")]
    more = [both - one - other for both, one, other in zip(*pieces)]
    found["lte+failures above the sum of its two parts' leads: test"] = points(student(more))
    for one, other in COMPARED:
        for name in SETS:
            metrics = (f"{name}/avg@{SAMPLES}", f"{name}/pass@{SAMPLES}")
            pairs = [[scores(logs, arm, metric) for arm in (one, other)] for metric in metrics]
            texts = [points(student([a - b for a, b in zip(*pair)])) for pair in pairs]
            found[f"{one} minus {other}, avg@{SAMPLES} and pass@{SAMPLES}: {name}"] = " and ".join(texts)

    def late(arm, value):
        return share(student([mean(map(value, rows[1:][-LATE:])) for rows in runs[arm]]))

    kinds = {
        "right": lambda row: row["frac_all_right"],
        "wrong": lambda row: row["frac_reward_zero_std"] - row["frac_all_right"],
    }
    for kind, value in kinds.items():
        text = listed({arm: late(arm, value) for arm in runs})
        found[f"groups that are all {kind}, of what each samples, last {LATE} steps"] = text
    nats = {arm: f"{mean(one['entropy'] for one in logs.measured(arm)):.3f}" for arm in runs}
    start = mean(one["entropy"] for one in logs.measured("grpo", "start"))
    found["entropy on held-out problems, nats a token"] = f"before {start:.3f}; {listed(nats)}"
    budget = mean(rows[-1]["num_tokens"] for rows in runs["grpo"])
    before = {arm: mean(rows[0].get("num_tokens", 0) for rows in some) / budget for arm, some in runs.items()}
    steps = {arm: mean(len(rows) - 1 for rows in some) for arm, some in runs.items()}
    found[f"share of the {budget / 1e6:.2f} million tokens that went before step 1, and steps"] = listed(
        {arm: f"{before[arm]:.2f}, {steps[arm]:.0f}" for arm in runs}
    )
    each = {
        arm: [(rows[-1]["num_tokens"] - rows[0].get("num_tokens", 0)) / (len(rows) - 1) for rows in some]
        for arm, some in runs.items()
    }
    times = {arm: mean(a / b for a, b in zip(tokens, each["grpo"])) for arm, tokens in each.items()}
    found["tokens a step, in GRPO's"] = listed({arm: f"{value:.1f}" for arm, value in times.items()})
    clocks = [f"time/{phase}" for phase in ("search", "sample", "verify", "train")]
    seconds = {
        arm: mean(sum(row.get(clock, 0) for row in rows for clock in clocks) for rows in some)
        for arm, some in runs.items()
    }
    found["seconds without evaluation"] = listed({arm: f"{value:.0f}" for arm, value in seconds.items()})
    if "erpo" in runs:
        heat = mean(rows[-1]["temperature/mean"] for rows in runs["erpo"])
        found["erpo: mean temperature of the questions asked so far, at the end"] = f"{heat:.3f}"
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
