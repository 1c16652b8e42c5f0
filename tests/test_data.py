"""Problems and prompts."""

import datetime
import importlib
import json
import re

import datasets
import pytest

import grpo
from common import build_prompt, verify
from conftest import SCRIPTS, stopped
from plumbing import InputError
from plumbing.data import Shuffled, fingerprint, load_problems, set_name
from plumbing.settings import parse_settings


def load(tmp_path, tiny, rows, name="data.jsonl", **settings):
    file = tmp_path / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return load_problems(str(file), tiny[1], **settings)


@pytest.mark.parametrize(
    "row, answer",
    [
        ({"problem": "1+1", "answer": "2"}, "2"),
        ({"question": "1+1", "answer": 2}, "2"),
        ({"Problem": "1+1", "Answer": "2", "Solution": "long"}, "2"),  # column names in any case
        ({"problem": "1+1", "solution": r"so \boxed{1}, no, \boxed{\frac{4}{2}}."}, r"\frac{4}{2}"),
        ({"question": "1+1", "answer": "One and one make two.\n#### 2"}, "2"),
        ({"prompt": "1+1", "reward_model": {"ground_truth": "2", "style": "rule"}}, "2"),
        ({"problem": "1+1", "answer": ["2"]}, "2"),
        ({"problem": "1+1", "answer": "2", "solution": r"\boxed{3}"}, "2"),
    ],
)
def test_common_schemas(tmp_path, tiny, row, answer):
    (problem,) = load(tmp_path, tiny, [row])
    assert (problem["problem"], problem["answer"]) == ("1+1", answer)


HUB_ROWS = {  # a row of each public set: all its columns, or those that are read, with values of its kinds; the contents are ours
    "open-r1/DAPO-Math-17k-Processed:en": {
        "prompt": "1+1", "solution": "2", "data_source": "math_dapo", "ability": "MATH", "source_prompt": [{"content": "Solve 1+1", "role": "user"}],
        "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": "a"}},
    "agentica-org/DeepScaleR-Preview-Dataset": {"problem": "1+1", "answer": "2", "solution": "It is 3."},
    "DigitalLearningGmbH/MATH-lighteval": {"problem": "1+1", "level": "Level 5", "type": "Algebra", "solution": r"So $\boxed{2}$."},
    "HuggingFaceH4/MATH-500@test": {
        "problem": "1+1", "solution": r"$\boxed{3}$", "answer": "2", "subject": "Algebra", "level": 5, "unique_id": "test/algebra/1.json"},
    "HuggingFaceH4/aime_2024": {"id": 60, "problem": "1+1", "solution": "long", "answer": "2", "url": "u", "year": "2024"},
    "rawsh/2024_AMC12": {"problem": "1+1", "answer": "2"},
    "MathArena/hmmt_feb_2025": {"problem": "1+1", "answer": "2"},
    "math-ai/aime24@test": {"id": 60, "problem": "1+1", "solution": r"\boxed{2}", "url": "u"},
    "math-ai/aime25@test": {"problem": "1+1", "answer": "2", "id": "0"},
    "math-ai/amc23@test": {"id": 0, "question": "1+1", "answer": 2.0, "url": "u"},
    "math-ai/minervamath@test": {"question": "1+1", "answer": "2"},
    "Hothan/OlympiadBench:OE_TO_maths_en_COMP": {
        "id": 1606, "question": "+1", "solution": ["long"], "final_answer": ["$2$"], "context": "1", "image_1": None, "modality": "Text-only",
        "is_multiple_answer": False, "unit": None, "answer_type": "Numerical", "language": "English"},
}


def test_every_default_set_has_a_row_here():
    """Of all six scripts, with --model: training problems, evaluation sets, and where q+ comes from."""
    for script in SCRIPTS:
        args = parse_settings("", importlib.import_module(script).SETTINGS, ["--model", "some/model"])
        for source in [args.data, *args.eval_sets, *([args.hard_data] if script == "pos_neg_pairing" else [])]:
            assert source in HUB_ROWS, (script, source)


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_of_the_public_sets(tmp_path, tiny, name):
    """A local file with the same columns gives the same problem; the answer is right where it should be."""
    (problem,) = load(tmp_path, tiny, [HUB_ROWS[name]])
    assert problem["problem"].replace("\n", "") == "1+1" and verify([r"\boxed{2}", r"\boxed{3}"], [problem["answer"]] * 2) == [1.0, 0.0]
    assert problem.get("level") in (None, "5")


def test_chat_messages_are_taken_as_they_are(tmp_path, tiny):
    """A prompt that is a list of messages brings its own instruction: none is added."""
    row = {"prompt": [{"role": "user", "content": "1+1"}], "reward_model": {"ground_truth": "2"}}
    (problem,) = load(tmp_path, tiny, [row], instruction=" ignored")
    assert tiny[1].decode(problem["prompt_ids"]) == "<|user|>1+1<|assistant|>"


def test_other_columns_are_mapped_with_two_flags(tmp_path, tiny):
    (problem,) = load(tmp_path, tiny, [{"q": "1+1", "extra": {"gold": "2"}}], question_column="q", answer_column="extra.gold")
    assert (problem["problem"], problem["answer"]) == ("1+1", "2")


def test_json_and_parquet_files(tmp_path, tiny):
    rows = [{"problem": "1+1", "answer": "2", "level": 1}, {"problem": "2+2", "answer": "4", "level": 3}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    for name in ("a.json", "a.parquet"):
        problems = load_problems(str(tmp_path / name), tiny[1])
        assert [(p["problem"], p["answer"], p["level"]) for p in problems] == [("1+1", "2", "1"), ("2+2", "4", "3")]


def test_unreadable_answers_are_dropped_counted_and_listed(tmp_path, tiny, capsys):
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "a", "answer": r"\frac{1"}, {"problem": "b", "answer": r"\sqrt{2}"}]
    assert [p["answer"] for p in load(tmp_path, tiny, rows)] == ["2", r"\sqrt{2}"]
    assert re.search(r"1 of 3 problems dropped.*data.jsonl line 2: .*frac\{1", capsys.readouterr().out)


def test_prompts_without_room_are_dropped_and_the_others_keep_their_ids(tmp_path, tiny, capsys):
    """The prompt of line 2 has 201 tokens. What a record says about a question holds for another --max-tokens too."""
    rows = [{"problem": "1+1", "answer": "2"}, {"problem": "1" + "+1" * 99, "answer": "100"}, {"problem": "2+2", "answer": "4"}]
    assert [(p["problem"], p["id"]) for p in load(tmp_path, tiny, rows, longest_prompt=200)] == [("1+1", 0), ("2+2", 2)]
    assert re.search(r"1 of 3 problems dropped, their prompts have more than the 200 tokens .*data.jsonl line 2: '100'", capsys.readouterr().out)
    assert len(load(tmp_path, tiny, rows, longest_prompt=201)) == 3


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"problem": "1+1", "answer": "2"}, {"problem": "1+1"}], r"data.jsonl line 2: none of answer, .*columns: problem\).*--answer-column"),
        ([{"problem": "1+1", "answer": ""}], r"line 1: none of answer"),
        ([{"answer": "2"}], r"line 1: none of problem, question, prompt.*--question-column"),
        ([{"problem": "1+1", "answer": "2"}, "{broken"], r"line 2: not valid JSON"),
        ([{"problem": 7, "answer": "2"}], "line 1: the question is neither a text nor a list of chat messages"),
        ([{"prompt": ["hello"], "answer": "2"}], "line 1: the question is neither a text nor a list of chat messages"),
        ([{"problem": "1+1", "answer": "2"}, '{"problem": "1", "answer": NaN}'], "line 2: the answer is neither a text nor a finite number .nan"),
        (['{"problem": "1", "answer": 1e999}'], "line 1: the answer is neither"),
        ([{"problem": "1+1", "answer": [None]}], "line 1: the answer is neither"),
        ([{"problem": "1+1", "answer": {"a": 1}}], "line 1: the answer is neither"),
        (["[" * 100_000], "line 1: not valid JSON"),
        (['{"problem": "1", "answer": ' + "9" * 5000 + "}"], "line 1: not valid JSON"),
        ([{"problem": "1\ud800", "answer": "2"}], "line 1: the question cannot be made a prompt"),
        ([{"prompt": [{"role": "user", "content": None}], "answer": "2"}], "line 1: the question is neither a text nor a list of chat"),
        ([{"prompt": [{"content": "1+1"}], "answer": "2"}], "line 1: the question is neither a text nor a list of chat"),
        (["[]"], "holds no problem"),
        ([], "holds no problem"),
        (['"text"'], "line 1: none of problem"),
        ([{"problem": "1+1", "answer": r"\frac{"}], "no problem is left, math-verify cannot read .*--answer-column"),
        ([{"problem": "1" + "+1" * 99, "answer": "2"}] * 2, "no problem is left, their prompts have more than the 100 tokens.*lower --max-tokens"),
    ],
)
def test_bad_data_gives_one_line_with_the_place(tmp_path, tiny, rows, message):
    with pytest.raises(InputError) as error:
        load(tmp_path, tiny, rows, longest_prompt=100)
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_missing_and_unreadable_files(tmp_path, tiny):
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("missing.jsonl", "missing.parquet", "bad.jsonl", "bad.parquet", "folder.jsonl"):
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            load_problems(str(tmp_path / name), tiny[1])
    with pytest.raises(InputError, match="data set nobody/nothing: .*hub could not give it"):
        load_problems("nobody/nothing", tiny[1])


def test_names_too_long_for_a_file_system(tmp_path, tiny):
    for name in ("a" * 300 + ".jsonl", "a" * 300, "a" * 5000):
        with pytest.raises(InputError, match="data (file|set) a+"):
            load_problems(name, tiny[1])
        for flags in (["--data", name], ["--eval-sets", name], ["--reward", name + ":f"], ["--model", name], ["--out", name], ["--resume", name]):
            assert "\n" not in stopped(grpo.main, "--out", str(tmp_path / "run"), *flags)


def test_chat_messages_of_a_parquet_file_may_hold_a_time(tmp_path, tiny):
    """It cannot be written as JSON, which checksums of the data and records of a method are made of."""
    message = {"role": "user", "content": "1+1", "time": datetime.datetime(2024, 5, 6)}
    datasets.Dataset.from_list([{"prompt": [message], "answer": "2"}]).to_parquet(str(tmp_path / "a.parquet"))
    (problem,) = load_problems(str(tmp_path / "a.parquet"), tiny[1])
    assert problem["problem"] == [message | {"time": "2024-05-06 00:00:00"}] and len(fingerprint([problem])) == 64
    assert tiny[1].decode(problem["prompt_ids"]) == "<|user|>1+1<|assistant|>"


@pytest.mark.parametrize("busy", [1, 2])
def test_an_answer_that_takes_too_long_on_a_busy_machine_is_no_change_of_the_data(tmp_path, few_test, monkeypatch, busy):
    """At the first start, or at the second: what was dropped then is dropped now."""
    file, starts = tmp_path / "data.jsonl", []
    file.write_text("".join(json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) + "\n" for i in range(4)))

    def readable(golds):
        starts.append(golds)
        return [not (len(starts) == busy and gold == "3") for gold in golds]

    monkeypatch.setattr("plumbing.data.readable", readable)
    monkeypatch.setattr("plumbing.run.UNREADABLE", {})  # as in another process
    flags = ["--prompts-per-step", "4", "--group-size", "2", "--eval-samples", "1", "--eval-sets", few_test, "--data", str(file)]
    grpo.main([*flags, "--steps", "1", "--out", str(tmp_path / "run")])
    dropped = [one["dropped"] for name, one in json.loads((tmp_path / "run/args.json").read_text())["data"].items() if "data.jsonl" in name]
    assert dropped == [[2] * (busy == 1)]
    monkeypatch.setattr("plumbing.run.UNREADABLE", {})
    grpo.main(["--resume", str(tmp_path / "run"), "--steps", "2"])
    kept = [one["dropped"] for name, one in json.loads((tmp_path / "run/args.json").read_text())["data"].items() if "data.jsonl" in name]
    assert kept == dropped


def test_a_broken_chat_template_is_one_line(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(tiny[1], "chat_template", "{{ nothing.at.all() }")
    with pytest.raises(InputError, match="line 1: the question cannot be made a prompt .Template"):
        load(tmp_path, tiny, [{"problem": "1+1", "answer": "2"}])


def test_names_of_sets():
    assert set_name("odd@folder:/my@set.jsonl") == "my@set"
    assert [set_name(s) for s in ("tiny/test.jsonl", "HuggingFaceH4/MATH-500@test", "openai/gsm8k:main@test", "a/b.c.parquet")] == [
        "test", "MATH-500", "gsm8k", "b.c"]


def test_prompts_with_and_without_a_chat_template(tiny):
    tokenizer = tiny[1]
    assert tokenizer.decode(build_prompt(tokenizer, "1+1", "*2")) == "<|user|>1+1*2<|assistant|>"
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        assert build_prompt(tokenizer, "1+1", "*2") == tokenizer("1+1*2\n").input_ids
    finally:
        tokenizer.chat_template = template


# ---- order ----


def test_every_pass_visits_every_item_once_in_a_new_order():
    order = Shuffled(list("abcdefg"), seed=0)
    passes = ["".join(order.draw(3) + order.draw(4)) for _ in range(3)]
    assert all(sorted(p) == list("abcdefg") for p in passes) and len(set(passes)) == 3


def test_order_continues_where_it_was():
    whole, first = Shuffled(range(10), seed=1), Shuffled(range(10), seed=1)
    drawn = whole.draw(37)
    head = first.draw(14)
    rest = Shuffled(range(10), seed=1)
    rest.load_state_dict(first.state_dict())
    assert head + rest.draw(23) == drawn
    assert Shuffled(range(10), seed=2).draw(10) != drawn[:10]
