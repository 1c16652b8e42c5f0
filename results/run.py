"""Repeat a script over several seeds and turn the logs into the table and the figure of the README.

    python results/run.py grpo                  # runs the seeds whose logs are missing, then writes results/grpo.md and results/grpo.png
    python results/run.py grpo --seeds 0 1 2    # fewer seeds; --jobs 1: one after the other
    python results/run.py grpo --seeds 10 11 --sweep lr 1e-4 2e-4      # the same for several values of one setting -> results/grpo-lr.md
    python results/run.py failure_prefix                               # all arms of a method, and the table of the paper's statements

Logs stay in results/NAME/seed-N, NAME-SETTING/VALUE/seed-N or NAME/ARM/seed-N: metrics.jsonl, args.json (settings, versions, machine) and
finished.txt, the table the run ended with. The arms of a method, what is measured on each trained model and what becomes of it are in
results/claims_METHOD.py: ARMS, with the flags of each; COMMANDS, of arms that are not the method's own script; FEW, how many seeds suffice for an
arm; SHOWN, PANELS, AGAINST and ZOOMED, the figure. Flags that are not known here go to the script.
"""

import argparse
import importlib
import json
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

RESULTS = Path(__file__).resolve().parent
PANELS = {
    r"eval/[^/]+/avg@\d+": "held-out score (avg@n)",
    "reward": "training reward",
    "frac_reward_zero_std": "share of silent groups",
}


def run_seed(method, group, seed, flags, claims=None):
    """One run, or what is missing of it, in results/GROUP -> its rows of metrics.

    claims: the method's, whose analysis of the trained model is written to analysis.json. In flags, FIRST is the first arm's folder of this seed.
    """
    folder = RESULTS / group / f"seed-{seed}"
    if not (folder / "finished.txt").exists():
        where = str(folder.relative_to(RESULTS.parent))
        script = getattr(claims, "COMMANDS", {}).get(folder.parent.name)
        if script and folder.exists():  # only the scripts themselves can go on
            shutil.rmtree(folder)
        how = ["--resume", where] if (folder / "args.json").exists() else ["--out", where, "--seed", str(seed)]
        first = str((RESULTS / group.split("/")[0] / next(iter(claims.ARMS)) / f"seed-{seed}").relative_to(RESULTS.parent)) if claims else ""
        command = [sys.executable, *(script or [f"{method}.py"]), *how, *(flag.replace("FIRST", first) for flag in flags)]
        done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1]}")
        closing = done.stdout[done.stdout.rindex("\n", 0, done.stdout.rindex("before")) + 1 :]  # the table
        if claims:
            done = subprocess.run([sys.executable, claims.__file__, where, first], cwd=RESULTS.parent, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"error: the analysis of {where} failed: {done.stderr.strip().splitlines()[-1]}")
        (folder / "finished.txt").write_text(closing)
        for weights in [*folder.glob("checkpoint-*"), *folder.parent.glob(f"{folder.name}-taught")]:
            shutil.rmtree(weights)
        print(f"{folder.relative_to(RESULTS)} done", flush=True)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spread(values):
    """Mean and standard error over seeds, in points."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def table(runs):
    """Before and after, by evaluation set and level, as Markdown."""
    evaluated = [[row for row in rows if any(name.startswith("eval/") for name in row)] for rows in runs]
    first, last = [rows[0] for rows in evaluated], [rows[-1] for rows in evaluated]
    lines = [f"| | before | after step {last[0]['step']} | gain, worst to best seed | pass@k before | after |", "|---|---|---|---|---|---|"]
    for name in (n for n in last[0] if re.search(r"/avg@\d+$", n)):
        passes = [n for n in last[0] if n.startswith(name.rsplit("/", 1)[0] + "/pass@")]
        best = max(passes, key=lambda n: int(n.rsplit("@")[1]))
        before, after = [r[name] for r in first], [r[name] for r in last]
        gains = sorted(100 * (b - a) for a, b in zip(before, after))
        cells = [name.removeprefix("eval/"), spread(before), spread(after), f"{gains[0]:+.1f} to {gains[-1]:+.1f}"]
        lines.append("| " + " | ".join([*cells, spread([r[best] for r in first]), spread([r[best] for r in last])]) + " |")
    seconds = [sum(row.get(f"time/{phase}", 0) for row in rows for phase in ("sample", "verify", "train", "evaluate")) for rows in runs]
    took = f"{statistics.median(seconds):.0f} s a run ({min(seconds):.0f} to {max(seconds):.0f})"
    return "\n".join(lines) + f"""

Mean ± standard error over {len(runs)} seeds, in points; pass@k with the largest k measured. Sampling, checking, training and evaluating
took {took}."""


def sweep_table(setting, values, runs):
    """Start, best and end of the held-out score and the silent share at the end, for each value of a setting, as Markdown."""
    lines = [f"| {setting} | held-out avg@n before | at its best | at the end | silent groups, last 10 steps |", "|---|---|---|---|---|"]
    for value, rows in zip(values, runs, strict=True):
        name = next(n for n in rows[0][0] if re.fullmatch(r"eval/[^/]+/avg@\d+", n))
        scores = [[row[name] for row in run if name in row] for run in rows]
        silent = [statistics.mean(row["frac_reward_zero_std"] for row in run[-10:]) for run in rows]
        cells = [value, *(spread(x) for x in ([s[0] for s in scores], [max(s) for s in scores], [s[-1] for s in scores], silent))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nMean ± standard error over {len(runs[0])} seeds, in points."


def figure(runs, file, panels=PANELS, against=("step", "step"), zoomed=()):
    """runs: {name: rows of each seed}. Every seed as a thin line and their mean as a thick one, a colour for each name.

    panels: {pattern of a metric: title}. against: the metric on the x-axis, and what it is called. zoomed: titles of panels not drawn from 0 to 1.
    """
    columns = min(3, len(panels))
    fig, axes = plt.subplots(-(-len(panels) // columns), columns, squeeze=False, constrained_layout=True)
    fig.set_size_inches(4 * columns, 3.4 * len(axes))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (pattern, title) in zip(axes.flat, panels.items()):
        for colour, (label, seeds) in enumerate(runs.items()):
            name = next((n for row in seeds[0] for n in row if re.fullmatch(pattern, n)), None)
            if name is None or not any(row.get(name) for rows in seeds for row in rows):
                continue  # not every arm has every metric, and some have it as 0 throughout
            series = [[(row[against[0]], row[name]) for row in rows if name in row] for rows in seeds]
            for points in series:
                axis.plot(*zip(*points), color=f"C{colour}", alpha=min(0.3, 3 / len(seeds)), linewidth=1)
            means = [[statistics.mean(values) for values in zip(*(axis_of(points) for points in series))]
                     for axis_of in (lambda points: [x for x, _ in points], lambda points: [y for _, y in points])]  # fmt: skip
            axis.plot(*means, color=f"C{colour}", linewidth=2, label=label)
        axis.set(title=title, xlabel=against[1], ylim=(None, None) if title in zoomed else (0, max(1, axis.dataLim.ymax)))
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes[0, 0].legend(fontsize=8)
    fig.savefig(file, dpi=150)
    plt.close(fig)


def run_arms(args, flags):
    """Every arm of a method over the seeds, the table of statements and the figure of all arms."""
    claims = importlib.import_module(f"claims_{args.method}")
    first, *others = claims.ARMS
    seeds_of = lambda arm: args.seeds[: getattr(claims, "FEW", {}).get(arm)]  # noqa: E731
    for some in [first], others:  # the first arm leaves behind what the others start from
        with ThreadPoolExecutor(args.jobs) as pool:
            todo = [(arm, seed) for seed in args.seeds for arm in some if seed in seeds_of(arm)]
            list(pool.map(lambda work: run_seed(args.method, f"{args.method}/{work[0]}", work[1], [*claims.ARMS[work[0]], *flags], claims), todo))
    folders = {arm: [RESULTS / args.method / arm / f"seed-{seed}" for seed in seeds_of(arm)] for arm in claims.ARMS}
    rows = ["| | needed | measured | |", "|---|---|---|---|"] + ["| " + " | ".join(row) + " |" for row in claims.statements(folders)]
    device = json.loads((folders[first][0] / "args.json").read_text())["environment"]["device"]
    command = " ".join(["python results/run.py", args.method, *sys.argv[2:]])
    fewer = [f"{seeds} for {', '.join(arm for arm in claims.ARMS if len(folders[arm]) == seeds)}" for seeds in
             sorted({len(some) for some in folders.values()} - {len(args.seeds)})]
    text = f"`{command}` on {device}; {'; '.join([f'{len(args.seeds)} seeds', *fewer])}; intervals are 95 %\n\n" + "\n".join(rows) + "\n"
    (RESULTS / f"{args.method}.md").write_text(text)
    rows_of = lambda folder: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]  # noqa: E731
    runs = {arm: [rows_of(folder) for folder in folders[arm]] for arm in claims.SHOWN}
    figure(runs, RESULTS / f"{args.method}.png", getattr(claims, "PANELS", PANELS), getattr(claims, "AGAINST", ("step", "step")),
           getattr(claims, "ZOOMED", ()))
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="a script's name without .py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; one CPU core each")
    parser.add_argument("--sweep", nargs="+", metavar=("SETTING", "VALUE"), help="repeat for each value of one setting")
    args, flags = parser.parse_known_args()
    if not (RESULTS.parent / f"{args.method}.py").exists():
        raise SystemExit(f"error: there is no {args.method}.py to run")
    if (RESULTS / f"claims_{args.method}.py").exists() and not args.sweep:
        return run_arms(args, flags)
    setting, *values = args.sweep or ["", ""]
    name = f"{args.method}-{setting}" if setting else args.method
    todo = [(args.method, f"{name}/{value}" if setting else name, seed, [*flags, *([f"--{setting}", value] if setting else [])])
            for value in values for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(lambda work: run_seed(*work), todo))
    runs = [done[i : i + len(args.seeds)] for i in range(0, len(done), len(args.seeds))]  # by value
    command = " ".join(["python results/run.py", args.method, *sys.argv[2:]])
    machine = json.loads((RESULTS / todo[0][1] / f"seed-{args.seeds[0]}" / "args.json").read_text())["environment"]["device"]
    text = sweep_table(setting, values, runs) if setting else table(runs[0])
    (RESULTS / f"{name}.md").write_text(f"`{command}` on {machine}\n\n{text}\n")
    if not setting:
        figure({args.method: runs[0]}, RESULTS / f"{name}.png")
    print((RESULTS / f"{name}.md").read_text())


if __name__ == "__main__":
    main()
