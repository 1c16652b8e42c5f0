"""Is this answer right? Compares the last \\boxed{...} of a response with a known answer.

Most answers are decided by their characters. The rest go to math-verify, which parses LaTeX and may hang, run
out of memory or crash on what a model writes, so it runs in worker processes (this file, run as a script)
that are killed and replaced when they do.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

MEMORY_LIMIT = 4 << 30  # bytes for one worker: a tower of powers must not eat the machine's memory


def last_boxed(text):
    """Content of the last complete \\boxed{...}, or None. An unfinished box does not count.

    >>> last_boxed(r"\\boxed{1}, no, \\boxed{\\frac{1}{2}} and \\boxed{3")
    '\\\\frac{1}{2}'
    """
    stack, found = [], None
    for piece in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, re.DOTALL):
        if piece[0][-1] == "{" and piece[0] != "\\{":
            stack.append(piece.end() if piece[0] != "{" else None)
        elif piece[0] == "}" and stack:
            start = stack.pop()
            if start is not None:  # an outer box closes last, and it is the one meant
                found = text[start : piece.start()]
    return None if found is None else found.strip()


def close_up(text):
    """Join the thousands of a number written with spaces, 14\\,400 or 14 400; 1 1/2 is not 11/2."""
    text = re.sub(r"(?<!\\)\\!", "", text)
    text = re.sub(r"(?<=\d)(?:\\[,; ]|\s|~)+(?=\d{3}(?!\d))", "", text)
    return re.sub(r"(?<!\\)\\[,; ]|\s|~", " ", text)  # a double backslash ends a row of a matrix


def exact_match(gold, answer):
    """True or False where the characters alone decide it (same text; two plain integers), else None."""
    texts = []
    for text in (gold, answer):
        text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\$", "", close_up(text))
        text = re.sub(r"(?<!\d) +| +(?!\d)", "", text)  # only a space between two digits means something
        texts.append(re.sub(r"\\[dt]frac", r"\\frac", text).rstrip("."))
    integers = [re.fullmatch(r"([-+]?)0*(\d+)", text, re.ASCII) for text in texts]
    if all(integers):
        a, b = ((m[2], m[1] == "-" and m[2] != "0") for m in integers)
        return a == b
    return True if texts[0] == texts[1] != "" else None


def compare(gold, answer):
    """math-verify's verdict: "right", "wrong", "unparsed" (the answer) or "gold" (unparsed). May hang."""
    import math_verify  # here, because only workers compare: the scripts need not wait half a second for it

    if not gold.strip() or last_boxed(f"\\boxed{{{gold}}}") != gold.strip():
        return "gold"  # empty, or its braces do not match
    # Outside a box, half of LaTeX is not recognised as mathematics.
    boxes = ["\\boxed{" + close_up(text) + "}" for text in (gold, answer)]
    parsed = [math_verify.parse(box, parsing_timeout=None) for box in boxes]
    if not all(parsed):
        return "unparsed" if parsed[0] else "gold"
    # Gold first: the comparison is not symmetric. An interval may be written as an inequality and the other
    # way round.
    same = math_verify.verify(*parsed, timeout_seconds=None, allow_set_relation_comp=True)
    return "right" if same else "wrong"


class _Worker:
    """A process that compares, one pair at a time."""

    process = None

    def ask(self, pair, seconds):
        """The verdict on a (gold, answer) pair. After "timeout" or "crash" the next call starts a process."""
        if self.process is None:
            command = [sys.executable, os.path.abspath(__file__)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if self._exchange(None, 120) != "ready":
                raise RuntimeError(f"the verifier process does not start; try: {' '.join(command)}")
        return self._exchange(pair, seconds)

    def _exchange(self, pair, seconds):
        process, late = self.process, threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            if pair is not None:
                process.stdin.write(json.dumps([*pair, 2 * seconds]) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline().strip()
        except OSError:  # it died before it could read
            answer = ""
        timer.cancel()
        timer.join()  # it may be killing the process just as the answer comes
        if late.is_set() or not answer:
            self.close()
        return answer or ("timeout" if late.is_set() else "crash")

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):  # what was not sent cannot be flushed any more
                    pipe.close()
            self.process = None


_WORKERS = [_Worker() for _ in range(min(16, os.cpu_count() or 1))]  # a process starts when first asked
_ONE_AT_A_TIME = threading.Lock()  # callers on several threads take turns with the workers
atexit.register(lambda: [worker.close() for worker in _WORKERS])


def compare_in_workers(pairs, seconds=5.0):
    """Verdicts on (gold, answer) pairs -> list of "right", "wrong", "unparsed", "gold", "error", ...

    seconds: limit for each pair; beyond it the verdict is "timeout". "crash": it killed its process.
    """
    todo, verdicts = deque(dict.fromkeys(pairs)), {}  # a pair that recurs is compared once

    def work(worker):
        with contextlib.suppress(IndexError):
            while True:
                pair = todo.popleft()
                verdicts[pair] = worker.ask(pair, seconds)

    hands = _WORKERS[: len(todo)]
    if hands:
        with _ONE_AT_A_TIME, ThreadPoolExecutor(len(hands)) as threads:
            try:
                list(threads.map(work, hands))
            finally:
                todo.clear()  # after Ctrl-C the threads end with the pair they are at
    return [verdicts[pair] for pair in pairs]


def readable(golds):
    """Which gold answers math-verify can read -> list of bool. Without that no reward is fair."""
    plain = [gold.isascii() and gold.isdigit() for gold in golds]
    verdicts = iter(compare_in_workers([(gold, gold) for gold, easy in zip(golds, plain) if not easy]))
    return [easy or next(verdicts) == "right" for easy in plain]


def verify(responses, golds, counts=None, seconds=5.0):
    """Rewards of responses -> list of float: 1.0 where the last complete box is worth the gold, else 0.0.

    responses, golds: texts, one gold for each response. seconds: wall-clock limit for one answer; one that
    exceeds it, or kills its worker, scores 0. counts: a Counter to which verify/no_answer, /unparsed_pred,
    /timeouts, /crashes and /errors are added. Raises ValueError if the two lists differ in length.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses but {len(golds)} gold answers")
    answers = [last_boxed(response) for response in responses]
    asked = [i for i, answer in enumerate(answers) if answer]
    exact = [exact_match(golds[i], answers[i]) for i in asked]
    undecided = [(golds[i], answers[i]) for i, known in zip(asked, exact) if known is None]
    compared = iter(compare_in_workers(undecided, seconds))
    verdicts = [next(compared) if known is None else "right" if known else "wrong" for known in exact]
    rewards = [0.0] * len(answers)
    for i, verdict in zip(asked, verdicts):
        rewards[i] = float(verdict == "right")
    if counts is not None:
        counts["verify/no_answer"] += len(answers) - len(asked)
        names = {"unparsed": "unparsed_pred", "timeout": "timeouts", "crash": "crashes", "error": "errors"}
        for verdict, name in names.items():
            counts["verify/" + name] += verdicts.count(verdict)
    return rewards


def serve():
    """Body of a worker: answer (gold, answer, seconds) lines from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    compare("1", "1.0")  # imports and warms up before the clock of the first answer runs
    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        # If the parent is gone, nobody else ends a comparison that hangs.
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            verdict = compare(gold, answer)
        except Exception:  # odd input makes the parser raise nearly anything
            verdict = "error"
        faulthandler.cancel_dump_traceback_later()
        print(verdict, flush=True)


if __name__ == "__main__":
    serve()
