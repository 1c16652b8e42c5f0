"""A run folder is read in one place, and only what is whole is taken."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import erpo
import grpo
from conftest import ROOT, SMALL, rows_of, stopped
from plumbing import run as running
from plumbing.checkpoints import checkpoints, damage, seal
from plumbing.run import train_arms


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    """A run of 4 steps, with checkpoints at 2 and 4, and its rows up to step 6."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    grpo.main([*SMALL, *few, "--steps", "4", "--out", str(folder)])
    shutil.copytree(folder, folder.with_name("longer"))
    grpo.main(["--resume", str(folder.with_name("longer")), "--steps", "6"])
    return folder, trained(folder.with_name("longer"))


def trained(folder):
    """The rows without evaluations: the last step of a run has one, and is not the last when it is made again in a longer one."""
    return [{name: value for name, value in row.items() if not name.startswith("eval/")} for row in rows_of(folder)]


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.pt", "optimizer-000.pt", "config.json", "checksums.json"])
def test_from_a_damaged_checkpoint_one_goes_to_the_one_before(finished, copy, name, capsys):
    newest = checkpoints(copy)[-1]
    cut(newest / name)
    assert damage(newest) and not damage(checkpoints(copy)[0])
    grpo.main(["--resume", str(copy), "--steps", "6"])
    assert "checkpoint-000004 is damaged" in capsys.readouterr().out and trained(copy) == finished[1]
    assert [path.name for path in checkpoints(copy)] == ["checkpoint-000004", "checkpoint-000006"] and not any(map(damage, checkpoints(copy)))


def test_without_a_whole_checkpoint_nothing_is_begun_anew(copy):
    for path in checkpoints(copy):
        cut(path / "trainer_state.pt")
    rows = (copy / "metrics.jsonl").read_text()
    for _ in range(2):
        assert "every checkpoint is damaged" in stopped(grpo.main, "--resume", str(copy))
    assert (copy / "metrics.jsonl").read_text() == rows


def test_what_is_no_checkpoint_is_none(finished, copy):
    shutil.copytree(checkpoints(copy)[0], copy / "checkpoint-backup")
    grpo.main(["--resume", str(copy), "--steps", "6"])
    assert trained(copy) == finished[1]


def step_becomes(value):
    return lambda rows: [*rows[:2], json.dumps(json.loads(rows[2]) | {"step": value}).encode() + b"\n", *rows[3:]]


@pytest.mark.parametrize("change", [
    lambda rows: rows[1:], lambda rows: [rows[0], *rows], lambda rows: [b"{\n", *rows], lambda rows: [], step_becomes("2"), step_becomes(None),
    step_becomes([2]), step_becomes(2.5), lambda rows: [*rows[:2], rows[2].replace(b'"reward": ', b'"reward": "much", "else": '), *rows[3:]],
])  # fmt: skip
def test_rows_behind_a_checkpoint_are_all_there(copy, change):
    file = copy / "metrics.jsonl"
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    assert "does not hold the rows of steps 0 to 4" in stopped(grpo.main, "--resume", str(copy))


@pytest.mark.parametrize("name", ["trainer_state.pt", "optimizer-000.pt"])
def test_a_checkpoint_cannot_run_code(copy, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(copy / "exploded"), "w"))

    newest = checkpoints(copy)[-1]
    torch.save({"adam": Bomb()}, newest / name)
    (newest / "checksums.json").unlink()
    seal(newest)
    assert "its trainer_state.pt or optimizer-*.pt does not fit this run (UnpicklingError" in stopped(grpo.main, "--resume", str(copy))
    assert not (copy / "exploded").exists()


MARK = "from pathlib import Path\nPath({!r}).touch()\ndef score(texts, golds): return [0.5] * len(texts)\n"


def test_a_resumed_run_takes_its_reward_from_the_command_line_alone(few, tmp_path):
    """A run folder of somebody else's may name code that lies in it."""
    out, mark = tmp_path / "run", tmp_path / "mark"
    (tmp_path / "mine.py").write_text(MARK.format(str(mark)))
    reward = ["--reward", f"{tmp_path / 'mine.py'}:score"]
    grpo.main([*SMALL, *few, *reward, "--steps", "1", "--out", str(out)])
    mark.unlink()
    refused = stopped(grpo.main, "--resume", str(out), "--steps", "2")
    assert f"that run had {' '.join(reward)}; give it again, it is code" in refused and not mark.exists()
    assert "that run had --reward" in stopped(grpo.main, "--resume", str(out), "--reward", f"{tmp_path / 'other.py'}:score")
    grpo.main(["--resume", str(out), "--steps", "2", *reward])
    assert mark.exists() and len(rows_of(out)) == 3


def test_a_resumed_run_trusts_no_code_of_a_checkpoint_unless_it_is_told_to(copy, monkeypatch, tmp_path):
    newest, mark = checkpoints(copy)[-1], tmp_path / "mark"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (newest / "own.py").write_text(MARK.format(str(mark)) + "class Model: pass\nclass Config: pass\n")
    named = {"model_type": "own-kind", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (newest / "config.json").write_text(json.dumps(json.loads((newest / "config.json").read_text()) | named))
    (newest / "checksums.json").unlink()
    seal(newest)
    about = json.loads((copy / "args.json").read_text())
    about["settings"] |= {"trust_remote_code": True, "model": str(newest), "tiny": True}
    (copy / "args.json").write_text(json.dumps(about))
    assert "that run had --trust-remote-code; give it again, it is code" in stopped(grpo.main, "--resume", str(copy)) and not mark.exists()
    stopped(grpo.main, "--resume", str(copy), "--trust-remote-code")
    assert mark.exists()  # or nothing would have been shown


def test_arms_that_go_on_get_what_only_the_command_line_may_say_and_where_the_record_is(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "draw_curves", lambda *folders: None)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/args.json").write_text("{}")
    own, given = {"reward": "mine.py:score", "trust_remote_code": True, "steps": 5, "lr": 1.0, "bank": ""}, []
    own |= dict.fromkeys(("out", "resume", "arm", "compare"))
    train_arms(given.extend, [], SimpleNamespace(args=SimpleNamespace(**own), out=tmp_path), ["pool"], "--bank", "here")
    assert given == ["--resume", str(tmp_path / "pool"), "--steps=5", "--bank=", "--reward=mine.py:score", "--trust-remote-code", "--bank", "here"]


def test_another_scripts_run_is_refused_and_stays(copy):
    before = {path: path.read_bytes() for path in copy.glob("*.json*")}
    assert "that is a run of grpo.py" in stopped(erpo.main, "--resume", str(copy))
    assert {path: path.read_bytes() for path in before} == before


def test_data_that_was_edited_in_between_is_refused(few_test, tmp_path):
    data, flags = tmp_path / "data.jsonl", [*SMALL, "--steps", "2", "--eval-sets", few_test]
    data.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "3"}\n')
    grpo.main([*flags, "--data", str(data), "--out", str(tmp_path / "run")])
    data.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "4"}\n')
    assert "data.jsonl has changed since the run began" in stopped(grpo.main, "--resume", str(tmp_path / "run"))


def test_one_process_at_a_time(copy):
    code = f"""
import pathlib, time
from plumbing.checkpoints import lock
held = lock(pathlib.Path({str(copy)!r}))
print("locked", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        assert "another process is at work in it" in stopped(grpo.main, "--resume", str(copy))
        other.kill()
    grpo.main(["--resume", str(copy)])  # who is dead keeps nobody out


@pytest.mark.slow
def test_a_byte_of_the_format_and_the_format_of_a_later_version(finished, copy, capsys):
    """One changed byte of checksums.json must not stop what the checkpoint before can go on with."""
    seals = [path / "checksums.json" for path in checkpoints(copy)]
    for other, reason in (('"format": 3', "has format 3"), ('"format": null', "has format None"), ('"fosmat": 2', "KeyError: 'format'")):
        text = seals[1].read_text()
        seals[1].write_text(text.replace('"format": 2', other))
        assert reason in damage(checkpoints(copy)[-1])
        grpo.main(["--resume", str(copy), "--steps", "6"])
        assert reason in capsys.readouterr().out and trained(copy) == finished[1]
        shutil.rmtree(copy)
        shutil.copytree(finished[0], copy)
    for file in seals:
        file.write_text(file.read_text().replace('"format": 2', '"format": 99'))
    assert "every checkpoint is damaged" in stopped(grpo.main, "--resume", str(copy))


def test_a_file_with_the_name_of_an_old_checkpoint_does_not_matter(copy, few):
    (copy / "checkpoint-000001").write_text("mine")
    grpo.main(["--resume", str(copy), "--steps", "6"])
    assert (copy / "checkpoint-000001").read_text() == "mine" and not damage(copy / "checkpoint-000006")


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_nothing(copy, monkeypatch):
    def killed(folder, **how):
        (folder / "trainer_state.pt").unlink()
        raise KeyboardInterrupt

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **how: killed(folder) if (folder / "trainer_state.pt").exists() else real(folder, **how))
    with pytest.raises(KeyboardInterrupt):
        grpo.main(["--resume", str(copy), "--steps", "6"])
    monkeypatch.undo()
    assert checkpoints(copy)[-1].name == "checkpoint-000006" and not any(map(damage, checkpoints(copy)))
    grpo.main(["--resume", str(copy)])
    assert not list(copy.glob("*.partial"))


def test_half_a_checkpoint_takes_no_room(copy, monkeypatch):
    """The memory that a run needs is computed when what a kill left of a checkpoint is gone."""
    (copy / "checkpoint-000006.partial").mkdir()
    (copy / "checkpoint-000006.partial/model.safetensors").write_bytes(b"1" * 1000)
    seen, real = [], running.fit_memory
    monkeypatch.setattr(running, "fit_memory", lambda args, out: seen.append(sorted(os.listdir(out))) or real(args, out))
    grpo.main(["--resume", str(copy), "--steps", "4"])
    assert "checkpoint-000004" in seen[0] and not any("partial" in name for name in seen[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thesis.partial", "checkpoint-best.partial", "notes.txt"])
def test_what_a_run_has_not_made_is_not_deleted(few, tmp_path, name):
    """--out names somebody's folder, and then the data is not there."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("all I have")
    assert "exists and is not empty" in stopped(grpo.main, *SMALL, *few, "--data", "nowhere.jsonl", "--out", str(tmp_path / "mine"))
    assert os.listdir(tmp_path / "mine") == [name]
    (tmp_path / "empty").mkdir()  # somebody's too
    assert "nowhere.jsonl: cannot be read" in run_in_a_process(tmp_path, "--data", "nowhere.jsonl", "--out", "empty")
    assert os.listdir(tmp_path / "empty") == []


def run_in_a_process(folder, *flags):
    return subprocess.run([sys.executable, str(ROOT / "grpo.py"), *flags], cwd=folder, capture_output=True, text=True).stderr


def test_a_folder_that_another_run_has_begun_meanwhile(few, tmp_path, monkeypatch):
    """Two runs find it empty; the other has written its args.json, and died, before this one has the lock."""
    out, real = tmp_path / "run", running.lock

    def late(folder):
        (folder / "args.json").write_text("theirs")
        return real(folder)

    monkeypatch.setattr(running, "lock", late)
    assert "exists and is not empty" in stopped(grpo.main, *SMALL, *few, "--out", str(out))
    assert (out / "args.json").read_text() == "theirs"


def test_half_an_args_file_is_nothing(few, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json.partial").write_text("{")
    grpo.main([*SMALL, *few, "--steps", "1", "--out", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "args.json").read_text())["script"] == "grpo"


def test_a_resume_that_fails_deletes_nothing(copy, few):
    """Killed before its first row, and then its data is away."""
    for path in copy.iterdir():
        if path.name != "args.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    about = json.loads((copy / "args.json").read_text())
    (copy / "args.json").write_text(json.dumps(about | {"settings": about["settings"] | {"data": "away.jsonl"}}))
    assert "away.jsonl: cannot be read" in stopped(grpo.main, "--resume", str(copy))
    assert (copy / "args.json").exists()
