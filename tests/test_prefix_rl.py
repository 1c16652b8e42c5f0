"""prefix_rl.py: how traces are bought and cut, what is graded and learned from; and whole runs through main."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import prefix_rl
from common import Rollout, load_model, verify
from conftest import ROOT, Scripted, rows_of, stopped
from prefix_rl import find_trace, flops, reinforce_loss, score_joined, training_set

SMALL = ["--steps", "4", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "4", "--eval-samples", "1", "--save-every", "2",
         "--questions", "6", "--screen-samples", "8", "--max-attempts", "128"]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 18 held-out problems, and for training problems that the tiny model solves now and then, so that traces are cheap."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::34]))
    mixed = [line for line in lines["train"] if '"mixed"' in line and json.loads(line)["level"] in (4, 5, 6)]
    (folder / "mixed.jsonl").write_text("".join(mixed[:200]))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "mixed.jsonl"), "--compare"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    prefix_rl.main([*SMALL, *few, "--out", str(folder)])
    return folder


# ---- collecting and cutting ----


def test_attempts_are_fresh_and_counted_to_the_cap():
    """Four questions: right in the first block of the screening; in its second; at the 65th attempt, so in the second block; never."""
    asked = []

    def draw(questions, n, purpose):
        asked.append(([q["id"] for q in questions], n, purpose))
        right = {"easy": ("screen", 0), "soon": ("screen", 64), "late": ("attempt", 64), "never": None}
        return [[Rollout([1, 2], [7, i], [0.0, 0.0], True, reward=float(right[q["id"]] == purpose)) for i in range(n)] for q in questions]

    questions = [{"id": name, "prompt_ids": [1, 2]} for name in ("easy", "soon", "late", "never")]
    easy, soon, late, never = find_trace(questions, draw, screen=100, attempts=150)
    assert asked == [(["easy", "soon", "late", "never"], 64, ("screen", 0)), (["soon", "late", "never"], 36, ("screen", 64)),
                     (["late", "never"], 64, ("attempt", 0)), (["late", "never"], 64, ("attempt", 64)), (["never"], 22, ("attempt", 128))]
    assert easy == {"id": "easy", "screened": 64, "right": 64, "attempts": 0, "screen_tokens": 64 * 4, "tokens": 0}
    assert soon == {"id": "soon", "screened": 100, "right": 36, "attempts": 0, "screen_tokens": 100 * 4, "tokens": 0}
    assert late == {"id": "late", "screened": 100, "right": 0, "attempts": 128, "screen_tokens": 100 * 4, "tokens": 128 * 4, "trace": [7, 0]}
    assert never == {"id": "never", "screened": 100, "right": 0, "attempts": 150, "screen_tokens": 100 * 4, "tokens": 150 * 4}


def test_three_openings_to_one_question_the_same_in_every_arm():
    questions = {name: {"id": name, "prompt_ids": [name], "answer": ""} for name in (1, 2)}
    traces = {1: list(range(100, 200)), 2: list(range(300, 350))}
    how = {"cuts": 3, "low": 0.4, "high": 0.8, "seed": 7}
    mixture, openings, plain = (training_set(questions, traces, arm=arm, **how) for arm in ("mixture", "prefix-only", "plain"))
    assert [len(items) for items in (mixture, openings, plain)] == [8, 6, 2]
    assert [item for item in mixture if item["prefix"]] == openings and [item for item in mixture if not item["prefix"]] == plain
    for item in openings:
        trace = traces[item["id"]]
        assert item["prompt_ids"] == [item["id"], *item["prefix"]] and item["prefix"] == trace[: len(item["prefix"])]
        assert 0.4 * len(trace) - 1 < len(item["prefix"]) < 0.8 * len(trace)
    assert training_set(questions, {2: traces[2]}, arm="plain", **how) == plain[1:]
    assert training_set(questions, {2: traces[2]}, arm="prefix-only", **how) == openings[3:]  # whatever else was collected
    assert training_set(questions, traces, arm="prefix-only", **how | {"seed": 8}) != openings


# ---- grading, loss, cost ----


def test_the_answer_may_begin_in_the_opening(tiny):
    tokenizer = tiny[1]
    ids = lambda text: tokenizer(text).input_ids  # noqa: E731
    rollouts = [Rollout([], ids(r"3; \boxed{13}<|end|>"), [], True), Rollout([], ids("3}<|end|>"), [], True), Rollout([], ids("}<|end|>"), [], True)]
    prefixes = [ids("12+1=1"), ids(r"12+1=13; \boxed{"), ids(r"\boxed{13")]
    before = [list(r.completion_ids) for r in rollouts]
    score_joined(rollouts, prefixes, ["13", "3", "13"], tokenizer, verify, None)
    assert [r.reward for r in rollouts] == [1.0, 1.0, 1.0]
    assert [r.completion_ids for r in rollouts] == before  # the opening is graded, and is still nothing to learn from
    rollouts[0].finished = False
    score_joined(rollouts, prefixes, ["13", "4", "13"], tokenizer, verify, None)
    assert [r.reward for r in rollouts] == [0.0, 0.0, 1.0]


def test_loss_by_hand():
    """Two responses of three in the batch: 0.75 * (1 + 2) and -0.25 * 4, over 3; the token outside the mask does not count."""
    logps = torch.tensor([[-1.0, -2.0, -9.0], [-4.0, -9.0, -9.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss, _ = reinforce_loss(logps, torch.tensor([0.75, -0.25]), mask, loss_type="sequence-sum", num_sequences=3)
    assert loss.item() == pytest.approx((0.75 * 3 - 0.25 * 4) / 3)
    loss.backward()
    assert torch.equal(logps.grad, torch.tensor([[-0.25, -0.25, 0.0], [0.25 / 3, 0.0, 0.0]]))


def test_operations_of_a_written_out_step():
    """A model of 1,000 weights, 2 contexts of 10 tokens, 4 responses of 5 tokens to each: 120 tokens, sampled and trained on."""
    tokens = 2 * 4 * (10 + 5)
    assert flops(1000, tokens, training=False) + flops(1000, tokens, training=True) == 8 * 1000 * 120


# ---- the tiny exact case: two questions, four responses to each context, all numbers by hand ----


def test_one_step_by_hand(tiny, monkeypatch, tmp_path):
    """prefix-only, one cut at half of each trace; the answer may stand in prefix + continuation."""
    replies = {}

    def reply(context, heat):
        return replies[context]

    case = Scripted(prefix_rl, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    box, end = case.ids("\\boxed{3}"), tiny[1].eos_token_id
    # Cut at 3 of 6 tokens, behind "+ \\boxed{ 3"; and at 4 of 8, behind "+ + + +". A token stands twice at the end to make it six.
    traces = [[case.plus, *box, end, end], [case.plus] * 4 + [*case.ids("\\boxed{4}"), end]]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps({"id": i, "trace": t, "screen_tokens": 500, "tokens": 70}) + "\n"
                                                   for i, t in enumerate(traces)))  # fmt: skip
    one, two = "1+2<|assistant|>+\\boxed{3", "2+2<|assistant|>++++"
    replies |= {one: None, two: [(0, "4", True), (0, "4", True), (1, "3", True), (2, "4", False)],  # 4, 4, 5, 5 tokens; rewards 1 1 0 0
                "1+2<|assistant|>": [(0, "5", True)], "2+2<|assistant|>": [(0, "4", True)]}  # fmt: skip
    close = case.ids("}")
    original = case.response
    # behind the open box: "}" and the end closes it on 3 (2 tokens, right); a box of its own overrules it (5, wrong)
    monkeypatch.setattr(case, "response", lambda filler, b, finished: [*close, end] if b == "close" else original(filler, b, finished))
    replies[one] = [(0, "close", True), (0, "5", True), (0, "5", True), (0, "5", True)]
    row = case.step("--compare", "--arm", "prefix-only", "--cuts", "1", "--cut-from", "0.5", "--cut-to", "0.5", "--max-flops", "0",
                    "--traces", str(tmp_path / "traces.jsonl"))  # fmt: skip
    # A = r - mean, not divided: 1+2: 3/4 and -1/4 three times; 2+2: 1/2 twice and -1/2 twice
    first, second = f"<|user|>{one}", f"<|user|>{two}"
    expected = [(first, [*close, end], 0.75), *[(first, original(0, "5", True), -0.25)] * 3, *[(second, original(0, "4", True), 0.5)] * 2,
                (second, original(1, "3", True), -0.5), (second, original(2, "4", False), -0.5)]  # fmt: skip
    assert sorted(case.trained) == sorted(expected)

    def log_probability(prompt, ids):
        tokens = torch.tensor([case.ids(prompt) + ids])
        scores = tiny[0](input_ids=tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        return scores[-len(ids) :].sum().item()

    # loss = - sum over the 8 responses of A x sum of its own tokens' log-probabilities / 8
    loss = -sum(advantage * log_probability(prompt, ids) for prompt, ids, advantage in expected) / 8
    assert row["loss"] == pytest.approx(loss, abs=1e-4) and row["reward"] == row["prefix/reward_with"] == 3 / 8
    # tokens: screening and attempts of both questions; four times the contexts of 5 + 3 and 5 + 4; 2 + 4 + 4 + 4 + 4 + 4 + 5 + 5
    drawn = 4 * (8 + 9) + 32
    assert row["num_tokens"] == 2 * 570 + drawn
    weights = sum(weight.numel() for weight in tiny[0].parameters())
    assert row["flops"] == 2 * weights * 2 * 70 + (2 + 6) * weights * drawn  # the attempts were sampled; the step sampled and trained


# ---- whole runs ----


def test_what_a_run_leaves(whole_run):
    traces = [json.loads(line) for line in (whole_run / "traces.jsonl").read_text().splitlines()]
    assert sum("trace" in line for line in traces) >= 6 and all(line["right"] == 0 for line in traces if "trace" in line)
    rows = rows_of(whole_run)
    assert 0 < rows[0]["flops"] < rows[1]["flops"] < rows[2]["flops"]
    assert "eval/unsolved/avg@1" in rows[0]
    assert rows[0]["num_tokens"] == sum(line["screen_tokens"] + line["tokens"] for line in traces) < rows[1]["num_tokens"]
    assert any("prefix/reward_with" in row for row in rows)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_cuts_and_metrics(whole_run, few, tmp_path):
    prefix_rl.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "halves")])
    prefix_rl.main(["--resume", str(tmp_path / "halves"), "--steps", "4"])
    straight, halves = rows_of(whole_run), rows_of(tmp_path / "halves")
    assert straight[1:2] + straight[3:] == halves[1:2] + halves[3:]  # but for the evaluation that the first half ended with


@pytest.mark.parametrize("how", ["cut", "empty", "deleted"])
def test_traces_that_are_not_those_the_run_went_on_from_are_refused(whole_run, tmp_path, how, monkeypatch):
    """Bought again, they would be by the model of step 4."""
    shutil.copytree(whole_run, tmp_path / "run")
    traces = tmp_path / "run/traces.jsonl"
    traces.unlink() if how == "deleted" else traces.write_bytes(traces.read_bytes()[: traces.stat().st_size // 2 * (how == "cut")])
    monkeypatch.setattr(prefix_rl, "find_trace", None)
    line = stopped(prefix_rl.main, "--resume", str(tmp_path / "run"), "--steps", "5")
    assert "traces.jsonl does not hold what the run went on from" in line


@pytest.mark.parametrize("arm", ["prefix-only", "plain"])
def test_arms_from_the_same_traces(whole_run, few, tmp_path, arm):
    prefix_rl.main([*SMALL, *few, "--steps", "1", "--arm", arm, "--traces", str(whole_run / "traces.jsonl"), "--out", str(tmp_path / "run")])
    first, step = rows_of(tmp_path / "run")
    assert ("prefix/reward_with" in step, "prefix/reward_without" in step) == (arm != "plain", arm == "plain")
    assert (first["flops"] > 0) == (arm != "plain")  # whoever trains from traces has paid for them
    traces = [json.loads(line) for line in (whole_run / "traces.jsonl").read_text().splitlines()]
    bought = sum(line["tokens"] for line in traces) if arm != "plain" else 0
    assert first["num_tokens"] == sum(line["screen_tokens"] for line in traces) + bought  # all have looked for the questions


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "weighted"])
def test_the_papers_rivals_run_and_pay_for_their_traces(kind, whole_run, few, tmp_path):
    """As results/run.py starts them; supervised training costs more than the collection, weights on the traces do not."""
    traces, out = whole_run / "traces.jsonl", tmp_path / "run"
    small = [*SMALL, *few[:-1], "--steps", "1", "--traces", str(traces), "--out", str(out)]
    subprocess.run([sys.executable, str(ROOT / "results/prefix_rl_baselines.py"), kind, *small], check=True)
    lines = [json.loads(line) for line in traces.read_text().splitlines()]
    tokens, screened = (sum(line[name] for line in lines) for name in ("tokens", "screen_tokens"))
    weights = sum(p.numel() for p in load_model(str(ROOT / "tiny/model"))[0].parameters())
    first, step = rows_of(out)
    assert first["flops"] > 2 * weights * tokens if kind == "sft" else first["flops"] == 2 * weights * tokens
    assert first["num_tokens"] == screened + tokens < step["num_tokens"]
    assert (tmp_path / "run-taught/config.json").exists() == (kind == "sft")


def test_traces_of_another_model_and_the_end_of_the_budget(whole_run, few, tmp_path):
    """A file with nothing but ids and traces; the run ends with the step that exceeds the budget, evaluated and saved."""
    lines = [json.loads(line) for line in (whole_run / "traces.jsonl").read_text().splitlines()]
    given = tmp_path / "given.jsonl"
    given.write_text("".join(json.dumps({"id": line["id"], "trace": line["trace"]}) + "\n" for line in lines if "trace" in line))
    prefix_rl.main([*SMALL, *few, "--traces", str(given), "--max-flops", "1", "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [0, 1] and "eval/unsolved/avg@1" in rows[1] and (tmp_path / "run" / "checkpoint-000001").exists()
    prefix_rl.main(["--resume", str(tmp_path / "run")])  # the budget stays spent
    assert rows_of(tmp_path / "run") == rows


def test_as_many_questions_as_were_asked_for(whole_run, few, tmp_path, monkeypatch):
    """A chunk of the search may find more; only the first ones are trained on, behind three prefixes each."""
    sizes, order = [], prefix_rl.Shuffled
    monkeypatch.setattr(prefix_rl, "Shuffled", lambda items, seed: sizes.append(len(items)) or order(items, seed))
    flags = ["--questions", "2", "--steps", "1", "--arm", "prefix-only", "--traces", str(whole_run / "traces.jsonl")]
    prefix_rl.main([*SMALL, *few, *flags, "--out", str(tmp_path / "run")])
    assert sizes == [6]


def test_one_line_errors(few, tmp_path):
    trace = lambda number: json.dumps({"id": number, "trace": [5] * 200}) + "\n"  # noqa: E731
    for name, text in {"long": trace(0), "other": trace(5000), "kind": '{"step": 0}\n',
                       "text": '{"id": 0, "trace": "text"}\n', "name": '{"id": [0], "trace": [5]}\n'}.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    cases = {"no unsolved question": ["--max-attempts", "1", "--data", few[1]], "holds no line": ["--traces", str(tmp_path / "none")],
             "there is no room": ["--traces", str(tmp_path / "long.jsonl"), "--max-tokens", "250", "--arm", "prefix-only"],
             "holds questions that --data does not": ["--traces", str(tmp_path / "other.jsonl")],
             "text.jsonl line 1: trace is not what a record has there": ["--traces", str(tmp_path / "text.jsonl")],
             "name.jsonl line 1: id is not what a record has there": ["--traces", str(tmp_path / "name.jsonl")],
             "is another kind of record": ["--traces", str(tmp_path / "kind.jsonl")]}  # fmt: skip
    for message, flags in cases.items():
        with pytest.raises(SystemExit, match=message):
            prefix_rl.main([*SMALL, *few, *flags, "--out", str(tmp_path / message.replace(" ", "-"))])
