"""Repeat a script over several seeds and turn what was logged into the table and the figure of the README.

    python results/run.py lte                     # all arms and seeds -> results/lte.md, results/lte.png
    python results/run.py pool                    # all methods on one pool, claims_pool.py
    python results/run.py grpo --seeds 0 1 2      # other seeds; --jobs 1: one after the other
    python results/run.py grpo --seeds 10 11 --sweep lr 1e-4 2e-4     # a setting's values, results/grpo-lr.md

Tables and figures are made of results/METHOD.json.xz (see packed.py). A run that is missing there is made in
results/logs/TASK/METHOD/ARM/seed-N, which git ignores, and its numbers are added. A run that was stopped goes
on. TASK is the start of a checksum of the tiny task. Runs of two tasks are never joined; a table of runs that
were made in another task than the tree's says so in its first line.

What is run and shown is said in results/claims_METHOD.py, by the names in DEFAULTS and

    ARMS         {arm: its flags}, in which FIRST is the first arm's folder of the same seed
    statements   packed.Logs -> rows of the table; run as a script, the file measures a trained model
"""

import argparse
import importlib
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import packed
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SEEDS = (0, 1, 2, 3, 4)
SCORE = r"eval/[^/]+/avg@\d+"
DEFAULTS = {
    "COMMANDS": {},  # {arm: script and its first arguments} of arms that are not the method's own
    "SWEPT": [],  # flags with every value of a sweep
    "ONCE": [],  # flags by which its further values take from the first what a method makes before it trains
    "SEEDS": SEEDS,  # of the published table
    "FEW": {},  # {arm: how many of the seeds suffice}
    # patterns of the metrics that the tables need
    "METRICS": (r"eval/.*(avg|pass)@\d+", r"time/(sample|verify|train|evaluate)", "frac_all_right"),
    "SCORES": False,  # whether the first arm's scores before and after are shown beside the statements
    "SHOWN": None,  # arms in the figure; None: all
    # the figure's panels, {pattern of a metric: title}
    "PANELS": {
        r"eval/test/avg@\d+": "held-out score (avg@n)",
        "reward": "training reward",
        "frac_reward_zero_std": "share of zero-variance groups",
    },
    "AGAINST": ("step", "step"),  # the metric on the x-axis, and what it is called
    "ZOOMED": (),  # titles of panels that are not drawn from 0 to 1
    "LEGEND": 0,  # which panel it is in
    "DRAW": None,  # the function that draws an arm in a panel; None: draw
}


def plan_of(method, sweep):
    """What is run and shown, by the names in DEFAULTS and ARMS.

    sweep: a setting and its values, [] without one. claims: the module with the statements, None without.
    task: the checksum of the tree's.
    """
    task, claims = packed.task(), None
    if (ROOT / "results" / f"claims_{method}.py").exists():
        claims = importlib.import_module(f"claims_{method}")
    if sweep:
        setting, *values = sweep
        swept, once = (getattr(claims, name, []) for name in ("SWEPT", "ONCE"))
        arms = {f"{setting}={value}": [*swept, *once, f"--{setting}", value] for value in values}
        arms[f"{setting}={values[0]}"] = [*swept, f"--{setting}", values[0]]  # makes it
        return SimpleNamespace(**DEFAULTS, ARMS=arms, claims=None, task=task)
    if not claims:
        return SimpleNamespace(**DEFAULTS, ARMS={method: []}, claims=None, task=task)
    return SimpleNamespace(**DEFAULTS | vars(claims), claims=claims, task=task)


# ---- runs ----


def ask(*command):
    """Runs a Python script in the repository. If it fails, raises SystemExit with its last line."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "?").splitlines()[-1]
        raise SystemExit(f"error: {' '.join(map(str, command))} failed: {reason}")


def run_seed(method, plan, arm, seed):
    """One run, or what is missing of it, and what its claims measure -> its folder, without the weights."""
    logs = RESULTS / "logs" / plan.task[:8] / method
    folder, first = logs / arm / f"seed-{seed}", logs / next(iter(plan.ARMS)) / f"seed-{seed}"
    if (folder / "finished").exists():
        return folder
    script = plan.COMMANDS.get(arm, [f"{method}.py"])
    how = "--resume" if (folder / "args.json").exists() else "--out"
    ask(*script, how, folder, "--seed", seed, *(flag.replace("FIRST", str(first)) for flag in plan.ARMS[arm]))
    if plan.claims:
        ask(plan.claims.__file__, folder, first)
    if packed.task() != plan.task:
        raise SystemExit(f"error: tiny/ has changed while {folder} was made; delete that folder, start again")
    for weights in [*folder.glob("checkpoint-*"), *folder.parent.glob(f"{folder.name}-taught")]:
        shutil.rmtree(weights)
    (folder / "finished").touch()
    print(f"{method} {arm} seed {seed} done", flush=True)
    return folder


def make_other_task(flags):
    """The task that some arms train in, packed.TASK_1, if these flags name it and it is not there."""
    folder = packed.TASK_1
    if any(flag.startswith(str(folder)) for flag in flags) and not (folder / "model").exists():
        print(f"making another tiny task in {folder}, some 20 minutes", flush=True)
        ask("tiny/make.py", "--seed", 1, "--out", folder)


def of_another_task(runs, plan):
    """Whether any of these runs was not made in the tree's task, as far as is known."""
    return any(run.get("task") != plan.task for run in runs)


def run_missing(method, plan, runs, seeds, jobs):
    """Makes the wanted runs that are not in `runs`, {arm: {seed: run}}, and adds them -> how many were made.

    seeds: {arm: those wanted}. jobs: runs at a time. Raises SystemExit if the others are of another task.
    """
    first, *others = plan.ARMS
    missing = {arm: [n for n in some if str(n) not in runs.get(arm, {})] for arm, some in seeds.items()}
    # what arms start from is not packed: the first arm is run again for them, and its packed numbers stay
    starting = [arm for arm in others if any("FIRST" in flag for flag in plan.ARMS[arm])]
    leading = sorted({seed for arm in [first, *starting] for seed in missing[arm]})
    stages = [(first, seed) for seed in leading], [(arm, seed) for arm in others for seed in missing[arm]]
    patterns = ["step", plan.AGAINST[0], *plan.PANELS, *plan.METRICS]
    if any(stages) and of_another_task([run for some in runs.values() for run in some.values()], plan):
        raise SystemExit(f"error: results/{method}.json.xz holds runs of another tiny task than the tree's,"
                         " and others are missing; move or delete it to measure all anew")

    make_other_task([flag for arm, some in missing.items() if some for flag in plan.ARMS[arm]])

    def make(work):
        return packed.pack(run_seed(method, plan, *work), patterns, plan.task)

    for stage in stages:
        with ThreadPoolExecutor(jobs) as pool:
            made = list(pool.map(make, stage))
        for (arm, seed), run in zip(stage, made, strict=True):
            runs.setdefault(arm, {}).setdefault(str(seed), run)
    return sum(map(len, stages))


# ---- tables ----


def spread(values):
    """Mean and standard error over seeds, in points."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def markdown(head, rows):
    """A Markdown table of its first line and the cells of each row."""
    rule = "---".join("|" * head.count("|"))
    return "\n".join([head, rule, *("| " + " | ".join(cells) + " |" for cells in rows)])


def before_and_after(logs):
    """Scores of the first arm before and after, by evaluation set and level, as Markdown."""
    runs = logs.rows(logs.arms[0])
    evaluated = [[row for row in rows if any(name.startswith("eval/") for name in row)] for rows in runs]
    first, last = [rows[0] for rows in evaluated], [rows[-1] for rows in evaluated]
    lines = []
    for name in (n for n in last[0] if re.search(r"/avg@\d+$", n)):
        passes = [n for n in last[0] if n.startswith(name.rsplit("/", 1)[0] + "/pass@")]
        most = max(passes, key=lambda n: int(n.rsplit("@")[1]))
        columns = [[row[what] for row in rows] for what in (name, most) for rows in (first, last)]
        gains = sorted(100 * (after - before) for before, after in zip(*columns[:2]))
        before, after, *passed = map(spread, columns)
        gain = f"{gains[0]:+.1f} to {gains[-1]:+.1f}"
        lines.append([name.removeprefix("eval/"), before, after, gain, *passed])
    head = f"| | before | after step {last[0]['step']} | gain, worst to best seed | pass@k before | after |"
    phases = ("sample", "verify", "train", "evaluate")
    seconds = [sum(row.get(f"time/{phase}", 0) for row in rows for phase in phases) for rows in runs]
    return f"""{markdown(head, lines)}

Mean ± standard error over {len(runs)} seeds, in points; pass@k with the largest k measured. \
Sampling, checking, training and evaluating
took {statistics.median(seconds):.0f} s a run ({min(seconds):.0f} to {max(seconds):.0f})."""


def sweep_table(setting, logs):
    """For each arm and held-out set the score at the start, its best and the end, as Markdown."""
    lines = []
    for arm in logs.arms:
        runs = logs.rows(arm)
        same = [statistics.mean(row["frac_reward_zero_std"] for row in rows[1:][-10:]) for rows in runs]
        for name in (n for n in runs[0][0] if re.fullmatch(SCORE, n)):
            scores = [[row[name] for row in rows if name in row] for rows in runs]
            columns = [s[0] for s in scores], [max(s) for s in scores], [s[-1] for s in scores]
            deviation = statistics.stdev(columns[-1]) if len(runs) > 1 else float("nan")
            cells = [*map(spread, columns), f"{100 * deviation:.1f}", spread(same)]
            lines.append([arm.removeprefix(f"{setting}="), name.split("/")[1], *cells])
    head = f"| {setting} | set | before | at its best | at the end | its deviation over seeds "
    head += "| zero-variance groups, last 10 steps |"
    return f"{markdown(head, lines)}\n\nMean ± standard error over {len(runs)} seeds, in points."


def claims_table(claims, logs):
    """The statements of a paper, as Markdown."""
    return markdown("| | needed | measured | |", claims.statements(logs))


def numbers_of_seeds(seeds):
    """How many seeds the arms have, those with fewer than the most by name."""
    most = max(map(len, seeds.values()))
    parts = [f"{most} seeds"]
    for fewer in sorted({len(some) for some in seeds.values()} - {most}):
        parts.append(f"{fewer} for {', '.join(arm for arm, some in seeds.items() if len(some) == fewer)}")
    return "; ".join(parts)


# ---- figure ----


def draw(axis, colour, label, series):
    """A thin line for each seed and a thick one for their mean. series: for each seed its points (x, y)."""
    for points in series:
        axis.plot(*zip(*points), color=colour, alpha=min(0.3, 3 / len(series)), linewidth=1)
    xs = [statistics.mean(x for x, _ in points) for points in zip(*series)]
    ys = [statistics.mean(y for _, y in points) for points in zip(*series)]
    axis.plot(xs, ys, color=colour, linewidth=2, label=label)


def figure(plan, logs, file):
    """A panel for each metric, a colour for each arm. plan: see DEFAULTS."""
    runs = {arm: logs.rows(arm) for arm in plan.SHOWN or logs.arms}
    x, x_label = plan.AGAINST
    draw_arm = plan.DRAW or draw
    columns = min(3, len(plan.PANELS))
    fig, axes = plt.subplots(-(-len(plan.PANELS) // columns), columns, squeeze=False, constrained_layout=True)
    fig.set_size_inches(4 * columns, 3.4 * len(axes))
    for axis in axes.flat[len(plan.PANELS) :]:
        axis.remove()
    for axis, (pattern, title) in zip(axes.flat, plan.PANELS.items()):
        for place, (arm, seeds) in enumerate(runs.items()):
            names = {n for row in seeds[0] for n in row if re.fullmatch(pattern, n)}
            if len(names) > 1:
                raise ValueError(f"panel {title}: {pattern} is {' and '.join(sorted(names))}")
            name = min(names, default=None)
            if name is None or not any(row.get(name) for rows in seeds for row in rows):
                continue  # not every arm has every metric, and some have it as 0 throughout
            # what is counted from 0 is not logged before the first step
            series = [[(row.get(x, 0), row[name]) for row in rows if name in row] for rows in seeds]
            draw_arm(axis, f"C{place}", arm, series)
        low_to_high = (None, None) if title in plan.ZOOMED else (0, max(1, axis.dataLim.ymax))
        axis.set(title=title, xlabel=x_label, ylim=low_to_high)
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes.flat[plan.LEGEND].legend(fontsize=8)
    fig.savefig(file, dpi=110)
    plt.close(fig)
    picture = Image.open(file).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)  # a third of the size


# ---- all of it ----


def spelled_out(args):
    """The command with what it takes by default, as tables quote it."""
    words = ["python results/run.py", args.method]
    if tuple(args.seeds) != SEEDS:
        words += ["--seeds", *args.seeds]
    words += ["--jobs", args.jobs]
    if args.sweep:
        words += ["--sweep", *args.sweep]
    return " ".join(map(str, words))


def main(argv=None):
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    parser.add_argument("method", help="a script's name without .py; pool: all on one pool")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the published table")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; one CPU core each")
    many = {"nargs": "+", "default": [], "metavar": ("SETTING", "VALUE")}
    parser.add_argument("--sweep", **many, help="repeat for each value of one setting")
    args = parser.parse_args(argv)
    named = f"{args.method}.py", f"results/claims_{args.method}.py"
    if not any((ROOT / file).exists() for file in named):
        raise SystemExit(f"error: there is no {args.method}.py to run")
    plan = plan_of(args.method, args.sweep)
    args.seeds = args.seeds or plan.SEEDS
    if plan.claims and len(args.seeds) < 2:
        raise SystemExit("error: a table's intervals are over seeds: give --seeds two or more")
    seeds = {arm: args.seeds[: plan.FEW.get(arm)] for arm in plan.ARMS}

    file = RESULTS / f"{args.method}.json.xz"
    runs = packed.load(file)
    if run_missing(args.method, plan, runs, seeds, args.jobs):
        packed.save(file, runs)

    logs = packed.Logs(runs, seeds)
    name, text = args.method, f"`{spelled_out(args)}` on {logs.device()}"
    if of_another_task([run for some in logs.runs.values() for run in some], plan):
        text = f"**Of the task before this one: to be measured again.**\n\n{text}"
    if plan.claims:
        text += f"; {numbers_of_seeds(seeds)}; intervals are 95 %\n\n{claims_table(plan.claims, logs)}\n"
    elif args.sweep:
        name += f"-{args.sweep[0]}"
        text += f"\n\n{sweep_table(args.sweep[0], logs)}\n"
    if plan.SCORES or not plan.claims and not args.sweep:
        text += f"\n\n{before_and_after(logs)}\n"
    (RESULTS / f"{name}.md").write_text(text)
    if not args.sweep:
        figure(plan, logs, RESULTS / f"{name}.png")
    print(text)


if __name__ == "__main__":
    main()
