"""Kills and signals at random moments, in all six scripts and every arm of their default runs; two processes on one folder."""

import os
import signal
import time
from pathlib import Path

from small import MAINS, begin, end, resume_or_start, rng, rows, run, says, unsound


def kills(reference, runs_per_script=3, kills_per_run=6, seed=0):
    """SIGKILL, resume, SIGKILL ... -> (kills made, [what went wrong]). Sound: the metrics of the run that was never killed."""
    made, wrong, random = 0, [], rng(seed)
    for script in MAINS:
        expected, seconds, _ = reference[script]
        for trial in range(runs_per_script):
            out, before = reference.folder / f"killed-{script}-{trial}", made
            log = reference.folder / f"killed-{script}-{trial}.log"
            while made - before < kills_per_run:
                pid = begin(script, resume_or_start(out, reference.flags(script)), log)
                time.sleep(random.uniform(0, seconds / (1 + random.random() * kills_per_run / 2)))
                os.kill(pid, signal.SIGKILL)
                status = end(pid)
                if status != -signal.SIGKILL:
                    if status:
                        wrong.append(f"{script} {trial}: {Path(log).read_text().splitlines()[-1]}")
                    break  # it was done first
                made += 1
            status, last, _ = run(script, resume_or_start(out, reference.flags(script)))
            if status or rows(out) != expected or unsound(out):
                wrong.append(f"{script} {trial}: status {status}, {last}, {unsound(out)}, rows equal {rows(out) == expected}")
    return made, wrong


def signals(reference, count=18, seed=1):
    """SIGINT and SIGTERM, once or twice, at random moments -> (signals sent, [what went wrong])."""
    sent, wrong, random = 0, [], rng(seed)
    for i in range(count):
        script = list(MAINS)[i % len(MAINS)]
        expected, seconds, _ = reference[script]
        out, log = reference.folder / f"signalled-{i}", reference.folder / f"signalled-{i}.log"
        pid = begin(script, [*reference.flags(script), "--out", str(out)], log)
        time.sleep(random.uniform(0.1, seconds))
        number = random.choice([signal.SIGINT, signal.SIGTERM])
        for _ in range(random.choice([1, 2])):
            try:
                os.kill(pid, number)
                sent += 1
            except ProcessLookupError:
                break
            time.sleep(random.uniform(0, 0.1))
        status, text = end(pid, 60), Path(log).read_text()
        if status not in (0, 1, -number) or "Traceback" in text:  # a second signal ends it at once
            wrong.append(f"{script}: status {status}, {text[-300:]}")
        elif "continue with --resume" in text and not (out / "args.json").exists():
            wrong.append(f"{script}: {text.splitlines()[-1]}, but there is nothing there")
        status, last, _ = run(script, resume_or_start(out, reference.flags(script)))
        if status or rows(out) != expected or unsound(out):
            wrong.append(f"{script} after {number.name}: status {status}, {last}, {unsound(out)}")
    return sent, wrong


def two_at_once(reference, count=6):
    """The same folder taken up twice: one goes on, the other is told so, and nothing is doubled."""
    wrong = []
    for i in range(count):
        script = list(MAINS)[i % len(MAINS)]
        expected, seconds, _ = reference[script]
        out, log = reference.folder / f"twice-{i}", reference.folder / f"twice-{i}.log"
        pid = begin(script, [*reference.flags(script), "--out", str(out)], log)
        while not (out / "args.json").exists():
            time.sleep(0.005)
        time.sleep(seconds / 4)
        status, last, _ = run(script, ["--resume", str(out)])
        if status != 1 or not says(last) or "another process is at work" not in last:
            wrong.append(f"{script}: the second ended with status {status}, {last}")
        if end(pid) or rows(out) != expected:
            wrong.append(f"{script}: the first was disturbed, {Path(log).read_text()[-200:]}")
    return count, wrong
