"""Problems with checkable answers, from files or from the hub, the prompts made of them, and a record of what was found out about them."""

import json
import math
import random
import re
from pathlib import Path

import datasets
from tqdm import tqdm

import ranks
from common import InputError, append, derive_seed, here_or_in_repository, read_metrics, write_aside
from verifier import last_boxed, readable

QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "final_answer", "reward_model.ground_truth", "solution")


def read_rows(source):
    """(place, row) for every row of a .jsonl, .json or .parquet file or of a hub data set `id[:config][@split]`. Raises InputError."""
    path = Path(here_or_in_repository(source))
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        name, _, split = str(source).partition("@")
        name, _, config = name.partition(":")
        try:
            return [(f"{source} row {i}", row) for i, row in enumerate(datasets.load_dataset(name, config or None, split=split or "train"))]
        except Exception as problem:  # the hub client raises many kinds
            reason = str(problem).splitlines()[0]
            raise InputError(f"data set {source}: no .jsonl, .json or .parquet file, and the hub could not give it ({reason})") from None
    try:
        if path.suffix == ".parquet":
            return [(f"{source} row {i}", row) for i, row in enumerate(datasets.Dataset.from_parquet(str(path)))]
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as problem:
        raise InputError(f"data file {source}: cannot be read ({problem})") from None
    pieces, rows = [(str(source), text)], []
    if path.suffix == ".jsonl":
        pieces = [(f"{source} line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for place, piece in pieces:
        try:
            row = json.loads(piece)
        except json.JSONDecodeError as problem:
            raise InputError(f"{place}: not valid JSON ({problem})") from None
        rows += [(f"{source} row {i}", item) for i, item in enumerate(row)] if isinstance(row, list) else [(place, row)]
    return rows


def set_name(source):
    """The short name of a data set in metrics: tiny/test.jsonl -> test, HuggingFaceH4/MATH-500@test -> MATH-500."""
    return Path(re.split("[:@]", str(source))[0]).name.removesuffix(".jsonl").removesuffix(".json").removesuffix(".parquet")


def pick_column(row, names, flag, place):
    """The first of the named columns (dots descend) that the row has. Raises InputError naming the place and the flag to map a column."""
    for name in names:
        value = row if isinstance(row, dict) else {}
        for part in name.split("."):
            value = {str(k).lower(): v for k, v in value.items()}.get(part.lower()) if isinstance(value, dict) else None
        if value not in (None, "", []):
            return value
    found = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
    raise InputError(f"{place}: none of {', '.join(names)} is there or has a value (columns: {found}); name the column with {flag}")


def load_problems(source, tokenizer, *, instruction="", longest_prompt=math.inf, question_column="", answer_column=""):
    """Problems with a checkable answer -> list of {"id", "problem", "answer", "prompt_ids", "place", and "level" where the source has it}.

    problem is a text or a list of chat messages, answer a text. A worked solution is reduced to its last box, or to what follows
    `####`; of several answers in a list the first is taken. Problems whose answer math-verify cannot read could never be rewarded:
    they are dropped, counted and listed.
    Raises InputError for an unreadable source, a row without question or answer (with its line), an empty set, or a prompt of more
    than longest_prompt tokens.
    """
    problems = []
    for place, row in read_rows(source):
        question = pick_column(row, [question_column] if question_column else QUESTION_COLUMNS, "--question-column", place)
        answer = pick_column(row, [answer_column] if answer_column else ANSWER_COLUMNS, "--answer-column", place)
        if not isinstance(question, str) and not (isinstance(question, list) and all(isinstance(m, dict) and "content" in m for m in question)):
            raise InputError(f"{place}: the question is neither a text nor a list of chat messages; name its column with --question-column")
        answer = str(answer[0] if isinstance(answer, list) else answer)
        answer = (last_boxed(answer) or answer.rpartition("####")[2]).strip().strip("$")
        if isinstance(question, str) and isinstance(row.get("context"), str) and row["context"].strip():  # OlympiadBench keeps it apart
            question = f"{row['context'].strip()}\n{question}"
        ids = build_prompt(tokenizer, question, instruction)
        if len(ids) > longest_prompt:
            raise InputError(f"{place}: the prompt has {len(ids)} tokens, but beside --max-tokens the model's context has room for "
                             f"{longest_prompt}; lower --max-tokens or take the problem out")
        problem = {"id": len(problems), "problem": question, "answer": answer, "prompt_ids": ids, "place": place}
        problems.append(problem | ({"level": str(row["level"]).removeprefix("Level ")} if "level" in row else {}))
    if not problems:
        raise InputError(f"data {source}: holds no problem")
    usable = readable([p["answer"] for p in problems])
    dropped = [p for p, ok in zip(problems, usable, strict=True) if not ok]
    if dropped:
        print(f"{source}: {len(dropped)} of {len(problems)} problems dropped, math-verify cannot read their answers: "
              + "; ".join(f"{p['place']}: {p['answer'][:40]!r}" for p in dropped[:5]) + (" ..." if dropped[5:] else ""))
    if len(dropped) == len(problems):
        raise InputError(f"data {source}: no problem is left, math-verify can read none of the answers; is --answer-column right?")
    return [p for p, ok in zip(problems, usable, strict=True) if ok]


class Shuffled:
    """Endless passes over a list, each in a new order that depends only on (seed, pass). State: how many items were drawn."""

    def __init__(self, items, seed):
        self.items, self.seed, self.drawn = items, seed, 0

    def draw(self, count):
        picked = []
        for i in range(self.drawn, self.drawn + count):
            turn, place = divmod(i, len(self.items))
            if place == 0 or not picked:
                order = list(range(len(self.items)))
                random.Random(derive_seed(self.seed, "order", turn)).shuffle(order)
            picked.append(self.items[order[place]])
        self.drawn += count
        return picked

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


def build_prompt(tokenizer, problem, instruction):
    """Token ids of one question, as the model sees it in training and in evaluation alike.

    problem: a text, or a list of chat messages (which is taken to hold its own instructions). The chat template is used where the
    tokenizer has one; without, the text and a line break.
    """
    messages = [{"role": "user", "content": problem + instruction}] if isinstance(problem, str) else problem
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False).input_ids  # the template has written the special tokens
    return tokenizer("\n".join(message["content"] for message in messages) + "\n").input_ids


def read_record(file):
    """The lines of a record that fill_record wrote. Raises InputError."""
    if not (lines := read_metrics(Path(file))):
        raise InputError(f"{file}: holds no line that can be read; give a record of an earlier run")
    return lines


def fill_record(file, items, work, wanted, found, chunk=64, **tag):
    """Do a long one-off job on items, in chunks -> the lines of `file` with this tag, one for each item done.

    work(items, place) -> one dict for each item; place: of the first in the list. The job ends when `wanted` lines satisfy found(line), or with
    the last item. Each chunk is written down at once: what a killed run has done is not done again. tag: keeps several jobs of one file apart.
    """
    lines = read_metrics(file)
    others, lines = ([line for line in lines if (line.items() >= tag.items()) == mine] for mine in (False, True))
    lines = lines[: len(lines) if len(lines) == len(items) else len(lines) // chunk * chunk]  # a chunk that a kill has cut is done anew
    write_aside(file, "".join(json.dumps(line) + "\n" for line in others + lines))
    with tqdm(total=min(wanted, len(items)), initial=sum(map(found, lines)), desc=file.stem, unit="question", dynamic_ncols=True,
              disable=not ranks.FIRST) as bar:
        for place in range(len(lines), len(items), chunk):
            if sum(map(found, lines)) >= wanted:
                break
            new = [tag | line for line in work(items[place : place + chunk], place)]
            append(file, new)
            lines += new
            bar.update(sum(map(found, new)))
    return lines
