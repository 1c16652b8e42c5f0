"""failure_prefix.py: what is mined, where it is cut, what is trained on; and whole runs through main."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import failure_prefix
from common import Rollout, collate, completion_logps, group_advantages
from conftest import ROOT, Scripted, rows_of, stopped
from failure_prefix import choose_cut, first_failure, mine, prefix_of, training_items
from plumbing import InputError

SMALL = ["--steps", "3", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "2", "--eval-samples", "1", "--save-every", "1",
         "--questions", "12", "--screen-samples", "16", "--saturated-low", "12", "--saturated-high", "15",
         "--cuts", "3", "--cut-samples", "4"]  # fmt: skip


def response(ids, reward=0.0, finished=True):
    return Rollout([5, 6], ids, [-0.1] * len(ids), finished, reward=reward)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 18 held-out problems, and for training problems that are short."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::34]))
    (folder / "short.jsonl").write_text("".join([line for line in lines["train"] if json.loads(line)["family"] in ("plain", "mixed")][:500]))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "short.jsonl")]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    failure_prefix.main([*SMALL, *few, "--compare", "--out", str(folder)])
    return folder


# ---- mining ----


def test_a_failure_ended_by_itself():
    right, cut_off, wrong = response([1, 2], 1.0), response([3, 3], finished=False), response([4, 2])
    assert first_failure([right, cut_off, wrong]) is wrong
    assert first_failure([right, cut_off]) is None


def test_prefixes_and_ties():
    assert [prefix_of(list(range(10)), share) for share in (0.1, 0.35, 0.7)] == [[0], [0, 1, 2], list(range(7))]  # 0.7 * 10 is 7, not 6.99...
    assert choose_cut({"cuts": [0.1, 0.2, 0.3], "rates": [1.0, 0.6, 0.4]}, 0.5) == (0.2, 0.6)  # as near: the shorter
    assert choose_cut({"cuts": [0.1, 0.2], "rates": [0.4, 0.6]}, 0.5) == (0.1, 0.4)
    line = {"cuts": [0.25, 0.5, 0.75], "rates": [1.0, 0.75, 0.25]}
    assert choose_cut(line, 0.5) == (0.5, 0.75) and choose_cut(line, 0.2) == (0.75, 0.25)
    assert choose_cut(line, 0.5, fixed_cut=0.75) == (0.75, 0.25) and choose_cut(line, 0.5, fixed_cut=0.3) == (0.3, None)


def test_mining_by_hand():
    """Three questions: one solved, one saturated, one whose only wrong response was cut off."""
    groups = {0: [response([9, 2], 1.0)] * 4, 1: [response([9, 2], 1.0)] * 3 + [response([7, 8, 7, 2])],
              2: [response([9, 2], 1.0)] * 3 + [response([7] * 4, finished=False)]}  # fmt: skip
    asked = []

    def draw(questions, n):
        contexts = [question["prompt_ids"] for question in questions]
        asked.append((contexts, n, [question["answer"] for question in questions]))
        if len(asked) == 1:
            return [groups[context[-1]] for context in contexts]
        return [[response([2], float(i < 4 - len(context))) for i in range(n)] for context in contexts]  # the longer the opening the worse

    questions = [{"id": f"q{i}", "prompt_ids": [i], "answer": str(i)} for i in range(3)]
    solved, saturated, cut_off = mine(questions, draw, samples=4, low=3, high=3, cuts=[0.25, 0.5], cut_samples=2, longest=9)
    assert asked == [([[0], [1], [2]], 4, ["0", "1", "2"]), ([[1, 7], [1, 7, 8]], 2, ["1", "1"])]
    assert "failure" not in solved and "failure" not in cut_off and cut_off["right"] == 3
    # 4 prompts of 2 tokens, as response() has them, and 2 + 2 + 2 + 4 tokens of responses; behind the cuts twice 2 x (2 + 1)
    assert saturated == {"id": "q1", "right": 3, "of": 4, "tokens": 8 + 10, "cut_tokens": 12, "failure": [7, 8, 7, 2], "cuts": [0.25, 0.5],
                         "rates": [1.0, 0.5]}  # fmt: skip
    asked.clear()
    how = {"samples": 4, "low": 3, "high": 3, "cuts": [0.5], "cut_samples": 0, "longest": 9}
    assert mine(questions[1:2], lambda some, n: draw(some, n) if some else [], **how)[0]["rates"] == []


def test_a_cut_that_leaves_no_room_for_an_answer_is_not_tried():
    """A failure of 4 tokens behind a prompt of 1: contexts of 2, 3 and 4 tokens. Where none fits, the question is not used."""
    group, how = [response([9, 2], 1.0), response([7, 8, 7, 2])], {"samples": 2, "low": 1, "high": 1, "cuts": [0.25, 0.5, 0.75], "cut_samples": 0}
    question = {"id": 0, "prompt_ids": [1], "answer": "1"}
    lines = {longest: mine([question], lambda some, n: [group] * len(some), longest=longest, **how)[0] for longest in (4, 3, 1)}
    assert lines[4]["cuts"] == [0.25, 0.5, 0.75] and lines[3]["cuts"] == [0.25, 0.5] and "failure" not in lines[1]


def test_a_bank_without_measured_success_needs_a_fixed_cut():
    line = {"cuts": [0.5], "rates": []}
    assert choose_cut(line, 0.5, fixed_cut=0.5) == (0.5, None)
    with pytest.raises(InputError, match="give --fixed-cut"):
        choose_cut(line, 0.5)


def test_what_each_arm_trains_on():
    lines = [{"id": 3, "right": 15, "failure": [7, 8, 7, 2], "cuts": [0.25, 0.75], "rates": [0.9, 0.4]}, {"id": 4, "right": 8}]
    problems = {i: {"id": i, "prompt_ids": [i], "answer": ""} for i in range(3, 7)}
    how = {"tau": 0.5, "fixed_cut": 0.0}
    arms = ("failure", "plain")
    prompts = {arm: [item["prompt_ids"] for item in training_items(lines, problems, arm=arm, **how)] for arm in arms}
    assert prompts == {"failure": [[3, 7, 8, 7]], "plain": [[3]]}
    assert training_items(lines, problems, arm="failure", tau=0.9, fixed_cut=0.0)[0]["prefix"] == 1
    assert problems[3]["prompt_ids"] == [3]


# ---- training from openings ----


def test_the_opening_gets_no_gradient_but_through_what_follows_it():
    """Of the hidden states, only those from the opening's last token on, which predict the generated ones, get a gradient."""
    hidden = torch.randn(1, 7, 4, requires_grad=True)

    class Table(torch.nn.Module):  # a model that returns these hidden states, whatever it is given
        head = torch.nn.Linear(4, 10, bias=False)
        base_model = staticmethod(lambda **inputs: type("Output", (), {"last_hidden_state": hidden}))

        def get_output_embeddings(self):
            return self.head

    prompt, prefix, generated = [1, 2], [3, 4], [5, 6, 7]
    batch = collate([Rollout(prompt + prefix, generated, [0.0] * 3, True)])
    assert batch["completion_mask"].sum() == 3  # what the loss is divided by
    completion_logps(Table(), batch, torch.ones(1))[0].sum().backward()
    assert [bool(row.any()) for row in hidden.grad[0]] == [False, False, False, True, True, True, False]


def test_two_openings_of_one_question_are_two_groups():
    rewards = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert torch.equal(group_advantages(rewards)[0], group_advantages(rewards[:1])[0])
    lines = [{"id": 3, "right": 15, "failure": ids, "cuts": [0.5], "rates": [0.5]} for ids in ([7, 8], [9, 8])]
    items = training_items(lines, {3: {"id": 3, "prompt_ids": [3], "answer": ""}}, arm="failure", tau=0.5, fixed_cut=0.0)
    assert [item["prompt_ids"] for item in items] == [[3, 7], [3, 9]]  # two contexts, and a group is one context's responses


# ---- the tiny exact case: two questions, four responses to each, all numbers by hand ----


def test_one_step_by_hand(tiny, monkeypatch, tmp_path):
    """Failure of 1+2: "+ + + 4", cut at .5 since .6 is nearest to .5. Failure of 2+2: cut at .75, its .7 is nearest."""

    def reply(context, heat):
        if context == "1+2<|assistant|>++":  # rewards 1 0 0 0; 4, 5, 6, 6 tokens, the last cut off
            return [(0, "3", True), (1, "4", True), (2, "5", True), (3, "3", False)]
        assert context == "2+2<|assistant|>---"  # rewards 1 1 0 0; 4, 4, 5, 4 tokens, the last without a box
        return [(0, "4", True), (0, "4", True), (1, "3", True), (3, None, True)]

    case = Scripted(failure_prefix, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    minus, shared = case.ids("-")[0], {"generation": 0, "of": 32, "right": 31, "tokens": 1000, "cut_tokens": 100, "cuts": [0.25, 0.5, 0.75]}
    lines = [{"id": 0, "failure": [case.plus] * 4, "rates": [0.9, 0.6, 0.1], **shared},
             {"id": 1, "failure": [minus] * 4, "rates": [1, 0.9, 0.7], **shared}]  # fmt: skip
    (tmp_path / "bank.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = case.step("--compare", "--bank", str(tmp_path / "bank.jsonl"))

    # 1+2: mean 1/4, standard deviation 1/2 (divisor 3); A = .75 / .5001 = 1.4997 and -.25 / .5001 = -.4999
    # 2+2: mean 1/2, standard deviation .57735;        A = .5 / .57745 = .8659 and -.8659
    one, two = "<|user|>1+2<|assistant|>++", "<|user|>2+2<|assistant|>---"
    expected = [(one, case.response(0, "3", True), 1.4997), (one, case.response(1, "4", True), -0.4999),
                (one, case.response(2, "5", True), -0.4999), (one, case.response(3, "3", False), -0.4999),
                (two, case.response(0, "4", True), 0.8659), (two, case.response(0, "4", True), 0.8659),
                (two, case.response(1, "3", True), -0.8659), (two, case.response(3, None, True), -0.8659)]  # fmt: skip
    assert sorted(case.trained) == sorted(expected)
    # ratio 1: loss = - sum of A x tokens / tokens; 4 + 5 + 6 + 6 + 4 + 4 + 5 + 4 = 38 tokens
    loss = -(1.4997 * 4 - 0.4999 * (5 + 6 + 6) + 0.8659 * (4 + 4) - 0.8659 * (5 + 4)) / 38
    assert row["loss"] == pytest.approx(loss, abs=1e-5) and row["reward"] == 3 / 8 and row["prefix/length"] == 2.5
    # mining 2 x 1100; prompts of 5 tokens and the prefixes, four times each, and the responses
    assert row["num_tokens"] == 2200 + 4 * (5 + 2) + 4 * (5 + 3) + 38


# ---- whole runs ----


def test_what_a_run_leaves(whole_run):
    bank = [json.loads(line) for line in (whole_run / "bank.jsonl").read_text().splitlines()]
    found = [line for line in bank if "failure" in line]
    assert len(found) >= 12 and all(12 <= line["right"] <= 15 and len(line["rates"]) == 3 for line in found)
    rows = rows_of(whole_run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3] and all(row["prefix/length"] > 0 for row in rows[1:])
    assert rows[0]["num_tokens"] == sum(line["tokens"] + line.get("cut_tokens", 0) for line in bank) < rows[1]["num_tokens"]
    assert all(line["tokens"] > 16 * 4 and ("failure" in line) == ("cut_tokens" in line) for line in bank)  # prompts of 4 tokens or more


def test_the_verifier_never_sees_an_opening(whole_run, few, tmp_path, monkeypatch):
    seen, drawn = [], []
    score = failure_prefix.score_rollouts

    def verify(texts, golds, counts=None):
        seen.extend(texts)
        return [0.0] * len(texts)

    def scored(rollouts, golds, tokenizer, reward, counts=None):
        drawn.extend(tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in rollouts if r.finished)
        score(rollouts, golds, tokenizer, verify, counts)

    monkeypatch.setattr(failure_prefix, "score_rollouts", scored)
    failure_prefix.main([*SMALL, *few, "--compare", "--steps", "1", "--bank", str(whole_run / "bank.jsonl"), "--out", str(tmp_path / "run")])
    assert drawn and [text for text in seen if text] == drawn


CHANGES = {"cut": lambda data: data[: len(data) // 2], "half a line less": lambda data: data[:-30], "empty": lambda data: b"",
           "a rate": lambda data: data.replace(b'"right": 1', b'"right": 2', 1)}  # fmt: skip


@pytest.mark.parametrize("how", [*CHANGES, "deleted"])
@pytest.mark.parametrize("given", [False, True])
def test_a_bank_that_is_not_what_the_run_went_on_from_is_refused(whole_run, few, tmp_path, how, given, monkeypatch):
    """Mined again, it would be by the model of step 3. Whether it was mined here, or given with --bank."""
    out, bank = tmp_path / "run", tmp_path / "run/bank.jsonl"
    if given:
        bank = shutil.copy(whole_run / "bank.jsonl", tmp_path / "given.jsonl")
        failure_prefix.main([*SMALL, *few, "--compare", "--steps", "1", "--bank", str(bank), "--out", str(out)])
    else:
        shutil.copytree(whole_run, out)
    monkeypatch.setattr(failure_prefix, "mine", None)
    bank.unlink() if how == "deleted" else bank.write_bytes(CHANGES[how](bank.read_bytes()))
    line = stopped(failure_prefix.main, "--resume", str(out), "--steps", "4")
    assert f"{bank} does not hold what the run went on from, and the model has been trained since; put it back" in line


def test_a_bank_may_lie_elsewhere_when_the_run_goes_on(whole_run, few, tmp_path):
    bank = shutil.copy(whole_run / "bank.jsonl", tmp_path / "bank.jsonl")
    failure_prefix.main([*SMALL, *few, "--compare", "--steps", "1", "--bank", str(bank), "--out", str(tmp_path / "run")])
    (tmp_path / "else").mkdir()
    moved = bank.rename(tmp_path / "else/bank.jsonl")
    assert "does not hold what the run went on from" in stopped(failure_prefix.main, "--resume", str(tmp_path / "run"), "--steps", "2")
    failure_prefix.main(["--resume", str(tmp_path / "run"), "--steps", "2", "--bank", str(moved)])
    assert len(rows_of(tmp_path / "run")) == 3


@pytest.mark.slow
def test_a_killed_mining_goes_on(whole_run, few, tmp_path, monkeypatch):
    """Interrupted after the first chunk, once while screening; the resumed run has the same bank and the same metrics."""
    calls = []
    original = failure_prefix.mine

    def interrupted(*args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **settings)

    flags = [*SMALL, *few, "--compare", "--questions", "100000", "--steps", "1"]
    monkeypatch.setattr(failure_prefix, "mine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        failure_prefix.main([*flags, "--out", str(tmp_path / "killed")])
    monkeypatch.setattr(failure_prefix, "mine", original)
    failure_prefix.main(["--resume", str(tmp_path / "killed")])
    failure_prefix.main([*flags, "--out", str(tmp_path / "straight")])
    assert (tmp_path / "killed" / "bank.jsonl").read_text() == (tmp_path / "straight" / "bank.jsonl").read_text()
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "straight")


@pytest.mark.slow
def test_refreshing_and_resuming(few, tmp_path, whole_run):
    flags = [*SMALL, *few, "--compare", "--refresh-every", "2", "--refresh-samples", "16", "--bank", str(whole_run / "bank.jsonl")]
    failure_prefix.main([*flags, "--out", str(tmp_path / "straight")])
    failure_prefix.main([*flags, "--steps", "2", "--out", str(tmp_path / "halves")])
    failure_prefix.main(["--resume", str(tmp_path / "halves"), "--steps", "3"])
    straight, halves = rows_of(tmp_path / "straight"), rows_of(tmp_path / "halves")
    assert [row.get("prefix/generation") for row in straight] == [None, 0, 0, 1]
    assert straight[-1] == halves[-1]
    lines = [json.loads(line) for line in (tmp_path / "straight" / "bank.jsonl").read_text().splitlines()]
    assert {line["generation"] for line in lines} == {1} and any("failure" in line for line in lines)
    mined = sum(line["tokens"] + line.get("cut_tokens", 0) for line in lines)  # paid for by the step that they are mined for
    assert straight[3]["num_tokens"] - straight[2]["num_tokens"] > mined > straight[2]["num_tokens"] - straight[1]["num_tokens"]


def test_the_same_questions_without_a_prefix(whole_run, few, tmp_path):
    flags = ["--compare", "--steps", "1", "--arm", "plain", "--bank", str(whole_run / "bank.jsonl"), "--out", str(tmp_path / "run")]
    failure_prefix.main([*SMALL, *few, *flags])
    first, step = rows_of(tmp_path / "run")
    assert step["prefix/length"] == 0
    bank = [json.loads(line) for line in (whole_run / "bank.jsonl").read_text().splitlines()]
    assert first["num_tokens"] == sum(line["tokens"] for line in bank)  # the questions were screened for it too, but nothing was cut


@pytest.mark.slow
def test_a_refresh_that_finds_no_failure_keeps_the_old_prefixes(whole_run, few, tmp_path, monkeypatch):
    """All answers are right when it is time to mine anew. The run goes on, and so does one that was stopped after that."""
    original = failure_prefix.mine
    monkeypatch.setattr(failure_prefix, "first_failure", lambda group: None)
    flags = [*SMALL, *few, "--compare", "--refresh-every", "1", "--refresh-samples", "4", "--bank", str(whole_run / "bank.jsonl")]
    failure_prefix.main([*flags, "--out", str(tmp_path / "straight")])
    failure_prefix.main([*flags, "--steps", "2", "--out", str(tmp_path / "halves")])
    failure_prefix.main(["--resume", str(tmp_path / "halves"), "--steps", "3"])
    straight, halves = rows_of(tmp_path / "straight"), rows_of(tmp_path / "halves")
    assert failure_prefix.mine is original and straight[-1] == halves[-1]
    assert all(row["prefix/length"] > 0 for row in straight[1:]) and straight[-1]["prefix/generation"] == 2


def test_as_many_questions_as_were_asked_for(whole_run, few, tmp_path, monkeypatch):
    """A chunk of the search may find more; only the first ones are trained on."""
    sizes, order = [], failure_prefix.Shuffled
    monkeypatch.setattr(failure_prefix, "Shuffled", lambda items, seed: sizes.append(len(items)) or order(items, seed))
    flags = ["--compare", "--questions", "2", "--steps", "1", "--bank", str(whole_run / "bank.jsonl"), "--out", str(tmp_path / "run")]
    failure_prefix.main([*SMALL, *few, *flags])
    assert sizes == [2]


def test_a_fixed_cut(few, tmp_path):
    failure_prefix.main([*SMALL, *few, "--compare", "--steps", "1", "--fixed-cut", "0.5", "--out", str(tmp_path / "run")])
    lines = [json.loads(line) for line in (tmp_path / "run" / "bank.jsonl").read_text().splitlines()]
    assert {tuple(line["cuts"]) for line in lines if "failure" in line} == {(0.5,)} and rows_of(tmp_path / "run")[1]["prefix/length"] > 0


def test_the_other_arms_are_trained_afterwards(whole_run, few, tmp_path):
    failure_prefix.main([*SMALL, *few, "--steps", "1", "--bank", str(whole_run / "bank.jsonl"), "--out", str(tmp_path / "run")])
    assert len(rows_of(tmp_path / "run" / "plain")) == 2 and (tmp_path / "run" / "curves.png").exists()


@pytest.mark.slow
def test_one_line_errors(whole_run, few, tmp_path):
    cases = {
        "holds no line": ["--bank", str(tmp_path / "none.jsonl")],
        "no question to train on": ["--saturated-low", "16", "--saturated-high", "16"],
        "holds questions that": ["--bank", str(whole_run / "bank.jsonl"), "--data", few[1]],
        "is another kind of record": ["--bank", str(whole_run / "metrics.jsonl")],
    }
    whole = {"id": 0, "tokens": 1, "generation": 0, "failure": [5, 6], "cuts": [0.5], "rates": [0.5]}
    for i, odd in enumerate(({"failure": "text"}, {"failure": ["5"]}, {"failure": [5, 10**6]}, {"failure": [True]}, {"failure": None}, {"id": [0]},
                             {"id": None}, {"cuts": []}, {"cuts": None}, {"cuts": [2.0]}, {"rates": [0.5, 0.5]}, {"rates": ["0.5"]}, {"tokens": "1"},
                             {"cut_tokens": None}, {"generation": [0]})):  # fmt: skip
        file = tmp_path / f"odd{i}.jsonl"
        file.write_text(json.dumps(whole | odd) + "\n")
        cases[f"odd{i}.jsonl line 1: {next(iter(odd))} is not what a record has there"] = ["--bank", str(file)]
    for message, flags in cases.items():
        with pytest.raises(SystemExit, match=message):
            failure_prefix.main([*SMALL, *few, "--compare", *flags, "--out", str(tmp_path / message.replace(" ", "-"))])


@pytest.mark.slow
def test_a_finished_run_is_analysed(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    command = [sys.executable, str(ROOT / "results" / "claims_failure_prefix.py"), str(tmp_path / "run"), "--checkpoint", "2"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, start = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("analysis", "start"))
    asked = json.loads((tmp_path / "run" / "openings.json").read_text())
    assert len(found["held_out"]["plain"]) == 18 and len(found["held_out"]["failing"]) == len(asked) > 0
    behind = 100 * sum(start["held_out"]["failing"]) / len(asked), 100 * sum(found["held_out"]["failing"]) / len(asked)
    assert "  behind 30 % of a failure{:16.1f} {:7.1f}\n".format(*behind) in text
    assert f"{start['failure']['silent']:.3f}; p^G + (1-p)^G says {start['failure']['predicted']:.3f}\n" in text
