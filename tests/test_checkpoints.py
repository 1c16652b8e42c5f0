"""A run folder is read in one place, and only what is whole is taken."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import erpo
import grpo
from conftest import ROOT, SMALL, rows_of, stopped
from plumbing.checkpoints import checkpoints, damage, seal


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


@pytest.mark.parametrize("change", [lambda rows: rows[1:], lambda rows: [rows[0], *rows], lambda rows: [b"{\n", *rows], lambda rows: []])
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
