"""The baseline on the tiny task: do its seeds agree, does it stall, how many facts does it find?

    python results/run.py grpo          # makes results/grpo.md of these statements
    python tiny/probe.py --stability    # prints them

Run as a script, with a run's folder, it measures which names the trained model reads rightly. No method is
involved: these are what the tiny task has to be before one is run in it.
"""

import json
import math
import re
import statistics
import sys
from pathlib import Path

import packed
from analysis import OTHER_TASK, ROOT, last_checkpoint, settings_of, verdict

sys.path.insert(0, str(ROOT / "tiny"))

SEEDS = tuple(range(10))
ARMS = {
    "grpo": [],
    "other rounding": ["--micro-batch-tokens", "4096"],  # of sums; a second thread changes no bit
    "another task": OTHER_TASK,
    "160 steps": ["--steps", "160"],
}
FEW = {"other rounding": 3, "another task": 3, "160 steps": 3}
SHOWN, SCORES = ("grpo",), True
PANELS = {
    r"eval/test/avg@\d+": "held-out score",
    r"eval/harder/avg@\d+": "on longer problems",
    "frac_reward_zero_std": "share of zero-variance groups",
}
RARE = 0.1  # read rightly so often or less, in the lessons
PAIRED = 8  # seeds that a comparison of two arms has
QUANTILES = 2.365 + 0.896  # of Student's t, 7 degrees of freedom: .975, and .8 for four of five trials
SETS = ("test", "harder")


def scores(run, name):
    """The scores of a held-out set, in points, as (step, score)."""
    metric = next(m for m in run[0] if re.fullmatch(rf"eval/{name}/avg@\d+", m))
    return [(row["step"], 100 * row[metric]) for row in run if metric in row]


def ends(logs, arm, name):
    return [scores(run, name)[-1][1] for run in logs.rows(arm)]


def rises(logs, arm, name):
    """By how much each evaluation of the second half was above the one before it, over all seeds."""
    found = []
    for run in logs.rows(arm):
        points = scores(run, name)
        later = [i for i, (step, _) in enumerate(points) if step > points[-1][0] / 2]
        found += [points[i][1] - points[i - 1][1] for i in later]
    return found


def agreement(logs):
    arms = [arm for arm in ("grpo", "other rounding", "another task") if arm in logs.arms]
    for arm in arms:
        for name in SETS:
            last = ends(logs, arm, name)
            spread = statistics.stdev(last)
            yield (f"seeds agree: {arm}, {name}", "deviation over seeds of the last score at most 1.5 points",
                   f"{spread:.1f}; {' '.join(f'{score:.1f}' for score in last)}", spread <= 1.5)
    for arm in arms:
        most = {name: max(rises(logs, arm, name)) for name in SETS}
        yield (f"no take-off: {arm}", "no score of the second half more than 4 points above the one before",
               "; ".join(f"{name} {rise:+.1f} at most" for name, rise in most.items()),
               max(most.values()) <= 4)


def stall(logs):
    late = [run[1:][-10:] for run in logs.rows("grpo")]
    same = [statistics.mean(row["frac_reward_zero_std"] for row in rows) for rows in late]
    right = [statistics.mean(row["frac_all_right"] for row in rows) for rows in late]
    wrong = [all_same - all_right for all_same, all_right in zip(same, right)]
    yield ("zero-variance groups, last ten steps", "above .6, and .2 of all groups all wrong, in every seed",
           f"{min(same):.2f} to {max(same):.2f}; all wrong {min(wrong):.2f} to {max(wrong):.2f}",
           min(same) > 0.6 and min(wrong) >= 0.2)
    for name in SETS:
        curves = [scores(run, name) for run in logs.rows("grpo")]
        mean = [(points[0][0], statistics.mean(score for _, score in points)) for points in zip(*curves)]
        (_, first), (_, last) = mean[0], mean[-1]
        before = [score for step, score in mean if step <= 0.75 * mean[-1][0]][-1]
        yield (f"it flattens: {name}", "mean gain of the last quarter below a fifth of the whole",
               f"{last - before:+.1f} of {last - first:+.1f}; {' '.join(f'{x:.1f}' for _, x in mean)}",
               last - before < (last - first) / 5)
    usual = logs.rows("grpo")[0][-1]["step"]
    for name in SETS if "160 steps" in logs.arms else ():
        curves = [scores(run, name) for run in logs.rows("160 steps")]
        more = [points[-1][1] - dict(points)[usual] for points in curves]
        yield (f"160 steps: {name}", f"less than 3 points more than after {usual}, in the mean",
               f"{statistics.mean(more):+.1f}; {' '.join(f'{gain:+.1f}' for gain in more)}",
               statistics.mean(more) < 3)


def discoveries(logs):
    """Names read rightly more often than not, of those that the starting model reads wrongly."""
    start = logs.measured("grpo", "start")[0]["names"]
    ends = [found["names"] for found in logs.measured("grpo")]
    about = json.loads((ROOT / "tiny/names.json").read_text())
    traps = {x: name["rate"] for x, name in about.items() if name["group"] == "trap" and start[x] < 0.5}
    curve, counts = [], [0] * len(ends)
    for rate in sorted(set(traps.values()), reverse=True):
        labels = [x for x in traps if traps[x] == rate]
        found = [sum(end[x] > 0.5 for x in labels) for end in ends]
        counts = [count + more for count, more in zip(counts, found)]
        likely = statistics.mean(start[x] for x in labels)
        curve.append(f"{likely:.4f}: {statistics.mean(found):.1f} of {len(labels)}")
    yield ("facts found, by their chance at the start", "20 or more, and a tail is left", "; ".join(curve),
           20 <= statistics.mean(counts) <= 0.75 * len(traps))
    yield ("facts found in each seed", "spread below a quarter of the mean",
           f"{' '.join(map(str, counts))} of {len(traps)}; deviation {statistics.stdev(counts):.1f}",
           statistics.stdev(counts) < statistics.mean(counts) / 4)
    untold = {x: name["rate"] for x, name in about.items() if name["group"] == "untold"}
    rare = [x for x, rate in untold.items() if rate <= RARE]
    for what, labels in ("rare names that no problem has", rare), ("names that no problem has", untold):
        moved = [100 * statistics.mean(end[x] - start[x] for x in labels) for end in ends]
        before = 100 * statistics.mean(start[x] for x in labels)
        yield (what, "read rightly as often as before, by 2 points, in every seed",
               f"{len(labels)} names, from {before:.1f} %: {min(moved):+.1f} to {max(moved):+.1f}",
               max(map(abs, moved)) <= 2)


def power(logs):
    for name in SETS:
        spread = statistics.stdev(ends(logs, "grpo", name))
        smallest = QUANTILES * math.sqrt(2) * spread / math.sqrt(PAIRED)
        yield (f"smallest difference that {PAIRED} seeds of two arms show: {name}", "at most 2 points",
               f"{smallest:.1f}, found in four of five trials", smallest <= 2)


def statements(logs):
    """Rows (what, needed, measured, verdict)."""
    for part in (agreement, stall, discoveries, power):
        for *cells, held in part(logs):
            yield [*cells, verdict(held)]


def table():
    """The rows as Markdown, of what is packed."""
    logs = packed.Logs(packed.load(ROOT / "results" / "grpo.json.xz"))
    rows = ["| | needed | measured | |", "|---|---|---|---|"]
    return "\n".join(rows + ["| " + " | ".join(cells) + " |" for cells in statements(logs)])


def main(folder, first):
    """Writes what a run's last model reads names as, and what the starting model does."""
    import probe

    settings = settings_of(folder)
    names = json.loads((Path(ROOT / settings["data"]).parent / "names.json").read_text())
    for file, model in (("analysis", last_checkpoint(folder)), ("start", ROOT / settings["model"])):
        known = {label: round(chance, 5) for label, chance in probe.Pupil(model).known(names).items()}
        (Path(folder) / f"{file}.json").write_text(json.dumps({"names": known}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
