"""What the claims files share: sampling from a trained model and intervals over seeds and questions."""

import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy
from packed import TASK_1

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common import (  # noqa: E402
    TransformersSampler,  # noqa: E402
    load_model,
    score_rollouts,
)
from plumbing import derive_seed  # noqa: E402
from plumbing.data import load_problems  # noqa: E402

OTHER_TASK = [
    "--model", str(TASK_1 / "model"), "--tiny", "--data", str(TASK_1 / "train.jsonl"),
    "--eval-sets", str(TASK_1 / "test.jsonl"), str(TASK_1 / "harder.jsonl"),
]  # fmt: skip


class Analyst:
    """A model and the settings of its run. What is sampled from it has the same seed for every model."""

    def __init__(self, model, settings):
        self.model, self.tokenizer = load_model(str(model), settings["dtype"])
        self.settings, self.sampler = settings, TransformersSampler(self.model, self.tokenizer, 256)

    def problems(self, source):
        """The problems of a source, those of a tiny task each with its family."""
        problems = load_problems(source, self.tokenizer, instruction=self.settings["instruction"])
        if not source.endswith(".jsonl"):
            return problems
        rows = [json.loads(line) for line in (ROOT / source).read_text().splitlines()]
        return [problem | {"family": rows[problem["id"]].get("family")} for problem in problems]

    def groups(self, contexts, golds, n, purpose, temperature=None):
        """n scored rollouts of each context -> list of lists."""
        heat = temperature or self.settings["temperature"]
        rollouts = (
            self.sampler.generate(
                contexts, n, heat, self.settings["max_tokens"], derive_seed("claims", purpose)
            )
            if contexts
            else []
        )
        score_rollouts(rollouts, [gold for gold in golds for _ in range(n)], self.tokenizer)
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    def rates(self, contexts, golds, n, purpose):
        """Share of right answers of each context."""
        return [
            statistics.mean(r.reward for r in group) for group in self.groups(contexts, golds, n, purpose)
        ]

    def asked(self, problems, n, purpose):
        """Share of right answers of each problem."""
        return self.rates([p["prompt_ids"] for p in problems], [p["answer"] for p in problems], n, purpose)


def settings_of(folder):
    return json.loads((Path(folder) / "args.json").read_text())["settings"]


def last_checkpoint(folder):
    return max(Path(folder).glob("checkpoint-??????"))


STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262,  # .975 of t; 1 to 9 degrees of freedom
    2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,  # 10 to 19
)  # fmt: skip


def student(values):
    """Mean of one number a seed, and its 95 % interval by Student's t -> (mean, low, high).

    For few seeds: of eight, drawing them again makes intervals a fifth too narrow. Above twenty the quantile
    is that for twenty, a little wide. Of one value the interval is nan.
    """
    mean, size = statistics.fmean(values), len(values)
    if size == 1:
        return mean, math.nan, math.nan
    half = STUDENT[min(size - 2, len(STUDENT) - 1)] * statistics.stdev(values) / size**0.5
    return mean, mean - half, mean + half


def smallest_seen(gaps):
    """The true difference whose interval would be above 0 in four of five trials. gaps: of paired seeds."""
    mean, low, _ = student(gaps)
    return (mean - low) + 0.896 * statistics.stdev(gaps) / len(gaps) ** 0.5  # .8 of t; 7 degrees of freedom


def above(what, leads):
    """A row of a table: whether a difference of paired seeds is above 0, and what could have been seen."""
    found, least = student(leads), 100 * smallest_seen(leads)
    text = f"{points(found)}; {least:.1f} would be seen four times of five"
    return what, "interval above 0", text, verdict(found[1] > 0)


def leads(ones, others):
    """Mean over the questions of one arm minus that of another, a number a seed that both have."""
    return [statistics.fmean(a) - statistics.fmean(b) for a, b in zip(ones, others)]


def final(runs, held_out, row=-1):
    """The score of each run on tiny/HELD_OUT.jsonl in its last row, or another."""
    name = re.compile(rf"eval/{held_out}/avg@\d+")
    return [next(v for n, v in rows[row].items() if name.fullmatch(n)) for rows in runs]


def longer(logs, arms, one, other):
    """A row of a table: the scores of arms on tiny/harder.jsonl at the end, and what one is above another."""
    ends = {arm: final(logs.rows(arm), "harder") for arm in arms}
    text = ", ".join(f"{arm} {100 * statistics.fmean(values):.1f}" for arm, values in ends.items())
    lead = points(student([a - b for a, b in zip(ends[one], ends[other])]))
    return "longer problems (harder) at the end", "", f"{text}; {one} minus {other} {lead}", "reported"


# Okabe and Ito's colours, which colour-blind readers tell apart, and dashes for those who see none
STYLES = (
    ("#000000", "-"), ("#D55E00", "--"), ("#0072B2", "-."), ("#009E73", "-"), ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
)  # fmt: skip
SMOOTH = 10  # steps that the line of a metric of every step is the mean of


def bands(arms):
    """What draws an arm in a panel, for run.py's DRAW: its mean over seeds and their 95 % interval."""
    styles = dict(zip(arms, STYLES))

    def band(axis, colour, label, series):
        """series: for each seed its points (x, y)."""
        colour, dashes = styles[label]
        if len(series[0]) > 2 * SMOOTH:  # logged at every step
            windows = [zip(*(run[i:] for i in range(SMOOTH))) for run in series]
            series = [[tuple(map(statistics.fmean, zip(*window))) for window in some] for some in windows]
        ends = max(run[0][0] for run in series), min(run[-1][0] for run in series)
        xs = numpy.linspace(*ends, 60)  # seeds may have their points at different tokens
        ys = [numpy.interp(xs, *zip(*run)) for run in series]
        middle, low, high = zip(*(student(column) for column in zip(*ys)))
        axis.plot(xs, middle, color=colour, linestyle=dashes, linewidth=2, label=label)
        axis.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)

    return band


def points(triple):
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in triple))


def share(triple):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*triple)


def verdict(ok):
    return "held" if ok else "**failed**"
