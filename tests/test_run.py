"""The run folder: what is left when something goes wrong, and what is printed."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import common
import grpo
from conftest import ROOT, SCRIPTS, SMALL, rows_of, start, stopped
from plumbing import InputError
from plumbing.checkpoints import checkpoints, damage
from plumbing.run import Run, before_and_after


@pytest.mark.slow
def test_an_error_is_one_line_and_leaves_no_folder(tmp_path):
    process = start("grpo.py", "--data", "missing.jsonl", cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("error: data file missing.jsonl: cannot be read")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_costs_nothing_that_was_saved(few, tmp_path):
    """No file may grow past 1 MB, so the 1.5 MB of weights cannot be written: the system's own error, as on a full disk."""
    import resource

    folder = tmp_path / "run"
    grpo.main([*SMALL, *few, "--steps", "2", "--out", str(folder)])
    full = start("grpo.py", "--resume", str(folder), "--steps", "8",
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    printed, _ = full.communicate()
    assert full.returncode == 1 and "Traceback" not in printed
    assert re.search(r"error: step 4 could not be saved \(.*\); make room and continue with --resume", printed.splitlines()[-1])
    assert [path.name for path in folder.glob("checkpoint*")] == ["checkpoint-000002"]
    grpo.main(["--resume", str(folder), "--steps", "8"])
    assert rows_of(folder)[-1]["step"] == 8


def test_a_second_run_gets_a_folder_of_its_own(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        grpo.main([*SMALL, *few, "--steps", "1"])
    assert sorted(os.listdir("runs")) == ["grpo-tiny", "grpo-tiny-2"]


def test_the_table_of_two_evaluations_and_of_one():
    rows = [{"step": 0, "eval/a/avg@2": 0.25, "eval/a/avg@2_stderr": 0.1, "eval/a/pass@2": 0.5}, {"step": 1, "reward": 1.0},
            {"step": 2, "eval/a/avg@2": 0.5, "eval/a/avg@2_stderr": 0.2, "eval/a/pass@2": 0.75}]  # fmt: skip
    heading, line = before_and_after(rows).splitlines()
    assert heading.split() == ["before", "after", "step", "2", "pass@k", "before", "after"]
    assert line.split() == ["a", "avg@2", "25.0", "±", "10.0", "50.0", "±", "20.0", "50.0", "75.0", "(pass@2)"]
    heading, line = before_and_after(rows[:2]).splitlines()
    assert heading.split() == ["step", "0", "pass@k"] and line.split() == ["a", "avg@2", "25.0", "±", "10.0", "50.0", "(pass@2)"]
    assert before_and_after(rows[1:2]) == "no evaluation was made"


def test_no_steps_is_an_evaluation(few, few_test, tmp_path, capsys):
    """Of a checkpoint, with the settings of the tiny model: the scores are those it had when it was saved, and nothing else is left."""
    grpo.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "run")])
    capsys.readouterr()
    checkpoint = str(tmp_path / "run" / "checkpoint-000002")
    grpo.main(["--model", checkpoint, "--tiny", "--steps", "0", "--eval-sets", few_test, "--eval-samples", "1", "--out", str(tmp_path / "scores")])
    (row,) = rows_of(tmp_path / "scores")
    trained = rows_of(tmp_path / "run")[-1]
    assert row["step"] == 0 and row["eval/few/avg@1"] == trained["eval/few/avg@1"]
    assert "few avg@1" in capsys.readouterr().out and not list((tmp_path / "scores").glob("checkpoint-*"))


def test_few_samples_in_between_and_more_before_and_after(few, tmp_path):
    """Evaluations at steps 0, 1 and 2 of 2; what is compared at the end is the first with the last. Responses of at most 7 tokens."""
    flags = ["--steps", "2", "--eval-every", "1", "--eval-samples", "1", "--final-eval-samples", "2", "--eval-max-tokens", "7"]
    grpo.main([*SMALL, *few, *flags, "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    averages = [[name for name in row if re.fullmatch(r"eval/few/avg@\d", name)] for row in rows]
    assert averages == [["eval/few/avg@2"], ["eval/few/avg@1"], ["eval/few/avg@2"]]
    assert before_and_after(rows).splitlines()[1].startswith("few avg@2")
    assert all(row["eval/few/mean_length"] <= 7 for row in rows) and rows[1]["completions/mean_length"] > 7


@pytest.mark.slow
def test_training_questions_get_few_samples_at_every_evaluation(few_test, tmp_path):
    prefix_rl = importlib.import_module("prefix_rl")
    flags = ["--steps", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-sets", few_test, "--eval-samples", "1"]
    prefix_rl.main([*flags, "--final-eval-samples", "2", *FAST["prefix_rl"], "--out", str(tmp_path / "run")])
    assert all({"eval/few/avg@2", "eval/unsolved/avg@1"} <= set(row) for row in rows_of(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "grpo"])
def test_an_arm_is_trained_and_goes_on_after_a_resume(script, few_test, tmp_path, monkeypatch):
    """The main arm finished, an arm begun, the others not: --resume of the run goes on with all of them.

    Also from another directory, and when the folder has been moved: arms start from a record that lies in it.
    """
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(script)
    arms = module.SETTINGS["compare"][1]
    flags = [*FAST[script], "--steps", "2", "--save-every", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1",
             "--eval-sets", few_test]  # fmt: skip
    module.main([*flags, "--compare", *arms, "--out", str(tmp_path / "straight")])
    module.main([*flags, "--compare", *arms, "--out", "run"])
    shutil.rmtree(tmp_path / "run" / arms[0] / "checkpoint-000002")  # stopped after its step 1
    for arm in arms[1:]:
        shutil.rmtree(tmp_path / "run" / arm)
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(ROOT)
    module.main(["--resume", str(tmp_path / "moved")])
    for arm in arms:
        assert rows_of(tmp_path / "moved" / arm) == rows_of(tmp_path / "straight" / arm)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_metrics_that_all_scripts_share(script, few_test, tmp_path):
    """Every script runs through its main(), and logs under the same names what is the same thing."""
    main = importlib.import_module(script).main
    flags = ["--steps", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--eval-sets", few_test]
    main([*flags, *FAST.get(script, []), "--out", str(tmp_path / "run")])
    first, last = rows_of(tmp_path / "run")
    assert {"eval/few/avg@1", "eval/few/mean_length"} <= set(first)
    assert {"reward", "frac_reward_zero_std", "frac_all_right", "completions/mean_length", "completions/clipped_ratio", "loss", "grad_norm",
            "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "kl", "lr", "num_tokens", "verify/no_answer"} <= set(last)  # fmt: skip
    assert 0 <= last["reward"] <= 1 and last["num_tokens"] > first.get("num_tokens", 0)
    assert last["grad_norm"] > 0 or last["frac_reward_zero_std"] == 1


NOT_FINITE = {"loss": "the loss", "gradient": "the gradient", "logps": "a log-probability of the trainer",
              "sampler": "a log-probability of the sampler"}  # fmt: skip
LOSS = {"prefix_rl": "reinforce_loss", "lte": "lte_loss"}


@pytest.mark.parametrize("script, where, dtype", [
    *(("grpo", where, "float32") for where in NOT_FINITE), ("grpo", "gradient", "bfloat16"),
    *(pytest.param(script, where, "float32", marks=pytest.mark.slow) for script in SCRIPTS[1:] for where in NOT_FINITE)])  # fmt: skip
def test_a_number_that_is_not_finite_stops_before_the_update(few, tmp_path, monkeypatch, script, where, dtype):
    """At step 2: one line with the questions, and the checkpoint of step 1 as it was. Gradients in bfloat16 are in the optimizer by then."""
    module, steps, out = importlib.import_module(script), [], tmp_path / "run"
    flags = ["--steps", "2", "--prompts-per-step", "8", "--group-size", "4", "--eval-samples", "1", "--save-every", "1", *few, "--dtype", dtype]
    owner, name = {"logps": (module, "completion_logps"), "sampler": (common.TransformersSampler, "_next")}.get(
        where, (module, LOSS.get(script, "grpo_loss")))
    real, phase = getattr(owner, name), Run.phase

    def spoilt(*given, **settings):
        result = real(*given, **settings)
        if len(steps) < 2:
            return result
        if where == "sampler":
            return result * torch.inf
        first, second = result
        if where == "gradient":
            return first + (first - first.detach()).abs().sqrt(), second  # its slope at 0 is not finite
        return first * torch.tensor(torch.inf), second

    monkeypatch.setattr(Run, "phase", lambda run, name: (steps.append(1) if name == "sync" else None, phase(run, name)))
    monkeypatch.setattr(owner, name, spoilt)
    line = stopped(module.main, *flags, *FAST.get(script, []), "--out", str(out))
    assert line.startswith("error: step 2: ") and NOT_FINITE[where] in line
    assert re.search(r"Questions of the batch: \S+some.jsonl lines? \d+(, \d+)*$", line)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-000001"] and not damage(out / "checkpoint-000001")
    monkeypatch.undo()
    module.main(["--resume", str(out)])


def test_a_batch_of_128_questions_is_named_in_one_line():
    origins = [f"agentica-org/DeepScaleR-Preview-Dataset row {12345 + 7 * i}" for i in range(128)]
    run = SimpleNamespace(step=300, origin=lambda prompt: origins[prompt])
    line = str(InputError(Run.not_finite(run, ["a log-probability of the trainer", "the gradient", "the loss"], range(128))))
    assert all(f" {12345 + 7 * i}" in line for i in range(128)) and line.count("DeepScaleR") == 1


def test_two_sets_of_one_name(few_test, tmp_path):
    copied = tmp_path / "few.jsonl"
    copied.write_text(Path(few_test).read_text())
    assert "two of them have the same short name" in stopped(grpo.main, "--eval-sets", few_test, str(copied), "--out", str(tmp_path / "run"))


@pytest.mark.slow
def test_stopped_before_there_is_anything_to_keep(tmp_path):
    process = start("grpo.py", "--out", str(tmp_path / "run"), cwd=ROOT)
    while not (tmp_path / "run" / "args.json").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped by SIGINT before there was anything to keep; start it again" in printed.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stop_that_comes_while_an_object_is_deleted_is_not_lost(few, tmp_path):
    """Python ignores what is raised there; about two in a hundred signals came at such a moment."""
    code = f"""
import os, signal, grpo
class Deleted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
real, calls = grpo.collate, []
def collate(*given):
    calls.append(1)
    if len(calls) == 3:
        Deleted()
    return real(*given)
grpo.collate = collate
grpo.main({[*SMALL, *few, "--micro-batch-tokens", "9999", "--steps", "900", "--out", str(tmp_path / "run")]!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"stopped by SIGINT; continue with --resume {tmp_path / 'run'}")


# What makes a method's stages short, and its arms one.
FAST = {
    "failure_prefix": ["--compare", "--questions", "2", "--screen-samples", "8", "--saturated-low", "6", "--saturated-high", "7", "--cuts", "2"],
    "prefix_rl": ["--compare", "--questions", "1", "--screen-samples", "2", "--max-attempts", "64", "--max-flops", "0"],
    "erpo": ["--compare", "--max-draws", "2"],
    "pos_neg_pairing": ["--compare", "--questions", "60", "--probe-samples", "8"],
    "lte": ["--compare"],
}
