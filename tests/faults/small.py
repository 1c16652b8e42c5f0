"""Small runs of all six scripts, with all arms of their default runs, in forked processes that may be killed.

A fork of this process has torch and the scripts imported already, so that a hundred starts take minutes.
"""

import atexit
import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)

import erpo  # noqa: E402
import failure_prefix  # noqa: E402
import grpo  # noqa: E402
import lte  # noqa: E402
import pos_neg_pairing  # noqa: E402
import prefix_rl  # noqa: E402
from conftest import rows_of  # noqa: E402
from plumbing import verifier  # noqa: E402
from plumbing.checkpoints import checkpoints, damage  # noqa: E402

MAINS = {module.__name__: module.main for module in (grpo, failure_prefix, prefix_rl, erpo, pos_neg_pairing, lte)}
SMALL = ["--steps", "3", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--eval-every", "2", "--save-every", "1",
         "--max-tokens", "96"]  # fmt: skip
FAST = {
    "failure_prefix": ["--questions", "2", "--screen-samples", "8", "--saturated-low", "1", "--saturated-high", "7", "--cuts", "2",
                       "--cut-samples", "4"],
    "prefix_rl": ["--questions", "1", "--screen-samples", "2", "--max-attempts", "64", "--max-flops", "0"],
    "erpo": ["--max-draws", "2"],
    "pos_neg_pairing": ["--questions", "60", "--probe-samples", "8", "--band", "3"],
}  # fmt: skip


def few(folder):
    """Flags for 12 held-out problems."""
    file = Path(folder) / "few.jsonl"
    file.write_text("".join((ROOT / "tiny/test.jsonl").read_text().splitlines(keepends=True)[::30][:12]))
    return ["--eval-sets", str(file)]


def begin(script, flags, log, prepare=lambda: None):
    """Start MAINS[script](flags) in a process of its own -> its id. prepare() is called in it first.

    log: where it prints, a file or the number of an open one.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    atexit._clear()  # what the parent leaves, as its temporary folders, is not the child's to tidy
    atexit.register(lambda: [worker.close() for worker in verifier._WORKERS])
    try:
        with open(log, "a", closefd=False) if isinstance(log, int) else open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if isinstance(log, int):
            os.close(log)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        prepare()
        MAINS[script](flags)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
        print(stop.code, file=sys.stderr)
    except BaseException:  # what a user would see as a traceback
        import traceback

        traceback.print_exc()
        status = 70
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        os._exit(status or 0)


def end(pid, seconds=1800):
    """The exit status of a process; minus the signal that ended it. Kills it when the time is over (status -99)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -99


def wait_for(file, seconds=600):
    """Until a file is there. Raises TimeoutError, for whoever was to write it may have failed."""
    until = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{file} was not written")
        time.sleep(0.005)


def run(script, flags, **how):
    """A whole run -> (status, the last line that it printed, whether there was a traceback)."""
    reading, writing = os.pipe()  # a file could not grow either when the disk is full
    pid = begin(script, flags, writing, **how)
    os.close(writing)
    with open(reading, errors="replace") as log, ThreadPoolExecutor(1) as thread:
        printed = thread.submit(log.read)
        status, text = end(pid), printed.result()
    return status, (text.strip().splitlines() or [""])[-1], "Traceback" in text


def limit_files(size):
    """For prepare: no file may grow past `size` bytes, as on a full disk or over a quota."""
    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def folders_of(out):
    """A run's folder and those of its arms."""
    return [Path(out), *sorted(path.parent for path in Path(out).glob("*/args.json"))]


def rows(out):
    """All metrics of a run and its arms but the times."""
    return {folder.name if folder != Path(out) else "": rows_of(folder) for folder in folders_of(out)}


def unsound(out):
    """What is wrong with the checkpoints of a run and its arms, and what is left over."""
    found = [f"{path}: {problem}" for folder in folders_of(out) for path in checkpoints(folder) if path.is_dir() and (problem := damage(path))]
    return found + [f"{path} is left" for path in Path(out).rglob("*.partial")]


def resume_or_start(out, flags):
    """What a user does after a stop: go on if there is something to go on with, else the same command again."""
    return ["--resume", str(out)] if (Path(out) / "args.json").exists() else [*flags, "--out", str(out)]


class Reference:
    """The same run without a stop: its rows and how long it took, by script. seconds: of a fork, without imports."""

    def __init__(self, folder):
        self.folder, self.known, self.few = Path(folder), {}, few(folder)

    def flags(self, script):
        return [*SMALL, *FAST.get(script, []), *self.few]

    def __getitem__(self, script):
        if script not in self.known:
            out, began = self.folder / f"reference-{script}", time.monotonic()
            status, last, _ = run(script, [*self.flags(script), "--out", str(out)])
            if status:
                raise RuntimeError(f"{script} does not run: {last}")
            self.known[script] = rows(out), time.monotonic() - began, out
        return self.known[script]


def family_of(pid):
    """What a process has started, and what these have."""
    own = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return [*own, *(one for child in own for one in family_of(child))]


def left_behind(pids, seconds=30):
    """Which of these processes are still running when the time is over."""
    def running(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # not collected yet, but dead
        except (FileNotFoundError, ProcessLookupError):
            return False

    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def at_work(out):
    """The folder that a run is or was at: "" or the name of an arm. Each is begun by writing its args.json."""
    begun = [folder for folder in folders_of(out) if (folder / "args.json").exists()]
    last = max(begun, key=lambda folder: (folder / "args.json").stat().st_mtime_ns, default=Path(out))
    return last.name if last != Path(out) else "main arm"


def says(line):
    """Whether a run ended with one line that a user can act on."""
    return line.startswith(("error: ", "stopped by "))


def rng(seed):
    return random.Random(seed)


def read(file):
    return json.loads(Path(file).read_text())
