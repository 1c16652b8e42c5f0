"""Repeat a script over several seeds and turn the logs into the table and the figure of the README.

    python results/run.py grpo                  # runs the seeds whose logs are missing, then writes results/grpo.md and results/grpo.png
    python results/run.py grpo --seeds 0 1 2    # fewer seeds; --jobs 1: one after the other
    python results/run.py grpo --seeds 10 11 --sweep lr 1e-4 2e-4      # the same for several values of one setting -> results/grpo-lr.md

Logs stay in results/NAME/seed-N, or NAME-SETTING/VALUE/seed-N: metrics.jsonl, args.json (settings,
versions, machine) and finished.txt, the table the run ended with.
Flags that are not known here go to the script.
"""

import argparse
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


def run_seed(method, group, seed, flags):
    """One run, or what is missing of it, in results/GROUP -> its rows of metrics."""
    folder = RESULTS / group / f"seed-{seed}"
    if not (folder / "finished.txt").exists():
        where = str(folder.relative_to(RESULTS.parent))
        how = ["--resume", where] if (folder / "args.json").exists() else ["--out", where, "--seed", str(seed)]
        command = [sys.executable, f"{method}.py", *how, *flags]
        done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1]}")
        (folder / "finished.txt").write_text(done.stdout[done.stdout.rindex("\n", 0, done.stdout.rindex("before")) + 1 :])  # the closing table
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
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


def figure(runs, file):
    """Every seed as a thin line and their mean as a thick one."""
    fig, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), constrained_layout=True)
    for axis, (pattern, title) in zip(axes, PANELS.items()):
        name = next(n for row in runs[0] for n in row if re.fullmatch(pattern, n))
        series = [[(row["step"], row[name]) for row in rows if name in row] for rows in runs]
        for points in series:
            axis.plot(*zip(*points), color="tab:blue", alpha=0.3, linewidth=1)
        steps = [step for step, _ in series[0]]
        axis.plot(steps, [statistics.mean(values) for values in zip(*([v for _, v in points] for points in series))], color="tab:blue", linewidth=2)
        axis.set(title=title, xlabel="step", ylim=(0, 1))
        axis.grid(alpha=0.3)
    fig.savefig(file, dpi=150)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", help="a script's name without .py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; one CPU core each")
    parser.add_argument("--sweep", nargs="+", metavar=("SETTING", "VALUE"), help="repeat for each value of one setting")
    args, flags = parser.parse_known_args()
    if not (RESULTS.parent / f"{args.method}.py").exists():
        raise SystemExit(f"error: there is no {args.method}.py to run")
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
        figure(runs[0], RESULTS / f"{name}.png")
    print((RESULTS / f"{name}.md").read_text())


if __name__ == "__main__":
    main()
