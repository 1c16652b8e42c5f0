"""grpo.py as its users run it: through the command line, on the tiny model."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import common
import grpo
from conftest import ROOT, SMALL, Scripted, rows_of, start
from plumbing import data as problems


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    """An uninterrupted small run -> (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start("grpo.py", *SMALL, *few, "--out", str(folder))
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return folder, printed


@pytest.mark.slow
def test_it_learns(tmp_path):
    """24 steps of the default run raise the held-out score by 4 points (the whole run of 100 steps raises it by 22)."""
    grpo.main(["--steps", "24", "--eval-every", "24", "--out", str(tmp_path / "run")])
    before, after = (row["eval/test/avg@4"] for row in rows_of(tmp_path / "run") if "eval/test/avg@4" in row)
    assert after - before >= 0.04


def test_what_a_run_prints_and_leaves(whole_run):
    folder, printed = whole_run
    assert re.search(r"prompt +\d+ tokens +not trained .*\n +response +\d+ tokens +trained on", printed)
    assert re.search(r"one group \(right answer \d+\): +reward +advantage", printed)
    assert re.search(r"few avg@1 +[\d.]+ ± [\d.]+ +[\d.]+ ± [\d.]+", printed) and "few/level 6 avg@1" in printed  # before and after, by length
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == list(range(9))
    assert [row["step"] for row in rows if "eval/few/avg@1" in row] == [0, 3, 6, 8]
    for row in rows[1:]:
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
        assert row["grad_norm"] > 0 and abs(row["loss"]) < 0.2 and row["clip_ratio/high_mean"] == 0
        assert 0 <= row["frac_all_right"] <= row["frac_reward_zero_std"] <= 1
    assert rows[-1]["num_tokens"] > rows[-2]["num_tokens"]
    settings = json.loads((folder / "args.json").read_text())
    assert settings["settings"]["lr"] == 1e-4 and settings["settings"]["prompts_per_step"] == 8
    assert settings["environment"]["torch"] == torch.__version__
    assert (folder / "curves.png").stat().st_size > 10_000
    assert sorted(path.name for path in folder.glob("checkpoint*")) == ["checkpoint-000006", "checkpoint-000008"]  # the last two
    common.load_model(str(folder / "checkpoint-000008"))  # an ordinary Hugging Face folder


def test_one_step_by_hand(tiny, monkeypatch, tmp_path):
    """The tiny exact case: two questions, four responses to each; 1+2 is right once of four, 2+2 always."""

    def reply(context, heat):  # 4, 5, 6, 7 tokens, the last cut off with a right box; 4 tokens each
        return [(0, "3", True), (1, "4", True), (2, "5", True), (4, "3", False)] if "1+2" in context else [(0, "4", True)] * 4

    case = Scripted(grpo, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    row = case.step()
    # 1+2: rewards 1 0 0 0, mean 1/4, standard deviation 1/2 (divisor 3); A = .75 / .5001 = 1.4997 and -.25 / .5001 = -.4999
    # 2+2: A = 0, not computed, but its 16 tokens are in the divisor
    one = "<|user|>1+2<|assistant|>"
    expected = [(one, case.response(0, "3", True), 1.4997), (one, case.response(1, "4", True), -0.4999), (one, case.response(2, "5", True), -0.4999),
                (one, case.response(4, "3", False), -0.4999)]  # fmt: skip
    assert sorted(case.trained) == sorted(expected)
    assert row["loss"] == pytest.approx(-(1.4997 * 4 - 0.4999 * (5 + 6 + 7)) / (22 + 16), abs=1e-5)
    assert row["reward"] == 5 / 8 and row["frac_reward_zero_std"] == row["frac_all_right"] == 0.5
    assert row["completions/mean_length"] == 38 / 8 and row["completions/clipped_ratio"] == 1 / 8 and row["num_tokens"] == 8 * 5 + 38


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_last_bit(whole_run, few, tmp_path):
    """SIGKILL at five random moments, resume, and get the metrics of the run that was never killed."""
    rng = random.Random(0)
    for trial in range(5):
        folder = tmp_path / f"run{trial}"
        process = start("grpo.py", *SMALL, *few, "--out", str(folder))
        while not (folder / "args.json").exists() and process.poll() is None:  # from here on there is something to resume
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 7))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        grpo.main(["--resume", str(folder)])
        assert rows_of(folder) == rows_of(whole_run[0])
        assert not list(folder.glob("*.partial"))


def children(pid):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.split()
    found = [int(child) for child, parent in zip(listed[::2], listed[1::2], strict=True) if int(parent) == pid]
    return found + [grandchild for child in found for grandchild in children(child)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs ps and signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything_and_the_run_goes_on_later(whole_run, few, tmp_path, number):
    """Within 10 seconds, with one line, no process left behind, and a checkpoint that continues to the same metrics."""
    folder = tmp_path / "run"
    process = start("grpo.py", *SMALL, *few, "--out", str(folder))
    while not (folder / "checkpoint-000002").exists() and process.poll() is None:
        time.sleep(0.05)
    family = children(process.pid)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=10)
    assert process.returncode == 1 and "Traceback" not in printed
    assert printed.splitlines()[-1].endswith(f"stopped by {number.name}; continue with --resume {folder}")
    assert not [pid for pid in family if os.path.exists(f"/proc/{pid}")]
    grpo.main(["--resume", str(folder)])
    assert rows_of(folder) == rows_of(whole_run[0])


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["score_rollouts", "grpo_loss", "evaluate"])
def test_an_exception_in_any_phase_leaves_a_checkpoint_and_no_process(few, tmp_path, phase):
    """The phase fails in the middle of the run, while a verifier process is busy with an answer that hangs."""
    folder, log = tmp_path / "run", tmp_path / "pid"
    code = f"""
import sys, threading, grpo
from plumbing import verifier
def busy():
    worker = verifier._WORKERS[0]
    threading.Thread(target=worker.ask, args=(("5", "10^{{10^{{10}}}}"), 60), daemon=True).start()
    while worker.process is None: pass
    open({str(log)!r}, "w").write(str(worker.process.pid))
owner = grpo.Run if {phase!r} == "evaluate" else grpo
real, calls = owner.{phase}, []
def failing(*args, **settings):
    calls.append(1)
    if len(calls) == (3 if {phase!r} == "evaluate" else 4):
        busy()
        raise ValueError("planted")
    return real(*args, **settings)
owner.{phase} = failing
grpo.main({[*SMALL, *few, "--out", str(folder)]!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    printed, _ = process.communicate(timeout=10)
    assert process.returncode == 1 and "ValueError: planted" in printed
    assert not os.path.exists(f"/proc/{log.read_text()}") or sys.platform == "win32"
    grpo.main(["--resume", str(folder), "--steps", "4"])
    assert rows_of(folder)[-1]["step"] == 4


def test_resume_continues_the_optimizer_and_the_order(whole_run, few, tmp_path):
    """Stopped on purpose after 4 steps and continued to 8: the same run. (Also when the kills above happened to come before the first checkpoint.)"""
    grpo.main([*SMALL, *few, "--steps", "4", "--eval-every", "3", "--out", str(tmp_path / "run")])
    grpo.main(["--resume", str(tmp_path / "run"), "--steps", "8"])
    ours, theirs = rows_of(tmp_path / "run"), rows_of(whole_run[0])
    assert [{k: v for k, v in row.items() if not k.startswith("eval")} for row in ours] == [
        {k: v for k, v in row.items() if not k.startswith("eval")} for row in theirs]


def test_settings_that_must_not_matter_do_not(whole_run, few, tmp_path):
    """Memory settings change nothing but rounding."""
    grpo.main([*SMALL, *few, "--steps", "2", "--micro-batch-tokens", "150", "--out", str(tmp_path / "run")])
    for ours, theirs in zip(rows_of(tmp_path / "run")[1:], rows_of(whole_run[0])[1:], strict=False):
        assert ours["reward"] == theirs["reward"] and ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_every_loss_setting_runs(few, tmp_path):
    for i, flags in enumerate((
        ["--beta", "0.1", "--entropy-coef", "0.01"],
        ["--updates-per-batch", "3", "--loss-type", "sequence-mean", "--no-scale-by-std", "--lr", "1e-3", "--warmup-steps", "0"],
    )):
        grpo.main([*SMALL, *few, "--steps", "2", *flags, "--out", str(tmp_path / str(i))])
        rows = rows_of(tmp_path / str(i))[1:]
        assert (max(row["kl"] for row in rows) > 0) == (i == 0)
        assert (max(row["clip_ratio/low_mean"] + row["clip_ratio/high_mean"] for row in rows) > 0) == (i == 1)  # off policy from the second update on


def test_a_batch_without_signal_changes_nothing(few, tmp_path):
    """Groups whose answers are all wrong have no spread: no gradient, no step, no NaN."""
    (tmp_path / "hopeless.jsonl").write_text('{"problem": "1+1", "answer": "7777"}\n')
    grpo.main([*SMALL, *few, "--steps", "2", "--data", str(tmp_path / "hopeless.jsonl"), "--out", str(tmp_path / "run")])
    assert all(row["frac_reward_zero_std"] == 1 and row["grad_norm"] == 0 for row in rows_of(tmp_path / "run")[1:])
    before, after = (common.load_model(path)[0].state_dict() for path in (common.TINY_MODEL, str(tmp_path / "run" / "checkpoint-000002")))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_training_goes_on_past_an_answer_that_hangs_the_verifier(few, tmp_path, monkeypatch):
    """The model cannot write such an answer itself, so one of the gold answers is the tower of powers that every other answer is compared with."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join((ROOT / "tiny/train.jsonl").read_text().splitlines(keepends=True)[:7]) + '{"problem": "3*4", "answer": "10^{10^{10}}"}\n')
    monkeypatch.setattr(problems, "readable", lambda golds: [True] * len(golds))  # it would be dropped at load time
    monkeypatch.setattr(common.verify, "__defaults__", (None, 1.0))  # one second for an answer
    grpo.main([*SMALL, *few, "--steps", "2", "--data", str(data), "--out", str(tmp_path / "run")])
    first, last = rows_of(tmp_path / "run")[1:]
    assert first["verify/timeouts"] > 0 and last["step"] == 2 and first["reward"] > 0


@pytest.mark.slow
def test_help_and_import_are_quick_and_need_no_engine():
    began = time.time()
    process = start("grpo.py", "--help")
    printed, _ = process.communicate()
    assert process.returncode == 0 and "GRPO, the baseline" in printed and "--group-size" in printed and re.search(r"\[16\s+\|\s+8\]", printed)
    assert time.time() - began < 30  # about 4 s on an idle machine; the bound only catches a download or a model being loaded
    code = "import common, sys; assert 'vllm' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
