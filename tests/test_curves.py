"""The figure of what runs have logged."""

import json
import subprocess
import sys

from conftest import ROOT
from plumbing import curves


def test_curves_of_several_runs_in_one_figure(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0, "eval/test/avg@4": 0.3}\n{"step": 1, "reward": 0.5}\n')
    command = [sys.executable, "-m", "plumbing.curves", str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == done.stderr == "" and (tmp_path / "a" / "curves.png").stat().st_size > 10_000
    done = subprocess.run([*command, str(tmp_path / "nowhere")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: usage: python -m plumbing.curves")


def test_a_figure_shows_what_a_script_asks_for(tmp_path, monkeypatch):
    (tmp_path / "args.json").write_text(json.dumps({"panels": {r"own/.*": "of its own"}}))
    rows = [{"step": i, "flops": 10.0 * i, "reward": i % 2, "own/a": 1.0, "own/b": 2.0} for i in range(40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 40, "rew')  # killed while writing
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    curves.plot_curves([tmp_path])
    axes = drawn[0].axes
    assert [axis.get_title() for axis in axes][3:5] == ["of its own", "response length (tokens)"]
    shadow, smooth = axes[0].lines
    assert len(shadow.get_xdata()) == 40 and shadow.get_xdata()[-1] == 390.0  # operations, as they were counted
    assert smooth.get_ydata()[0] == 0 and smooth.get_ydata()[39] == 0.5  # the mean of the last 10
    assert axes[3].get_legend_handles_labels()[1] == ["own/a", "own/b"]


def test_one_line_a_set_whatever_the_number_of_samples(tmp_path, monkeypatch):
    """avg@32 before and after, avg@2 in between: one line through all three points, with their errors."""
    rows = [{"step": 0, "eval/test/avg@32": 0.25, "eval/test/avg@32_stderr": 0.01},
            {"step": 5, "eval/test/avg@2": 0.5, "eval/test/avg@2_stderr": 0.04},
            {"step": 10, "eval/test/avg@32": 0.75, "eval/test/avg@32_stderr": 0.01}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    curves.plot_curves([tmp_path])
    scores = drawn[0].axes[1]
    (line,) = [line for line in scores.lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == [0, 5, 10] and list(line.get_ydata()) == [0.25, 0.5, 0.75]
    assert scores.get_legend_handles_labels()[1] == ["test/avg@n"]
