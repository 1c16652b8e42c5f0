"""--reward: somebody's own function."""

import importlib
import re

import pytest

import grpo
from conftest import SCRIPTS, rows_of, stopped
from plumbing.reward import load_reward
from test_run import FAST

GRADED = """
from beside import HALF

def score(texts, golds):
    return [1.0 if text.endswith("{" + gold + "}") else HALF * text.count(";") / (1 + text.count(";")) for text, gold in zip(texts, golds)]
"""


@pytest.fixture
def reward(tmp_path):
    """A graded reward: 1 for the right box, else less than a half, the more the longer. It imports a file that lies beside it."""
    (tmp_path / "beside.py").write_text("HALF = 0.5\n")
    (tmp_path / "mine.py").write_text(GRADED)
    return f"{tmp_path / 'mine.py'}:score"


def test_what_it_gets_and_what_comes_of_it(reward):
    assert load_reward(reward)(["1+1=2; \\boxed{2}", "1+1=3; \\boxed{3}", ""], ["2", "2", "2"], None) == [1.0, 0.25, 0.0]
    assert load_reward("").__module__ == "plumbing.verifier"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_takes_it(script, few_test, reward, tmp_path):
    main = importlib.import_module(script).main
    flags = ["--steps", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--eval-sets", few_test]
    main([*flags, *FAST.get(script, []), "--reward", reward, "--out", str(tmp_path / "run")])
    first, last = rows_of(tmp_path / "run")
    assert last["reward"] % 0.25 and 0 < last["reward"] < 1  # graded: not a share of 16 right ones
    assert 0 < first["eval/few/avg@1"] < 1 and "verify/no_answer" not in last


def test_gold_answers_need_not_be_readable(reward, few_test, tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"problem": "1+1", "answer": "\\\\frac{1"}\n')
    flags = ["--data", str(tmp_path / "odd.jsonl"), "--eval-sets", few_test, "--steps", "0", "--eval-samples", "1"]
    grpo.main([*flags, "--reward", reward, "--out", str(tmp_path / "run")])
    assert "no problem is left, math-verify cannot read their answers" in stopped(grpo.main, *flags, "--out", str(tmp_path / "other"))


@pytest.mark.parametrize("body, message", [
    ("def other(texts, golds): return []", "has no function 'score'"),
    ("import nowhere_to_be_found", r"ModuleNotFoundError: No module named 'nowhere_to_be_found' \(mine.py line 1\)"),
    ("def score(texts, golds):\n    return 1 / 0", r"ZeroDivisionError: division by zero \(mine.py line 2\)"),
    ("def score(texts, golds): return [1.0]", r"returned 1 numbers for \d+ responses"),
    ("def score(texts, golds): return ['x' for _ in texts]", "returned something that is no number"),
    ("def score(texts, golds): return [2 for _ in texts]", "returned 2 for .*must be 0 to 1"),
    ("def score(texts, golds): return [float('nan') for _ in texts]", "returned nan for .*must be 0 to 1"),
])  # fmt: skip
def test_what_is_wrong_with_it_is_one_line(body, message, few_test, tmp_path):
    (tmp_path / "mine.py").write_text(body)
    flags = ["--reward", f"{tmp_path / 'mine.py'}:score", "--eval-sets", few_test, "--eval-samples", "1", "--out", str(tmp_path / "run")]
    line = stopped(grpo.main, *flags)
    assert line.startswith("error: --reward ") and re.search(message, line), line


def test_a_file_that_is_not_there():
    assert "there is no file nowhere.py; write FILE.py:FUNCTION" in stopped(grpo.main, "--reward", "nowhere.py:score")
    assert "write FILE.py:FUNCTION" in stopped(grpo.main, "--reward", "score")
