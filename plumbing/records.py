"""Files that a kill cannot spoil, and long one-off jobs that go on where they were stopped."""

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path

from tqdm import tqdm

from plumbing import InputError, distributed


def read_lines(path):
    """Rows of a .jsonl file, [] without one, up to the first that is no row: a kill may cut the last.

    Raises InputError if there is something that cannot be read.
    """
    rows = []
    for line in read_bytes(path).splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def read_bytes(path):
    """What is in a file, nothing without one. Raises InputError."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as problem:
        raise InputError(f"{path}: cannot be read ({problem})") from None


def checksum(value):
    """SHA-256 of what JSON makes of a value: a record that was read back has that of the one written."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@contextlib.contextmanager
def one_line_if_full(path):
    """Turns the system's error while `path` is written into an InputError."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"{path}: cannot be written ({problem}); make room and continue with --resume "
                         f"{path.parent}") from None


def write_aside(path, text):
    """Replace a file in one move, so that a kill leaves the old one or the new one. Raises InputError."""
    if not distributed.is_main():
        return
    aside = path.with_name(path.name + ".partial")
    with one_line_if_full(path):
        try:
            aside.write_text(text)
            os.replace(aside, path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


def write_lines(path, rows):
    """Replace a .jsonl file, as write_aside."""
    write_aside(path, "".join(json.dumps(row) + "\n" for row in rows))


def append(path, rows):
    """Add rows to a .jsonl file. Raises InputError."""
    if distributed.is_main():
        with one_line_if_full(path), open(path, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


NUMBERS = ("tokens", "cut_tokens", "screen_tokens", "right", "of", "generation", "screened", "attempts")


def odd_value(line, vocabulary):
    """The first name in a line of a record with a value that the scripts cannot use; None if all are well.

    vocabulary: how many tokens the model knows.
    """
    def is_list(name, kinds, most):
        value = line.get(name, [])
        return isinstance(value, list) and all(type(x) in kinds and 0 <= x <= most for x in value)

    sound = {"id": isinstance(line.get("id", 0), int | str)}
    sound |= {name: is_list(name, (int,), vocabulary - 1) for name in ("failure", "trace")}
    sound |= {name: is_list(name, (int, float), 1) for name in ("cuts", "rates")}
    sound |= {name: type(line[name]) in (int, float) for name in NUMBERS if name in line}
    if all(sound.values()) and "failure" in line:  # a rate for each cut, or none at all
        sound["cuts"] = bool(line.get("cuts"))
        sound["rates"] = "rates" in line and len(line["rates"]) in (0, len(line.get("cuts", [])))
    return next((name for name, fine in sound.items() if not fine), None)


def read_record(file, *names, problems=None, vocabulary=math.inf):
    """The lines of a record that fill_record wrote, every one of them.

    Raises InputError, also for a line that lacks one of the names, whose id is none of the problems', or that
    holds something else than this kind of record does.
    """
    lines, text = read_lines(file), read_bytes(file)
    if not lines:
        raise InputError(f"{file}: holds no line that can be read; give a record of an earlier run")
    if len(lines) != len(text.splitlines()):
        raise InputError(f"{file} line {len(lines) + 1}: cannot be read; let the run that makes it finish, "
                         "or delete this line and what follows if the rest is enough")
    for number, line in enumerate(lines, 1):
        if not set(names) <= set(line):
            raise InputError(f"{file} line {number}: is another kind of record (no {', '.join(names)}); give "
                             "the one that an earlier run of this script left")
        if odd := odd_value(line, vocabulary):
            raise InputError(f"{file} line {number}: {odd} is not what a record has there; give one that an "
                             "earlier run of this script left")
    if problems is not None and not {line["id"] for line in lines} <= {problem["id"] for problem in problems}:
        raise InputError(f"{file}: holds questions that --data does not; give the --data of the run that "
                         "left it")
    return lines


def fill_record(file, items, work, wanted, found, chunk=64, **tag):
    """Do a long one-off job on items, in chunks -> the lines of `file` with this tag, one for each item done.

    work(items, start) -> one dict for each item; start: the first one's place in the list. The job ends when
    `wanted` lines satisfy found(line), or with the last item. Each chunk is written down at once: what a
    killed run has done is not done again. tag: keeps several jobs of one file apart.
    """
    lines, others = [], []
    for line in read_lines(file):
        (lines if line.items() >= tag.items() else others).append(line)
    if len(lines) != len(items):
        lines = lines[: len(lines) // chunk * chunk]  # a chunk that a kill has cut is done anew
    write_lines(file, others + lines)
    with tqdm(total=min(wanted, len(items)), initial=sum(map(found, lines)), desc=file.stem, unit="question",
              dynamic_ncols=True, disable=not distributed.is_main()) as bar:
        for start in range(len(lines), len(items), chunk):
            if sum(map(found, lines)) >= wanted:
                break
            new = [tag | line for line in work(items[start : start + chunk], start)]
            append(file, new)
            lines += new
            bar.update(sum(map(found, new)))
    return lines
