"""Problems with checkable answers, from files or from the hub, and the order in which they come up."""

import json
import math
import random
import re
from pathlib import Path

import datasets

from common import build_prompt, here_or_in_repository
from plumbing import InputError, derive_seed, distributed, first_line
from plumbing.records import checksum
from plumbing.verifier import last_boxed, readable

FILES = (".jsonl", ".json", ".parquet")
QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "reward_model.ground_truth", "solution")


def read_rows(source):
    """(origin, row) for every row of a file or hub data set; origin: its file and line, for messages.

    source: a .jsonl, .json or .parquet file, or `id[:config][@split]` on the hub. Raises InputError.
    """
    path = Path(here_or_in_repository(source))
    if path.suffix not in FILES:
        return list(hub_rows(source))
    try:
        if path.suffix == ".parquet":
            rows = datasets.Dataset.from_parquet(str(path))
            return [(f"{source} row {i}", row) for i, row in enumerate(rows)]
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as problem:
        raise InputError(f"data file {source}: cannot be read ({problem})") from None
    pieces, rows = [(str(source), text)], []
    if path.suffix == ".jsonl":
        pieces = [(f"{source} line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for origin, piece in pieces:
        try:
            row = json.loads(piece)
        except (ValueError, RecursionError) as problem:  # also numbers of thousands of digits
            raise InputError(f"{origin}: not valid JSON ({problem})") from None
        if isinstance(row, list):
            rows += [(f"{origin} row {i}", item) for i, item in enumerate(row)]
        else:
            rows.append((origin, row))
    return rows


def hub_rows(source):
    """(origin, row) for every row of a data set on the hub. Raises InputError."""
    name, _, split = str(source).partition("@")
    name, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as problem:  # the hub client raises many kinds
        raise InputError(f"data set {source}: no .jsonl, .json or .parquet file, and the hub could not give "
                         f"it ({first_line(problem)})") from None
    return ((f"{source} row {i}", row) for i, row in enumerate(rows))


def set_name(source):
    """The short name of a data set in metrics: tiny/test.jsonl -> test, Hugging/MATH-500@test -> MATH-500."""
    path = Path(source)
    return path.stem if path.suffix in FILES else Path(re.split("[:@]", str(source))[0]).name


def pick_column(row, names, flag, origin):
    """The first of the named columns (dots descend) that the row has. Raises InputError."""
    for name in names:
        value = row if isinstance(row, dict) else {}
        for part in name.split("."):
            value = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
            value = value.get(part.lower())
        if value not in (None, "", []):
            return value
    columns = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
    raise InputError(f"{origin}: none of {', '.join(names)} is there or has a value (columns: {columns}); "
                     f"name the column with {flag}")


def load_problems(source, tokenizer, *, instruction="", longest_prompt=math.inf, question_column="",
                  answer_column="", check_answers=True):
    """Problems with a checkable answer -> list of {"id", "problem", "answer", "prompt_ids", "origin"}.

    Also "level" where the source has it.

    problem is a text or a list of chat messages, answer a text. A worked solution is reduced to its last box,
    or to what follows `####`; of several answers in a list the first is taken. Dropped, counted and listed
    are prompts of more than longest_prompt tokens, and problems whose answer math-verify cannot read: they
    could never be rewarded (check_answers=False: kept, for other rewards). Under torchrun all ranks get the
    same. Raises InputError for an unreadable source, a row without question or answer (with its line), or if
    no problem is left.
    """
    problems = []
    for i, (origin, row) in enumerate(read_rows(source)):
        question, answer = question_and_answer(row, question_column, answer_column, origin)
        try:
            ids = build_prompt(tokenizer, question, instruction)
        except Exception as problem:  # of the chat template, or of the tokenizer on text that is not Unicode
            raise InputError(f"{origin}: the question cannot be made a prompt ({type(problem).__name__}: "
                             f"{problem}); is it what the model's chat template takes?") from None
        problem = {"id": i, "problem": question, "answer": answer, "prompt_ids": ids, "origin": origin}
        if "level" in row:
            problem["level"] = str(row["level"]).removeprefix("Level ")
        problems.append(problem)
    if not problems:
        raise InputError(f"data {source}: holds no problem")
    fits = [len(p["prompt_ids"]) <= longest_prompt for p in problems]
    problems = drop(source, problems, fits, f"their prompts have more than the {longest_prompt} tokens that "
                    "--max-tokens leaves of the model's context", "lower --max-tokens")
    return without_unreadable(source, problems) if check_answers else problems


def without_unreadable(source, problems, unreadable=None):
    """The problems whose answers math-verify can read. Raises InputError if none is left.

    unreadable: ids of the others, if they are known. That it cannot read one may be for want of time.
    """
    usable = [p["id"] not in (unreadable or ()) for p in problems]
    if unreadable is None:  # each rank reads its share: one that is timed out on one rank is dropped on all
        usable = distributed.split_work([p["answer"] for p in problems], readable)
    return drop(source, problems, usable, "math-verify cannot read their answers",
                "is --answer-column right?")


def drop(source, problems, kept, reason, remedy):
    """The problems to be kept; the others are counted and listed. Raises InputError if none is left."""
    dropped = [p for p, ok in zip(problems, kept, strict=True) if not ok]
    if len(dropped) == len(problems):
        raise InputError(f"data {source}: no problem is left, {reason}; {remedy}")
    if dropped:
        listed = "; ".join(f"{p['origin']}: {p['answer'][:40]!r}" for p in dropped[:5])
        print(f"{source}: {len(dropped)} of {len(problems)} problems dropped, {reason}: {listed}"
              + (" ..." if dropped[5:] else ""))
    return [p for p, ok in zip(problems, kept, strict=True) if ok]


def question_and_answer(row, question_column, answer_column, origin):
    """The question (text or chat messages) and the bare answer (text) of a row. Raises InputError."""
    question_columns = [question_column] if question_column else QUESTION_COLUMNS
    answer_columns = [answer_column] if answer_column else ANSWER_COLUMNS
    question = pick_column(row, question_columns, "--question-column", origin)
    answer = pick_column(row, answer_columns, "--answer-column", origin)
    is_chat = isinstance(question, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in question)
    if not isinstance(question, str) and not is_chat:
        raise InputError(f"{origin}: the question is neither a text nor a list of chat messages with a role "
                         "and a text; name its column with --question-column")
    if is_chat:  # messages of a parquet file may hold more than JSON can, as times
        question = json.loads(json.dumps(question, default=str))
    answer = answer[0] if isinstance(answer, list) else answer
    number = isinstance(answer, int | float) and not isinstance(answer, bool) and abs(answer) < math.inf
    if not isinstance(answer, str) and not number:
        raise InputError(f"{origin}: the answer is neither a text nor a finite number ({answer!r:.80}); name "
                         "its column with --answer-column")
    answer = str(answer)
    answer = (last_boxed(answer) or answer.rpartition("####")[2]).strip().strip("$")
    context = row.get("context")  # OlympiadBench keeps it apart
    if isinstance(question, str) and isinstance(context, str) and context.strip():
        question = f"{context.strip()}\n{question}"
    return question, answer


def fingerprint(problems):
    """A checksum of questions and answers, by which a resumed run knows them again."""
    return checksum([(problem["id"], problem["problem"], problem["answer"]) for problem in problems])


def named(origins):
    """Where problems come from, in few words: a file once, with the numbers of its lines.

    >>> named(["a.jsonl line 7", "a.jsonl line 5", "hub/set row 3", "hub/set row 3", "elsewhere"])
    'a.jsonl lines 5, 7; elsewhere; hub/set row 3'
    """
    places = {}
    for origin in sorted(set(origins)):
        found = re.fullmatch(r"(.* (?:line|row)) (\d+)", origin)
        places.setdefault(found[1] if found else origin, []).append(int(found[2]) if found else None)
    listed = []
    for place, numbers in places.items():
        numbers = [] if numbers == [None] else sorted(numbers)
        listed.append(place + "s" * (len(numbers) > 1) + " " * bool(numbers) + ", ".join(map(str, numbers)))
    return "; ".join(listed)


class Shuffled:
    """Endless passes over a list, each in a new order that depends only on (seed, pass).

    State: how many items were drawn.
    """

    def __init__(self, items, seed):
        self.items, self.seed, self.drawn = items, seed, 0

    def draw(self, count):
        """The next `count` items."""
        picked = []
        for i in range(self.drawn, self.drawn + count):
            turn, at = divmod(i, len(self.items))
            if at == 0 or not picked:
                order = list(range(len(self.items)))
                random.Random(derive_seed(self.seed, "order", turn)).shuffle(order)
            picked.append(self.items[order[at]])
        self.drawn += count
        return picked

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]
