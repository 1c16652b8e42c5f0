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
