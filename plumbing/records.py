"""Files that a kill cannot spoil, and long one-off jobs that go on where they were stopped."""

import contextlib
import json
import os
from pathlib import Path

from tqdm import tqdm

from plumbing import InputError, distributed


def read_lines(path):
    """Rows of a .jsonl file, [] without one, up to the first that is no row: a kill may cut the last."""
    rows = []
    for line in Path(path).read_bytes().splitlines() if Path(path).exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


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


def read_record(file, *names, problems=None):
    """The lines of a record that fill_record wrote, every one of them.

    Raises InputError, also for a line that lacks one of the names, or whose id is none of the problems'.
    """
    try:
        lines, text = read_lines(file), Path(file).read_bytes() if Path(file).exists() else b""
    except OSError as problem:
        raise InputError(f"{file}: cannot be read ({problem}); give a record of an earlier run") from None
    if not lines:
        raise InputError(f"{file}: holds no line that can be read; give a record of an earlier run")
    if len(lines) != len(text.splitlines()):
        raise InputError(f"{file} line {len(lines) + 1}: cannot be read; let the run that makes it finish, "
                         "or delete this line and what follows if the rest is enough")
    for number, line in enumerate(lines, 1):
        if not set(names) <= set(line):
            raise InputError(f"{file} line {number}: is another kind of record (no {', '.join(names)}); give "
                             "the one that an earlier run of this script left")
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
