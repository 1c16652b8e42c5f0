"""What a run folder holds, and whether it can be trusted: its settings, its rows and its checkpoints.

A checkpoint has a list of the checksums of its files. Nothing that is read here can run code.
"""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path

import torch

from plumbing import InputError, distributed
from plumbing.records import read_lines

FORMAT = 2  # of a run folder; another one is refused
SEAL = "checksums.json"


def read_about(folder):
    """What args.json of a run folder says -> dict with "settings" and more. Raises InputError."""
    file = Path(folder) / "args.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        reason = lacking(about)
    except FileNotFoundError:
        raise InputError(f"--resume {folder}: no run here ({file} is missing); give the folder of an earlier "
                         "run") from None
    except (OSError, ValueError, RecursionError) as problem:
        about, reason = None, str(problem)
    version = about.get("format") if isinstance(about, dict) else FORMAT
    if type(version) is int and version != FORMAT:
        raise InputError(f"{file}: has format {version}, this version knows {FORMAT}; go on with the version "
                         "that wrote it")
    if reason:
        raise InputError(f"--resume {folder}: {file} is damaged ({reason}); put it back, or start a new run "
                         "from the weights, --model with a checkpoint of this folder")
    return about


def lacking(about):
    """What args.json does not hold, as text; "" if it is whole. Settings are checked later, as flags are."""
    kinds = {"settings": dict, "format": int, "data": dict, "records": dict}
    for name, kind in kinds.items():
        if not isinstance(about, dict) or type(about.get(name)) is not kind:
            return f"no {name} in it"
    sets = about["data"].values()
    whole = all(isinstance(one, dict) and isinstance(one.get("dropped"), list) for one in sets)
    return "" if whole else "no data in it"


def read_rows(folder, reached):
    """The rows of metrics.jsonl up to the step that is reached, each once. Raises InputError."""
    rows = [row for row in read_lines(folder / "metrics.jsonl")
            if type(row.get("step")) is not int or row["step"] <= reached]
    numbers = all(type(value) in (int, float) for row in rows for value in row.values())
    if not numbers or [row.get("step") for row in rows] != list(range(reached + 1)):
        raise InputError(f"--resume {folder}: metrics.jsonl does not hold the rows of steps 0 to {reached}, "
                         "once each and in order; put it back, or start a new run from the weights, --model "
                         f"{folder / name_of(reached)}")
    return rows


def name_of(step):
    """The name of a checkpoint's folder."""
    return f"checkpoint-{step:06d}"


def checkpoints(folder):
    """The checkpoints of a run folder, oldest first. What has another name is none."""
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d{6}", path.name))


def digest(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def seal(checkpoint, known=()):
    """Write down the checksums of a checkpoint's files, when all are written. known: {name: checksum}."""
    names = sorted(path.name for path in checkpoint.iterdir())
    sums = {name: known[name] if name in known else digest(checkpoint / name) for name in names}
    (checkpoint / SEAL).write_text(json.dumps({"format": FORMAT, "sha256": sums}, indent=2))


def damage(checkpoint):
    """What is wrong with a checkpoint, as text; "" if its files are those that were written."""
    try:
        about = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        sums = dict(about["sha256"])
        if about["format"] != FORMAT:  # a whole run of another version is refused by its args.json
            return f"{SEAL} has format {about['format']!s:.20}"
        for name, expected in sums.items():
            if digest(checkpoint / name) != expected:
                return f"{name} is not what was written"
    except FileNotFoundError as problem:
        return f"{Path(problem.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        return f"{type(problem).__name__}: {problem}"
    needed = {"config.json", "trainer_state.pt", "optimizer-000.pt"}
    return "" if needed <= set(sums) else f"{SEAL} does not list all files"


def newest_whole(folder):
    """The newest checkpoint without damage; None if there is none at all. Raises InputError if all have it.

    Damaged ones after it are renamed, and a line says so.
    """
    damaged = []
    for checkpoint in reversed(checkpoints(folder)):
        if not (problem := damage(checkpoint)):
            break
        damaged.append((checkpoint, problem))
    else:
        if damaged:
            listed = "; ".join(f"{path.name}: {problem}" for path, problem in damaged)
            raise InputError(f"--resume {folder}: every checkpoint is damaged ({listed}); start a new run")
        return None
    for path, problem in damaged:
        aside = path.with_name(path.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        print(f"{path} is damaged ({problem}): it is {aside.name} now, and the run goes on from "
              f"{checkpoint.name}")
    return checkpoint


def load_state(checkpoint, optimizer, stateful):
    """Give optimizer and `stateful` {name: owner} back what write() kept -> the rest. Raises InputError."""
    try:
        state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
        optimizer.load(checkpoint)
        for name, owner in stateful.items():
            owner.load_state_dict(state[name])
        return state
    except Exception as problem:  # of another model, another version of torch, another script
        reason = f"{type(problem).__name__}: {problem}"
        raise InputError(f"{checkpoint}: its trainer_state.pt or optimizer-*.pt does not fit this run "
                         f"({reason}); delete this checkpoint to go on from the one before") from None


def write(checkpoint, model, tokenizer, optimizer, state):
    """Write a checkpoint aside and rename it, so that a kill leaves whole ones only; the last two are kept.

    A collective: each rank writes its own part of the optimizer. Nothing is done if it is there. Raises
    InputError.
    """
    aside, folder = checkpoint.with_suffix(".partial"), checkpoint.parent
    if distributed.all_gather(checkpoint.exists())[0]:
        return
    try:
        write_model(aside, model, tokenizer, state)
        distributed.barrier()  # the folder is there
        own = optimizer.save(aside)
        sums = dict(distributed.all_gather((own.name, digest(own))))  # and complete
        if distributed.is_main():
            seal(aside, sums)
            aside.rename(checkpoint)
            for old in filter(Path.is_dir, checkpoints(folder)[:-2]):
                remove(old)
    except Exception as problem:  # OSError, or whatever safetensors and torch.save make of one
        shutil.rmtree(aside, ignore_errors=True)
        raise InputError(f"step {int(checkpoint.name[-6:])} could not be saved ({problem}); make room and "
                         f"continue with --resume {folder}") from None


def remove(checkpoint):
    """Delete a checkpoint that is not needed any more; a kill leaves none that looks like one."""
    aside = checkpoint.with_suffix(".partial")
    with contextlib.suppress(OSError):  # the new one is saved all the same
        checkpoint.rename(aside)
        shutil.rmtree(aside)


def write_model(aside, model, tokenizer, state):
    """The main rank's part of write(), for which all give their shards of the weights."""
    weights = None  # the model's own
    if distributed.WORLD_SIZE > 1:
        weights = {name: weight.to(model.compute_dtype) for name, weight in model.state_dict().items()}
        weights = distributed.full_tensors(weights)
    if distributed.is_main():
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside, state_dict=weights)
        tokenizer.save_pretrained(aside)
        torch.save(state, aside / "trainer_state.pt")


def lock(folder):
    """Keep other processes out of a run folder -> the file whose close() lets them in, or None.

    A dead process keeps nobody out. Raises InputError, OSError.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    if not distributed.is_main():
        return None
    file = open(folder / ".lock", "a")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InputError(f"run folder {folder}: another process is at work in it; stop that one first, or "
                         "wait until it is done") from None
    except OSError:
        pass  # a file system without locks
    return file
