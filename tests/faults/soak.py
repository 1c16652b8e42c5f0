"""A soak: a long run of grpo.py on the tiny task; memory, open files, processes and step time have to stay flat.

    nice -n 15 python tests/faults/soak.py [--steps 2000]         an hour on two cores

Every ten seconds /proc is read. For each quantity: its slope over the second nine tenths of the run, per 1,000 steps,
with a 95 % interval from blocks of time. Exit status 1 if the upper end of one is above what is allowed: a leak of that
size cannot be ruled out.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ALLOWED = {"memory, MB": 5.0, "open files": 0.5, "processes": 0.5, "step time, share": 0.05}  # a rise per 1,000 steps


def children(pid):
    """A process and all that it started."""
    own = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return [pid, *(one for child in own for one in children(child))]


def look(pid):
    """Memory in MB, open files and processes of a run, its verifier included."""
    family = children(pid)
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family)
    files = sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family)
    return pages * 4096 / 1e6, files, len(family)


def slope(points):
    """Least-squares slope of (x, y) points."""
    x, y = zip(*points)
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in points) / max(1e-9, sum((a - mean_x) ** 2 for a in x))


def interval(points, blocks=20, draws=1000):
    """Slope per 1,000 steps, and its 95 % interval from drawing blocks of neighbours again."""
    size = max(1, len(points) // blocks)
    parts, rng = [points[i : i + size] for i in range(0, len(points), size)], random.Random(0)
    drawn = sorted(slope([p for part in rng.choices(parts, k=len(parts)) for p in part]) for _ in range(draws))
    return tuple(1000 * s for s in (slope(points), drawn[draws // 40], drawn[-draws // 40]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("flags", nargs="*", help="more flags for grpo.py, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, seen = Path(folder) / "run", []
        command = [sys.executable, str(ROOT / "grpo.py"), "--steps", str(args.steps), "--eval-every", "100", "--out", str(out), *args.flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            rows = (out / "metrics.jsonl").read_text().count("\n") if (out / "metrics.jsonl").exists() else 0
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one of them ended meanwhile
                seen.append((rows, *look(process.pid)))
            time.sleep(10 if args.steps >= 500 else 0.5)
        if process.returncode:
            raise SystemExit(f"grpo.py ended with status {process.returncode}")
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]
    late = [point for point in seen if point[0] > args.steps / 10]
    times = [(row["step"], sum(row[f"time/{phase}"] for phase in ("sync", "sample", "verify", "train"))
              / row["completions/mean_length"]) for row in rows if row["step"] > args.steps / 10]  # fmt: skip
    usual = statistics.fmean(y for _, y in times)
    series = {name: [(p[0], p[i]) for p in late] for i, name in enumerate(list(ALLOWED)[:3], 1)}
    series["step time, share"] = [(x, y / usual) for x, y in times]
    bad = False
    print("| rise per 1,000 steps | slope | 95 % interval |\n|---|---|---|")
    for name, points in series.items():
        middle, low, high = interval(points)
        bad |= high > ALLOWED[name]
        print(f"| {name} | {middle:+.3g} | {low:+.3g} to {high:+.3g} |")
    raise SystemExit(bad)


if __name__ == "__main__":
    main()
