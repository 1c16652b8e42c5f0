"""Draw what runs have logged, finished or not, in one figure.

    python -m plumbing.curves runs/a [runs/b ...]      writes curves.png into the first folder
"""

import json
import re
import statistics
import sys
from pathlib import Path

import matplotlib

from plumbing.records import read_lines

ALWAYS = {
    "reward": "training reward",
    r"eval/[^/]+/avg@n": "held-out score (avg@n)",
    "frac_reward_zero_std": "share of zero-variance groups",
}
OTHERWISE = {
    "completions/mean_length": "response length (tokens)",
    "entropy": "entropy (nats)",
    "grad_norm": "gradient norm",
}

SMOOTH = 10  # steps whose mean the line is; single ones are its shadow


def joined(row):
    """A row in which avg@4 and avg@32 have one name: whatever n is, avg@n estimates the same."""
    return {re.sub(r"/avg@\d+", "/avg@n", name): value for name, value in row.items()}


def plot_curves(folders, file=None):
    """Draw the metrics of one run, or of several to `file` (none: curves.png in the first folder).

    Three panels are always there. A script may name others, which the first folder's args.json holds:
    {pattern of metrics: title}; length, entropy and gradient norm fill up the six. The x-axis is the step, or
    floating point operations where they are counted.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # after the backend is chosen

    folders = [Path(folder) for folder in folders]
    settings = folders[0] / "args.json"
    own = json.loads(settings.read_text()).get("panels", {}) if settings.exists() else {}
    logged = {folder: [joined(row) for row in read_lines(folder / "metrics.jsonl")] for folder in folders}
    against = "flops" if all("flops" in row for rows in logged.values() for row in rows) else "step"
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), constrained_layout=True)
    for axis, (pattern, title) in zip(axes.flat, {**ALWAYS, **own, **OTHERWISE}.items()):
        for colour, (folder, rows) in enumerate(logged.items()):
            names = sorted({name for row in rows for name in row if re.fullmatch(pattern, name)})
            for name, line in zip(names, 10 * ["-", "--", ":", "-."]):
                x, y = zip(*((row[against], row[name]) for row in rows if name in row))
                # A colour says which run, a line's style which metric: each stands in the legend once.
                run_label = folder.name if len(folders) > 1 and name == names[0] else ""
                named = len(names) > 1 and colour == 0 or len(names) == 1 and name.startswith("eval/")
                label = f"{run_label} {name.removeprefix('eval/') if named else ''}".strip()
                if name.startswith("eval/"):
                    error = [row.get(name + "_stderr", 0) for row in rows if name in row]
                    style = {"color": f"C{colour}", "linestyle": line, "marker": "o", "markersize": 3}
                    axis.errorbar(x, y, error, label=label, **style)
                else:
                    axis.plot(x, y, color=f"C{colour}", linewidth=1, alpha=0.2)
                    means = [statistics.fmean(y[max(0, i + 1 - SMOOTH) : i + 1]) for i in range(len(y))]
                    axis.plot(x, means, color=f"C{colour}", linestyle=line, label=label)
        axis.set(title=title, xlabel="floating point operations" if against == "flops" else "step")
        axis.grid(alpha=0.3)
        if any(axis.get_legend_handles_labels()[1]):
            axis.legend(fontsize=8, framealpha=0.5)
    figure.savefig(file or folders[0] / "curves.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    if not sys.argv[1:] or not all((Path(folder) / "metrics.jsonl").exists() for folder in sys.argv[1:]):
        raise SystemExit("error: usage: python -m plumbing.curves RUN_FOLDER [RUN_FOLDER ...]; each must "
                         "hold a metrics.jsonl")
    plot_curves(sys.argv[1:])
