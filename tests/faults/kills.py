"""Kills and signals at random moments, in all six scripts and every arm of their default runs; two processes on one folder."""

import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from small import MAINS, at_work, begin, end, family_of, folders_of, left_behind, resume_or_start, rng, rows, run, says, unsound, wait_for


def kills(reference, kills_per_script=20, kills_per_run=6, seed=0):
    """SIGKILL, resume, SIGKILL ... -> (kills made, [what went wrong]). Sound: the metrics of the run that was never killed.

    Each script is begun anew until it was killed often enough: a run may be done before the next kill comes.
    """
    made, wrong, random = Counter(), [], rng(seed)
    for script in MAINS:
        expected, seconds, _ = reference[script]
        for trial in range(4 * kills_per_script):
            out, before = reference.folder / f"killed-{script}-{trial}", made.total()
            log, of_script = out.with_suffix(".log"), sum(count for (name, _), count in made.items() if name == script)
            if of_script >= kills_per_script:
                break
            while made.total() - before < min(kills_per_run, kills_per_script - of_script):
                pid, family = begin(script, resume_or_start(out, reference.flags(script)), log), []
                time.sleep(random.uniform(0, seconds / (1 + random.random() * kills_per_run / 2)))
                with contextlib.suppress(OSError):  # it may have ended
                    family = family_of(pid)
                os.kill(pid, signal.SIGKILL)
                status = end(pid)
                if status != -signal.SIGKILL:
                    if status:
                        wrong.append(f"{script} {trial}: {Path(log).read_text().splitlines()[-1]}")
                    break  # it was done first
                made[script, at_work(out)] += 1
                if left := left_behind(family):
                    wrong.append(f"{script} {trial}: processes {left} are left")
            status, last, _ = run(script, resume_or_start(out, reference.flags(script)))
            if status or rows(out) != expected or unsound(out):
                wrong.append(f"{script} {trial}: status {status}, {last}, {unsound(out)}, rows equal {rows(out) == expected}")
            shutil.rmtree(out, ignore_errors=True)
        if (of_script := sum(count for (name, _), count in made.items() if name == script)) < kills_per_script:
            wrong.append(f"{script}: only {of_script} kills were made")
    for (script, arm), count in sorted(made.items()):
        print(f"kills in {script}, {arm}: {count}")
    return made.total(), wrong


def kills_in_arms(reference, kills_per_arm=2, seed=2):
    """SIGKILL in every further arm of the default runs, then a resume -> (kills made, [what went wrong]).

    Random moments of a whole run seldom hit the last ones.
    """
    made, wrong, random = Counter(), [], rng(seed)
    for script in MAINS:
        expected, seconds, finished = reference[script]
        for arm in [folder.name for folder in folders_of(finished)[1:]]:
            for trial in range(kills_per_arm):
                out = reference.folder / f"killed-{script}-{arm}-{trial}"
                pid = begin(script, [*reference.flags(script), "--out", str(out)], out.with_suffix(".log"))
                wait_for(out / arm / "args.json")
                time.sleep(random.uniform(0, seconds / 20))
                os.kill(pid, signal.SIGKILL)
                made[script, arm] += end(pid) == -signal.SIGKILL  # else it was done first
                status, last, _ = run(script, ["--resume", str(out)])
                if status or rows(out) != expected or unsound(out):
                    wrong.append(f"{script} {arm}: status {status}, {last}, {unsound(out)}, rows equal {rows(out) == expected}")
                shutil.rmtree(out, ignore_errors=True)
            if not made[script, arm]:
                wrong.append(f"{script} {arm}: no kill was made")
    return made.total(), wrong


def signals(reference, count=18, seed=1):
    """SIGINT, SIGTERM and SIGHUP, once or twice, at random moments -> (signals sent, [what went wrong]).

    SIGHUP, which a terminal sends when it is closed, is left to end a run at once: who catches it defeats nohup.
    """
    sent, wrong, random = 0, [], rng(seed)
    for i in range(count):
        script = list(MAINS)[i % len(MAINS)]
        expected, seconds, _ = reference[script]
        out, log, family = reference.folder / f"signalled-{i}", reference.folder / f"signalled-{i}.log", []
        pid = begin(script, [*reference.flags(script), "--out", str(out)], log)
        time.sleep(random.uniform(0.1, seconds))
        number = random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        for _ in range(random.choice([1, 2])):
            try:
                family += family_of(pid)
                os.kill(pid, number)
                sent += 1
            except (ProcessLookupError, FileNotFoundError):
                break
            time.sleep(random.uniform(0, 0.1))
        status, text = end(pid, 60), Path(log).read_text()
        if status not in (0, 1, -number) or "Traceback" in text:  # a second signal ends it at once
            wrong.append(f"{script}: status {status}, {text[-300:]}")
        elif "continue with --resume" in text and not (out / "args.json").exists():
            wrong.append(f"{script}: {text.splitlines()[-1]}, but there is nothing there")
        if left := left_behind(family):
            wrong.append(f"{script} after {number.name}: processes {left} are left")
        status, last, _ = run(script, resume_or_start(out, reference.flags(script)))
        if status or rows(out) != expected or unsound(out):
            wrong.append(f"{script} after {number.name}: status {status}, {last}, {unsound(out)}")
    return sent, wrong


def two_at_once(reference, count=6):
    """The same folder taken up twice: one goes on, the other is told so, and nothing is doubled -> (cases, [what went wrong]).

    A resume while a run is at work; two resumes at the same moment, of a run that was killed; two starts with the same --out.
    """
    wrong = []
    for i in range(count):
        script = list(MAINS)[i % len(MAINS)]
        expected, seconds, _ = reference[script]
        out, log = reference.folder / f"twice-{i}", reference.folder / f"twice-{i}.log"
        start = [*reference.flags(script), "--out", str(out)]
        pid = begin(script, start, log)
        wait_for(out / "metrics.jsonl")
        os.kill(pid, signal.SIGSTOP)  # it is at work until the second has ended, however fast it is
        status, last, _ = run(script, ["--resume", str(out)])
        os.kill(pid, signal.SIGCONT)
        if status != 1 or not says(last) or "another process is at work" not in last:
            wrong.append(f"{script}: the second ended with status {status}, {last}")
        if end(pid) or rows(out) != expected:
            wrong.append(f"{script}: the first was disturbed, {Path(log).read_text()[-200:]}")
        shutil.rmtree(out)
        wrong += [f"{script}, two starts: {what}" for what in at_the_same_moment(script, start, out, expected)]
        shutil.rmtree(out)
        pid = begin(script, start, log)
        time.sleep(seconds / 2)
        os.kill(pid, signal.SIGKILL)
        if end(pid) == -signal.SIGKILL:  # else it was done first, and both may find it so
            again = resume_or_start(out, start[:-2])
            wrong += [f"{script}, two resumes: {what}" for what in at_the_same_moment(script, again, out, expected)]
    return 3 * count, wrong


def at_the_same_moment(script, flags, out, expected):
    """What is wrong when two processes get the same command: one has to do it, and the other to be told so."""
    logs = [out.with_suffix(f".{i}.log") for i in range(2)]
    for log in logs:
        log.unlink(missing_ok=True)
    pids = [begin(script, flags, log) for log in logs]
    ends = sorted((end(pid), log.read_text().strip()) for pid, log in zip(pids, logs))
    told = ends[1][1].rpartition("\n")[2]
    if [status for status, _ in ends] != [0, 1] or not says(told) or "Traceback" in "".join(text for _, text in ends):
        return [f"{[(status, text[-200:]) for status, text in ends]}"]
    return [] if rows(out) == expected and not unsound(out) else [f"other rows than those of one run, {unsound(out)}"]
