"""grpo.py as its users run it: through the command line, on the embedded model."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

import common
import curves
import grpo
import problems

# A run small enough to be repeated: 8 steps of 8 questions, checkpoints every 2.
SMALL = ["--steps", "8", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "3", "--eval-samples", "1", "--save-every", "2"]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for a held-out set of 16 problems, and for training problems of which a few give a signal: of the whole set 8 can all be silent."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::20]))
    (folder / "some.jsonl").write_text("".join(line for line in lines["train"] if '"mixed"' in line))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "some.jsonl")]


def start(script, *flags, **settings):
    return subprocess.Popen([sys.executable, str(ROOT / script), *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def rows_of(folder):
    """The metrics of a run without those that measure time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    """An uninterrupted small run -> (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start("grpo.py", *SMALL, *few, "--out", str(folder))
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return folder, printed


def test_it_learns(tmp_path):
    """24 steps of the default run raise the held-out score by 4 points (the whole run of 80 steps raises it by 20)."""
    grpo.main(["--steps", "24", "--eval-every", "24", "--out", str(tmp_path / "run")])
    before, after = (row["eval/test/avg@4"] for row in rows_of(tmp_path / "run") if "eval/test/avg@4" in row)
    assert after - before >= 0.04


def test_what_a_run_prints_and_leaves(whole_run):
    folder, printed = whole_run
    assert re.search(r"prompt +\d+ tokens +not trained .*\n +response +\d+ tokens +trained on", printed)
    assert re.search(r"one group \(right answer \d+\): +reward +advantage", printed)
    assert re.search(r"few avg@1 +[\d.]+ ± [\d.]+ +[\d.]+ ± [\d.]+", printed) and "few/level 8 avg@1" in printed  # before and after, by length
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == list(range(9))
    assert [row["step"] for row in rows if "eval/few/avg@1" in row] == [0, 3, 6, 8]
    for row in rows[1:]:
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
        assert row["grad_norm"] > 0 and abs(row["loss"]) < 0.2 and row["clip_ratio/high_mean"] == 0
        assert 0 <= row["frac_all_right"] <= row["frac_reward_zero_std"] <= 1
    assert rows[-1]["num_tokens"] > rows[-2]["num_tokens"]
    settings = json.loads((folder / "args.json").read_text())
    assert settings["settings"]["lr"] == 8e-4 and settings["settings"]["prompts_per_step"] == 8
    assert settings["environment"]["torch"] == torch.__version__
    assert (folder / "curves.png").stat().st_size > 10_000
    assert sorted(path.name for path in folder.glob("checkpoint*")) == ["checkpoint-000006", "checkpoint-000008"]  # the last two
    common.load_model(str(folder / "checkpoint-000008"))  # an ordinary Hugging Face folder


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


@pytest.mark.parametrize("phase", ["score_rollouts", "grpo_loss", "evaluate"])
def test_an_exception_in_any_phase_leaves_a_checkpoint_and_no_process(few, tmp_path, phase):
    """The phase fails in the middle of the run, while a verifier process is busy with an answer that hangs."""
    folder, log = tmp_path / "run", tmp_path / "pid"
    code = f"""
import sys, threading, grpo, verifier
def busy():
    worker = verifier._WORKERS[0]
    threading.Thread(target=worker.ask, args=(("5", "10^{{10^{{10}}}}"), 60), daemon=True).start()
    while worker.process is None: pass
    open({str(log)!r}, "w").write(str(worker.process.pid))
real, calls = grpo.{phase}, []
def failing(*args, **settings):
    calls.append(1)
    if len(calls) == (3 if {phase!r} == "evaluate" else 4):
        busy()
        raise ValueError("planted")
    return real(*args, **settings)
grpo.{phase} = failing
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
    """Groups of one answer have no spread: no gradient, no step, no NaN."""
    grpo.main([*SMALL, *few, "--steps", "2", "--group-size", "1", "--out", str(tmp_path / "run")])
    assert all(row["frac_reward_zero_std"] == 1 and row["grad_norm"] == 0 for row in rows_of(tmp_path / "run")[1:])
    before, after = (common.load_model(path)[0].state_dict() for path in (common.TINY_MODEL, str(tmp_path / "run" / "checkpoint-000002")))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_goes_on_past_an_answer_that_hangs_the_verifier(few, tmp_path, monkeypatch):
    """The model cannot write such an answer itself, so one of the gold answers is the tower of powers that every other answer is compared with."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join((ROOT / "tiny/train.jsonl").read_text().splitlines(keepends=True)[:7]) + '{"problem": "3*4", "answer": "10^{10^{10}}"}\n')
    monkeypatch.setattr(problems, "readable", lambda golds: [True] * len(golds))  # it would be dropped at load time
    monkeypatch.setattr(common.verify, "__defaults__", (None, 1.0))  # one second for an answer
    grpo.main([*SMALL, *few, "--steps", "2", "--data", str(data), "--out", str(tmp_path / "run")])
    first, last = rows_of(tmp_path / "run")[1:]
    assert first["verify/timeouts"] > 0 and last["step"] == 2 and first["reward"] > 0


def stopped(*flags):
    """The one line with which grpo.py refuses these flags."""
    with pytest.raises(common.InputError) as error:
        grpo.main(list(flags))
    assert error.value.code.startswith("error: ") and "\n" not in error.value.code
    return error.value.code


def test_one_line_errors(whole_run, few, tmp_path):
    folder = str(whole_run[0])
    new = (["--out", str(tmp_path / f"new{i}")] for i in range(9))
    assert re.search(r"data file missing.jsonl: cannot be read", stopped("--data", "missing.jsonl", *next(new)))
    assert "--model ./nowhere: neither a folder with a model nor" in stopped("--model", "./nowhere", *next(new))
    assert "--model nobody/nothing: neither a folder with a model nor" in stopped("--model", "nobody/nothing", *next(new))
    assert re.search(r"tiny/train.jsonl line \d+: the prompt has \d+ tokens.*lower --max-tokens", stopped("--max-tokens", "314", *next(new)))
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "tiny/model", broken)
    (broken / "model.safetensors").write_bytes(b"cut off")
    assert f"--model {broken}: neither a folder with a model nor" in stopped("--model", str(broken), *next(new))
    assert "no run here" in stopped("--resume", str(tmp_path / "nothing"))
    assert "that run had --model tiny/model, not other" in stopped("--resume", folder, "--model", "other")
    assert "that run had --lr 0.0008, not 0.1" in stopped("--resume", folder, "--lr", "0.1")
    assert f"continue the run in it with --resume {folder}" in stopped("--out", folder)
    assert "--group-size 0: must be above 0" in stopped("--group-size", "0")
    assert "--lr -1.0: must be 0 or more" in stopped("--lr", "-1")
    assert "cannot write there" in stopped("--out", "/proc/nothing/run")


def test_an_error_is_one_line_and_leaves_no_folder(tmp_path):
    process = start("grpo.py", "--data", "missing.jsonl", cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("error: data file missing.jsonl: cannot be read")
    assert list((tmp_path / "runs").iterdir()) == []


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


def test_curves_of_several_runs_in_one_figure(whole_run):
    folder = whole_run[0]
    (folder / "curves.png").unlink()
    process = start("curves.py", str(folder), str(folder))
    assert process.communicate()[0] == "" and process.returncode == 0 and (folder / "curves.png").exists()


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


def test_help_and_import_are_quick_and_need_no_engine():
    began = time.time()
    process = start("grpo.py", "--help")
    printed, _ = process.communicate()
    assert process.returncode == 0 and "GRPO, the baseline" in printed and "--group-size" in printed and "tiny: 8" in printed
    assert time.time() - began < 30  # about 4 s on an idle machine; the bound only catches a download or a model being loaded
    code = "import common, sys; assert 'vllm' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
