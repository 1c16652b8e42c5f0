"""--report-to: the same numbers, in a tracker."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

import grpo
from conftest import SMALL, rows_of, stopped


def test_tensorboard_has_what_metrics_jsonl_has(few, tmp_path):
    """Also after a resume, whose rows replace those that were lost."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    grpo.main([*SMALL, *few, "--steps", "3", "--report-to", "tensorboard", "--out", str(out)])  # saved after step 2
    os.rename(out / "checkpoint-000003", tmp_path / "gone")
    grpo.main(["--resume", str(out), "--steps", "4"])
    events = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    for row in rows_of(out):
        for name in ("reward", "grad_norm", "eval/few/avg@1"):
            if name in row:
                (value,) = [event.value for event in events.Scalars(name) if event.step == row["step"]][-1:]
                assert value == pytest.approx(row[name], rel=1e-6)
    assert [event.step for event in events.Scalars("reward")] == [1, 2, 3, 4]


def test_wandb_offline(few, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    grpo.main([*SMALL, *few, "--steps", "1", "--report-to", "wandb", "--out", str(tmp_path / "run")])
    name = (tmp_path / "run" / "wandb.txt").read_text()
    assert list((tmp_path / "run").glob(f"wandb/offline-run-*-{name}"))


def test_a_tracker_that_is_not_installed_is_one_line(few, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    line = stopped(grpo.main, *SMALL, *few, "--report-to", "wandb", "--out", str(tmp_path / "run"))
    assert "--report-to wandb: cannot be imported" in line and "pip install wandb" in line


def test_a_tracker_that_fails_when_a_run_goes_on_is_not_written_down(few, tmp_path, monkeypatch):
    flags = [*SMALL, *few, "--steps", "1", "--out", str(tmp_path / "run")]
    grpo.main(flags)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: 1 / 0))
    line = stopped(grpo.main, "--resume", str(tmp_path / "run"), "--report-to", "wandb")
    assert "--report-to wandb: cannot be started (ZeroDivisionError: division by zero); put that right, or take --report-to none" in line
    grpo.main(["--resume", str(tmp_path / "run"), "--steps", "2"])
    assert len(rows_of(tmp_path / "run")) == 3


def test_none_is_the_default(few, tmp_path):
    grpo.main([*SMALL, *few, "--steps", "1", "--out", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "args.json").read_text())["settings"]["report_to"] == "none"
    assert not (tmp_path / "run" / "tensorboard").exists()
