"""What must hold for any input: the data loader, settings, the search for a box, padding and masks."""

import importlib
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import MAINS

from common import Rollout, collate, load_model, micro_batches
from plumbing import InputError
from plumbing.data import load_problems
from plumbing.settings import ELSE, MACHINE, RANGES, as_flags, parse_settings
from plumbing.verifier import last_boxed

TEXT = st.text(max_size=20)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)  # fmt: skip
COLUMNS = st.sampled_from(["problem", "question", "prompt", "answer", "final_answer", "reward_model", "solution", "level", "context", "x"])
MESSAGES = st.lists(st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "assistant", "x", None]), "content": JSON}), max_size=3)
ROWS = st.lists(st.dictionaries(COLUMNS, JSON | MESSAGES | TEXT, max_size=5) | JSON, min_size=1, max_size=4)
FOLDER = tempfile.TemporaryDirectory()


def loader(tokenizer):
    file = Path(FOLDER.name) / "rows.jsonl"

    @given(ROWS)
    def holds(rows):
        """Any rows: problems that are whole, or an InputError in one line that names the file."""
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            problems = load_problems(str(file), tokenizer, check_answers=False)
        except InputError as problem:
            assert "\n" not in str(problem) and "rows.jsonl" in str(problem)
            return
        for problem in problems:
            assert isinstance(problem["answer"], str) and problem["prompt_ids"] and problem["answer"] not in ("nan", "inf", "None", "True")

    return holds


NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 0.5, -1, 1e-9])


def flag_settings():
    tables = {name: MACHINE | importlib.import_module(name).SETTINGS for name in MAINS}

    @given(st.data())
    def holds(data):
        """Any numbers and texts for some flags: what was given, in its range, or an InputError in one line. And back to flags again."""
        script = data.draw(st.sampled_from(list(tables)))
        table = tables[script]
        names = data.draw(st.lists(st.sampled_from(list(table)), min_size=1, max_size=4, unique=True))
        argv = [f"--{name.replace('_', '-')}={data.draw(NUMBERS if isinstance(table[name][0], int | float) else TEXT)}" for name in names]
        try:
            args = parse_settings("", importlib.import_module(script).SETTINGS, argv)
        except InputError as problem:
            assert "\n" not in str(problem)
            return
        for name, value in vars(args).items():
            if name in table and type(table[name][0]) in (int, float):
                low, high = map(float, RANGES.get(name, ELSE)[1:-1].split(","))
                assert low <= value <= high
        kept = {name: value for name, value in vars(args).items() if value is not None}
        assert parse_settings("", importlib.import_module(script).SETTINGS, as_flags(kept)) == args

    return holds


PIECES = st.sampled_from([r"\boxed{", r"\fbox {", "{", "}", r"\{", r"\}", "\\\\", "a", " ", "\\", r"\frac", "boxed", "\n", "é"])


def slow_last_boxed(text):
    """The same, a character at a time: of all boxes that close, the one that closes last."""
    at, stack, found = 0, [], None
    while at < len(text):
        if text[at] == "\\":
            opened = False
            for name in ("boxed", "fbox"):
                after = at + 1 + len(name)
                if text.startswith(name, at + 1):
                    while after < len(text) and text[after].isspace():
                        after += 1
                    if text[after : after + 1] == "{":
                        stack.append(after + 1)
                        at, opened = after + 1, True
                        break
            if not opened:
                at += 2
            continue
        if text[at] == "{":
            stack.append(None)
        elif text[at] == "}" and stack:
            start = stack.pop()
            if start is not None:
                found = text[start:at].strip()
        at += 1
    return found


def boxes():
    @given(st.lists(PIECES, max_size=30).map("".join))
    def holds(text):
        """The box that a slow and simple search finds."""
        assert last_boxed(text) == slow_last_boxed(text)

    return holds


IDS = st.lists(st.integers(0, 50), max_size=8)


def masks():
    rollout = st.builds(lambda prompt, ids: Rollout([1, *prompt], ids, [float(-i - 1) for i in range(len(ids))], True), IDS, IDS)

    @given(st.lists(rollout, min_size=1, max_size=6), st.sampled_from(["left", "right"]), st.integers(1, 60))
    def holds(rollouts, side, budget):
        """The mask picks the response's tokens and their log-probs, whatever they are; micro-batches hold each rollout once."""
        batch = collate(rollouts, padding_side=side)
        for i, r in enumerate(rollouts):
            mask = batch["completion_mask"][i]
            assert batch["input_ids"][i, 1:][mask].tolist() == r.completion_ids
            assert batch["sampling_per_token_logps"][i][mask].tolist() == r.logps
            assert batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist() == r.prompt_ids + r.completion_ids
            assert batch["sampling_per_token_logps"][i][~mask].abs().sum() == 0
        parts = micro_batches(rollouts, budget)
        assert sorted(id(r) for part in parts for r in part) == sorted(map(id, rollouts))
        for part in parts:
            widest = max(len(r.prompt_ids) + len(r.completion_ids) for r in part)
            assert len(part) == 1 or widest * len(part) <= budget

    return holds


ALL = {"loader": lambda: loader(load_model("tiny/model")[1]), "settings": flag_settings, "boxes": boxes, "masks": masks}


def check(name, examples):
    """How many cases were tried, and what is wrong: at most one, hypothesis stops at the first and makes it small."""
    test = settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))(ALL[name]())
    try:
        test()
    except Exception as problem:
        return examples, [f"{type(problem).__name__}: {problem}"[:500]]
    return examples, []
