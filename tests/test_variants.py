"""The scripts under results/ that hold the arms which only serve experiments."""

import importlib
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import pos_neg_pairing
from common import Rollout, verify
from conftest import ROOT, rows_of
from plumbing import InputError

sys.path.insert(0, str(ROOT / "results"))
(erpo_variants, failure_prefix_variants, lte_variants, pos_neg_variants, pool_variants, pool_combined,
 claims_failure_prefix, claims_pool, claims_prefix_rl) = map(importlib.import_module, (
     "erpo_variants", "failure_prefix_variants", "lte_variants", "pos_neg_variants", "pool_variants", "pool_combined",
     "claims_failure_prefix", "claims_pool", "claims_prefix_rl"))
BOTH = torch.tensor([1, -1])


def group(right, size=8):
    return torch.tensor([[1.0] * right + [0.0] * (size - right)])


def test_importing_a_variant_changes_nothing():
    import erpo

    assert erpo.Tracker.__module__ == erpo.Run.__init__.__module__.replace("plumbing.run", "erpo") == "erpo" and "t_rule" not in erpo.SETTINGS


# ---- ERPO ----

HISTORY = [True, True, False, True, True, True, True]


@pytest.mark.parametrize(("rule", "temperatures"), [
    ("ratchet", [1.2, 1.4, 1.4, 1.5, 1.5, 1.5, 1.5]),
    ("reset", [1.2, 1.4, 1.0, 1.2, 1.4, 1.5, 1.5]),
    ("updown", [1.2, 1.4, 1.2, 1.4, 1.5, 1.5, 1.5]),
    ("consecutive", [1.0, 1.2, 1.2, 1.2, 1.4, 1.5, 1.5]),
])  # fmt: skip
def test_rules_on_a_written_out_history(rule, temperatures):
    tracker, seen = erpo_variants.History(1.0, 0.2, 1.5, rule, patience=2), []
    for all_right in HISTORY:
        tracker.update("q", torch.tensor([1.0, float(all_right)]))
        seen.append(tracker.temperatures["q"])
    assert seen == pytest.approx(temperatures)
    tracker = erpo_variants.History(1.0, 0.2, 1.5, rule, patience=2)
    tracker.update("q", torch.tensor([0.0, 0.0]))
    assert tracker.temperatures["q"] == 1.0  # never below the start


def test_what_is_logged_of_the_temperatures():
    """Four questions; two were all right at their last visit, one of these comes out mixed now."""
    tracker, solved, mixed = erpo_variants.History(1.0, 0.25, 1.5, "ratchet", 2), torch.ones(2), torch.tensor([1.0, 0.0])
    now = []
    for question, before, rewards in (("a", [solved], mixed), ("b", [solved, solved], solved), ("c", [solved, mixed], mixed), ("d", [], solved)):
        for earlier in before:
            tracker.update(question, earlier)
        now.append((question, rewards))
    tracker.metrics()  # forgets the visits so far
    for question, rewards in now:
        assert tracker.temperature(question) in (1.0, 1.25, 1.5)
        tracker.update(question, rewards)
    metrics = tracker.metrics()
    assert metrics["temperature/revived"] == 0.5
    assert {name: value for name, value in metrics.items() if "@" in name} == {
        "temperature/visits@1.2": 1, "temperature/visits@1.5": 1, "temperature/revived@1.2": 1, "temperature/revived@1.5": 0}  # fmt: skip
    assert metrics["temperature/mean"] == 1.3125 and metrics["temperature/at_max"] == 0.25  # 1.25, 1.5, 1.25, 1.25
    assert [metrics[f"temperature/decile_{d}"] for d in (1, 5, 9)] == [1.25, 1.25, 1.25]


def test_what_a_batch_is_made_of():
    """Ten tokens: four of an all-right group, two of a heated mixed one, whose advantages are as large, four of an unheated one, half as large."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    first = {"completion_mask": mask, "advantages": torch.tensor([0.5, -0.5]), "temperatures": torch.tensor([1.5, 1.2])}
    other = {"completion_mask": mask[:1], "advantages": torch.tensor([0.25]), "temperatures": torch.tensor([1.0])}
    assert erpo_variants.made_of([first, other], 0.5, 1.0) == pytest.approx({
        "batch/ra_tokens": 0.4, "batch/ra_pull": 0.5, "batch/heated_tokens": 0.2, "batch/heated_pull": 0.25})  # fmt: skip
    assert erpo_variants.made_of([], 0.5, 1.0) == {}
    mixed = [erpo_variants.erpo.group_advantages(torch.tensor([[1.0] * n + [0.0] * (8 - n)]), True) for n in range(1, 8)]
    assert min((advantages - erpo_variants.erpo.ra_advantage(8)).abs().min() for advantages in mixed) > 0.02  # so that RA's are known by it


def test_constant_heat_scored_at_one():
    scored_at = [erpo_variants.scoring(torch.tensor([1.5]), mode, 1.5).item() for mode in ("score_T1", "score_T0", "is_corrected", "score_T")]
    assert scored_at == [1, 1.5, 1.5, 1.5]


# ---- LTE ----


def test_a_placebo_is_another_questions_list(tiny, monkeypatch):
    """Of two all-wrong questions each gets the other's answers; one alone gets none, not its own."""
    monkeypatch.setattr(lte_variants, "GIVEN", SimpleNamespace(args=SimpleNamespace(placebo=True)))
    groups = [[Rollout([1], tiny[1](f"\\boxed{{{answer}}}", add_special_tokens=False).input_ids, [0.0] * 3, True)] for answer in "67"]
    questions = [{"problem": problem, "answer": "0"} for problem in ("1+1", "2+2")]
    texts = {"hint": " not {}", "separator": " not ", "instruction": "", "concise": " brief"}
    prompts = lte_variants.retry_prompts(questions, groups, tiny[1], **texts)
    assert [tiny[1].decode(ids) for ids in prompts] == ["<|user|>1+1 not 7<|assistant|>", "<|user|>2+2 not 6<|assistant|>"]
    assert lte_variants.retry_prompts(questions[:1], groups[:1], tiny[1], **texts) == [None]
    questions[1]["problem"] = [{"role": "user", "content": "2+2"}]  # chat messages
    assert lte_variants.retry_prompts(questions, groups, tiny[1], **texts) == prompts


# ---- failure prefixes ----


def test_a_right_answer_to_each_question_is_kept_and_cut(tiny, monkeypatch):
    """Up to its box, and the first that is long enough for the failure's longest prefix, here 1 token."""
    tokenizer = tiny[1]
    box = tokenizer("\\boxed{3}", add_special_tokens=False).input_ids
    monkeypatch.setattr(failure_prefix_variants.GIVEN, "run", SimpleNamespace(tokenizer=tokenizer))
    right = [Rollout([1], [*start, *box, 2], [0.0] * (len(start) + 4), True, reward=1.0) for start in ([], [9, 9, 9], [9] * 5)]
    groups = [[*right, Rollout([1], [7, 8], [0.0] * 2, True)]]
    how = {"samples": 4, "low": 3, "high": 3, "cuts": [0.5], "cut_samples": 0, "longest": 9}
    (line,) = failure_prefix_variants.mine([{"id": 0, "prompt_ids": [1], "answer": ""}], lambda some, n: groups if some else [], **how)
    assert line["failure"] == [7, 8] and line["correct"] == [9, 9, 9]
    items = [{"id": 0, "prompt_ids": [1, 7], "prefix": 1}, {"id": 0, "prompt_ids": [1, 7, 7, 7, 7], "prefix": 4}]
    behind = failure_prefix_variants.behind_right(items, [line, line], {0: {"prompt_ids": [1]}})
    assert behind == [{"id": 0, "prompt_ids": [1, 9], "prefix": 1, "rate": None}]  # four tokens of it would be more than there are


# ---- pairing ----


def test_pooled_readings():
    pooled = pos_neg_variants.pair_advantages(torch.cat([group(1), group(7)]), BOTH, "pair_pooled", 3.0)
    scale = (15 / 16) ** 0.5
    assert pooled[0].tolist() == pytest.approx([scale] + [-scale] * 7) and pooled[1].tolist() == pytest.approx([scale] * 7 + [-scale])


def test_readings_in_which_the_weight_acts():
    post = pos_neg_variants.pair_advantages(group(1), torch.tensor([1]), "post_weight", 3.0)[0]
    plain = pos_neg_variants.pair_advantages(group(1), torch.tensor([1]))[0]
    assert torch.allclose(post, plain * torch.tensor([1.0] + [3.0] * 7), rtol=1e-4)
    assert pos_neg_variants.pair_advantages(group(2, 4), torch.tensor([0]), "center_only", 3.0).tolist() == [[2.0, 2.0, -2.0, -2.0]]


def test_what_rare_events_hold():
    both = torch.cat([group(1), group(7)])
    assert pos_neg_variants.rare_share(pos_neg_variants.pair_advantages(both, BOTH), both, BOTH) == pytest.approx(7 / 8, rel=1e-5)
    assert pos_neg_variants.rare_share(torch.zeros(1, 8), group(0), torch.tensor([1])) == 0


def test_which_questions():
    rates = {"none": 0.0, "rare": 1 / 8, "seldom": 2 / 8, "half": 0.5, "third": 0.4, "often": 6 / 8, "mostly": 7 / 8, "always": 1.0}

    def pick(how, **others):
        return pos_neg_variants.choose(rates, how, **{"group_size": 8, "band": 2, "rng": random.Random(0)} | others)

    assert pick("pair", band=1) == [("rare", 1), ("mostly", -1)] and pick("positive")[0][1] == 1
    assert {q for q, _ in pick("hard")} == {"rare", "seldom"} and {q for q, _ in pick("easy")} == {"often", "mostly"}
    assert pick("mid") == [("half", 0), ("third", 0)]
    assert pick("variance", history={"half": [0.5, 0.5], "rare": [0, 1], "often": [0.2, 0.9], "new": [0.3]}) == [("rare", 0), ("often", 0)]
    with pytest.raises(InputError, match="in the band of q\\+"):
        pick("pair", hard={"half"})
    with pytest.raises(InputError, match="no two questions"):
        pick("variance", history={"half": [0.5]})


@pytest.mark.slow
def test_the_rewards_of_a_coin_are_logged_as_the_coins(tmp_path, few):
    """reward stays the share of right answers; what is learned from has a name of its own."""
    flags = ["--coin", "--compare", "--steps", "1", "--prompts-per-step", "8", "--group-size", "5", "--questions", "60", "--probe-samples", "8"]
    command = [sys.executable, "results/pos_neg_variants.py", *flags, *few, "--eval-samples", "1", "--out", str(tmp_path / "run")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    row = rows_of(tmp_path / "run")[1]
    assert row["reward"] == pytest.approx((row["pair/reward_positive"] + row["pair/reward_negative"]) / 2) != row["pair/coin"]


def test_what_was_chosen_once_is_never_evaluated_again(monkeypatch):
    """A new pair at every second step: the evaluation sets lose what is chosen, and a resumed run what was chosen before."""
    run = SimpleNamespace(eval_sets={"test": [{"problem": name} for name in "abcde"]})
    pos_neg_pairing.hold_out(run, [{"problem": "a"}, {"problem": "b"}])
    pos_neg_pairing.hold_out(run, [{"problem": "d"}])
    assert [p["problem"] for p in run.eval_sets["test"]] == ["c", "e"]
    done, chosen = [], lambda pool, hard, generation: ([{"problem": f"new {generation}"}], 0)
    monkeypatch.setattr(pos_neg_variants, "chosen", chosen)
    monkeypatch.setattr(pos_neg_pairing, "hold_out", lambda run, pair: done.append([p["problem"] for p in pair]))
    monkeypatch.setattr(pos_neg_variants.Resampling.__mro__[1], "steps", lambda self, **metrics: iter(range(1, 6)))
    monkeypatch.setattr(pos_neg_variants, "GIVEN", SimpleNamespace(pool=[], hard=[], pair=[None, None]))
    run = object.__new__(pos_neg_variants.Resampling)
    run.args = SimpleNamespace(resample_every=2, coin=False)
    assert list(run.steps()) == [1, 2, 3, 4, 5] and done == [["new 1"], ["new 2"]]


def test_who_is_chosen_by_history_owes_the_run_that_made_it(tmp_path, monkeypatch):
    """Two questions visited twice in a run of 5,000 tokens; fresh samples of both take 2 x 4 x 3. A new choice owes the samples alone."""
    (tmp_path / "pool").mkdir()
    history, rows = tmp_path / "pool/history.jsonl", [{"step": i, "num_tokens": 2500 * i} for i in range(3)]
    history.write_text("".join(json.dumps({"id": i, "accuracies": [0.2, 0.7]}) + "\n" for i in range(2)))
    (tmp_path / "pool/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = SimpleNamespace(choose="variance", history=str(history), group_size=8, band=2, probe_samples=4, seed=0)
    sampler = SimpleNamespace(sync=lambda: None, sleep=lambda: None)
    run = SimpleNamespace(out=tmp_path, sampler=sampler, draw=lambda some, n, *purpose: [[Rollout([1], [2, 2], [0.0] * 2, True)] * n for _ in some])
    monkeypatch.setattr(pos_neg_variants, "GIVEN", SimpleNamespace(args=args, run=run))
    pool = [{"id": i, "problem": str(i), "prompt_ids": [1]} for i in range(3)]
    assert [pos_neg_variants.chosen(pool, [], generation)[1] for generation in (0, 0, 1)] == [5024, 5024, 24]
    args.history = ""
    with pytest.raises(InputError, match="^--history: holds no line"):
        pos_neg_variants.chosen(pool, [], 2)


# ---- one pool ----


def test_half_of_a_batch_is_plain(monkeypatch):
    """Two contexts and three questions: halves go round each by itself, and a resumed order goes on in both. What has no prefix stays whole."""
    problems = [{"id": i, "prompt_ids": [i]} for i in range(3)]
    monkeypatch.setattr(pool_variants, "GIVEN", SimpleNamespace(run=SimpleNamespace(problems=problems), args=SimpleNamespace(seed=0)))
    for prefix, nothing in ((4, 0), ([5, 6], [])):
        items = [problem | {"prefix": prefix} for problem in problems[:2]]
        order, again = pool_variants.Halves(items, 7), pool_variants.Halves(items, 7)
        drawn = order.draw(4) + order.draw(4)
        assert [item["prefix"] for item in drawn] == 2 * [prefix, prefix, nothing, nothing]
        assert sorted(item["id"] for item in drawn[:2]) == sorted(item["id"] for item in drawn[4:6]) == [0, 1]
        assert [item["id"] for item in drawn[2:4] + drawn[6:]] == [p["id"] for p in pool_variants.Shuffled(problems, 0).draw(4)]  # as in grpo.py
        again.load_state_dict(json.loads(json.dumps(order.state_dict())))
        assert again.draw(5) == order.draw(5)
    searched = pool_variants.Halves(problems, 7)
    assert searched.draw(5) == pool_variants.Shuffled(problems, 7).draw(5)


def test_a_run_ends_with_the_step_that_spends_its_budget(tmp_path, monkeypatch):
    """Of 100 tokens, 40 go before step 1 and 25 a step: 65, 90, 115. The third is the last, is evaluated, and a resume makes no other."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "num_tokens": 100}\n')
    above, ended = pool_variants.Budgeted.__mro__[1], []
    monkeypatch.setattr(above, "steps", lambda self, **metrics: (self.rows.append(metrics), iter(range(1, 9)))[1])
    monkeypatch.setattr(above, "last", lambda self, name: self.rows[-1][name])
    monkeypatch.setattr(above, "finish_step", lambda self, step, metrics, last, **stateful: (ended.append(last), self.rows.append(metrics)))
    run = object.__new__(pool_variants.Budgeted)
    run.args, run.rows, run.clock = SimpleNamespace(until=str(tmp_path)), [], {"sample": 3.0, "verify": 0.5}
    for step in run.steps(num_tokens=40):
        run.finish_step(step, {"num_tokens": 40 + 25 * step})
    assert ended == [False, False, True] and run.rows[0] == {"num_tokens": 40, "time/search": 3.5}
    assert list(run.steps(num_tokens=115)) == []
    run.args.until = ""
    assert len(list(run.steps(num_tokens=115))) == 8
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    run.args.until = str(tmp_path)
    with pytest.raises(InputError, match="^--until .*: that run has made no step"):
        list(run.steps(num_tokens=0))


def test_no_hint_behind_a_prefix(monkeypatch):
    monkeypatch.setattr(pool_combined, "lte_prompts", lambda questions, groups, tokenizer, **texts: [[q["id"], *groups] for q in questions])
    questions = [{"id": 1, "prefix": 0}, {"id": 2, "prefix": 9}, {"id": 3, "prefix": 0}]
    assert pool_combined.retry_prompts(questions, ["g"], None, hint="") == [[1, "g"], None, [3, "g"]]


@pytest.mark.parametrize("arm", claims_pool.ARMS)
def test_an_arm_of_the_pool_has_the_baselines_settings(arm):
    """Its flags are the script's, and what is to be alike is what grpo.py has."""
    import grpo
    from plumbing.settings import parse_settings

    script = importlib.import_module(arm.split("+")[0])
    own = {"grpo": {}, "lte+failures": pool_combined.SETTINGS}.get(arm, pool_variants.SETTINGS)
    settings, base = parse_settings("", script.SETTINGS | own, claims_pool.ARMS[arm]), parse_settings("", grpo.SETTINGS, [])
    alike = {*claims_pool.ALIKE, "model", "adam_beta2", "weight_decay", "max_grad_norm", "eval_temperature", "eval_max_tokens", "beta"}
    assert {name: getattr(settings, name) for name in alike} == {name: getattr(base, name) for name in alike}
    assert settings.eval_samples == 8 and getattr(settings, "updates_per_batch", 1) == 1 and not getattr(settings, "compare", [])
    assert (settings.until == "FIRST" and settings.steps == 500) if own else settings.steps == base.steps == 100


# ---- whole runs ----


SMALL_SEARCH = {
    "failure_prefix": ["--questions", "2", "--screen-samples", "8", "--saturated-low", "6", "--saturated-high", "7"],
    "prefix_rl": ["--questions", "1", "--screen-samples", "2"], "erpo": ["--max-draws", "2"],
}  # fmt: skip
SMALL_SEARCH["lte+failures"] = SMALL_SEARCH["failure_prefix"]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["lte+failures", "prefix_rl", "erpo"])  # two that are half and half, and one that is not
def test_an_arm_of_the_pool_runs_two_small_steps(tmp_path, few_test, arm):
    """By the command that run.py gives, with less of everything. All are measured alike, so that one will do."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/metrics.jsonl").write_text('{"step": 1, "num_tokens": 1000000}\n')
    flags = [flag.replace("FIRST", str(tmp_path / "first")) for flag in claims_pool.ARMS[arm]]
    small = ["--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--eval-sets", few_test, *SMALL_SEARCH.get(arm, [])]
    out = str(tmp_path / "run")
    measure = [["results/claims_pool.py", out, out]] * (arm == "erpo")
    began = [*claims_pool.COMMANDS[arm], *flags, *small, "--steps", "1", "--out", out]
    for command in (began, [*claims_pool.COMMANDS[arm], "--resume", out, "--steps", "2"], *measure):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2] and "eval/few/avg@1" in rows[2] and rows[2]["num_tokens"] > rows[1]["num_tokens"]
    assert bool(rows[0].get("num_tokens")) == bool(rows[0].get("time/search")) == (arm != "erpo")
    for name in ("analysis", "start") if measure else ():
        assert 0 < json.loads((tmp_path / f"run/{name}.json").read_text())["entropy"] < 3


@pytest.mark.parametrize("text, lines, right, at_last, taken_back, rightly, wrong", [
    ("30-28=12; no 30-28=2; \\boxed{2}", 1, 0, 1, 1, 1, 1),
    ("k7=8; 39-8=31; no k7=5; 39-5=34; \\boxed{34}", 3, 2, 3, 1, 1, 1),  # a sum with a wrong number may be right
    ("k7=5; 39-5=34; no k7=8; 39-8=31; \\boxed{31}", 3, 3, 2, 1, 0, 1),
    ("5-9=0; 7~1=8; 50+20=60; no 50+20=59; \\boxed{59}", 2, 2, 1, 1, 0, 1),  # numbers end at 0 and 60; ~ has no truth
    ("4*5=15; 15-1=14; no 4*5=15; no 4*5=20; \\boxed{20}", 2, 1, 2, 2, 2, 2)])
def test_lines_written_again_are_counted_by_what_was_taken_back(text, lines, right, at_last, taken_back, rightly, wrong):
    assert claims_failure_prefix.proofread(text, {"k7": 5}) == {
        "lines": lines, "right": right, "right at last": at_last, "taken back": taken_back, "rightly": rightly, "wrong": wrong}


def test_a_first_go_has_no_second_line_and_leaves_the_model_as_it_was(tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join((ROOT / "tiny/harder.jsonl").open().readlines()[:3]))
    settings = {"dtype": "float32", "temperature": 1.0, "max_tokens": 80, "instruction": "", "eval_sets": [str(few)]}
    model, texts = claims_failure_prefix.Analyst(ROOT / "tiny/model", settings), []
    groups = model.groups

    def watched(*args):
        found = groups(*args)
        texts.extend(model.tokenizer.decode(r.completion_ids) for group in found for r in group)
        return found

    model.groups = watched
    first = claims_failure_prefix.first_go(model)["few"]
    assert len(texts) == 24 and not any("no " in text for text in texts) and 0 <= first <= 1
    model.asked(model.problems(str(few)), 8, "first go")
    assert any("no " in text for text in texts[24:])


def test_true_solutions_and_traces_that_are_right_by_accident(tmp_path, tiny):
    """Of eight recorded answers one is a box without a reading: right, and not sound. All get solutions that are right by the verifier."""
    assert claims_prefix_rl.true_solution("((7+n9)-2)+n9", {"n9": 4}) == "n9=4; 7+4=11; 11-2=9; n9=4; 9+4=13; \\boxed{13}"
    problems = [json.loads(line) for line in (ROOT / "tiny/train.jsonl").read_text().splitlines()]
    worths = {name: fact["worth"] for name, fact in json.loads((ROOT / "tiny/names.json").read_text()).items()}
    some = [i for i, p in enumerate(problems) if p["family"] in ("hard", "relay")][:8]
    ids = [tiny[1](claims_prefix_rl.true_solution(problems[i]["problem"], worths) + tiny[1].eos_token).input_ids for i in some]
    accident = tiny[1](f"\\boxed{{{problems[some[0]]['answer']}}}" + tiny[1].eos_token).input_ids
    lines = [{"id": i, "trace": trace} for i, trace in zip(some, [accident, *ids[1:]])] + [{"id": 0}]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sound = claims_prefix_rl.leave_true(SimpleNamespace(tokenizer=tiny[1]), tmp_path)
    assert list(sound.items()) == [(i, i != some[0]) for i in some]
    assert [json.loads(line).get("trace") for line in (tmp_path / "true.jsonl").read_text().splitlines()] == [*ids, None]
    texts = [tiny[1].decode(trace, skip_special_tokens=True) for trace in ids]
    assert verify(texts, [problems[i]["answer"] for i in some]) == [1.0] * 8


def test_questions_found_besides_are_left_out():
    one = {"by_fraction": {"0": [0.1, 0.2, 0.3]}, "families": ["hard", "trap", "relay"], "trained": [True, False, True], "entropy": 1}
    (left,), (others,) = (claims_prefix_rl.trained_on([one], yes) for yes in (True, False))
    assert left == one | {"by_fraction": {"0": [0.1, 0.3]}, "families": ["hard", "relay"]}
    assert others["by_fraction"]["0"] == [0.2] and others["families"] == ["trap"]


@pytest.mark.slow
def test_the_first_arm_of_pairing_is_measured(tmp_path, few_test):
    """The whole pool, which has no two chosen questions. By the commands that run.py gives."""
    out, small = str(tmp_path / "pool/seed-0"), ["--steps", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1"]
    run = ["results/pos_neg_variants.py", "--compare", "--arm", "pool", *small, "--eval-sets", few_test, "--out", out]
    for command in (run, ["results/claims_pos_neg_pairing.py", out, out]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    for name in ("analysis", "start"):
        assert len(json.loads((tmp_path / f"pool/seed-0/{name}.json").read_text())["right"]) == 18


@pytest.mark.slow
@pytest.mark.parametrize("script, flags", [
    ("erpo", ["--t-rule", "reset", "--ra", "ra-2", "--questions", "24", "--max-draws", "2"]),
    ("lte", ["--placebo"]),
    ("pos_neg", ["--resample-every", "1", "--questions", "60", "--probe-samples", "8"]),
    ("prefix_rl", ["--questions", "1", "--screen-samples", "2", "--max-attempts", "64", "--max-flops", "0.0"]),
    ("failure_prefix", ["--behind", "correct", "--questions", "2", "--screen-samples", "8", "--saturated-low", "6", "--saturated-high", "7"]),
])  # fmt: skip
def test_a_variant_runs_and_resumes(tmp_path, few_test, script, flags):
    def run(*given):
        command = [sys.executable, f"results/{script}_variants.py", *given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    small = ["--compare", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--eval-sets", few_test, "--save-every", "1"]
    run(*small, *flags, "--eval-every", "9", "--steps", "3", "--out", str(tmp_path / "straight"))
    run(*small, *flags, "--eval-every", "9", "--steps", "2", "--out", str(tmp_path / "halves"))
    run("--resume", str(tmp_path / "halves"), "--steps", "3", "--seed", "0", *flags)
    straight, halves = rows_of(tmp_path / "straight"), rows_of(tmp_path / "halves")
    assert straight[1] == halves[1] and straight[3] == halves[3]
    settings = json.loads((tmp_path / "halves" / "args.json").read_text())["settings"]
    assert all(str(settings[flag[2:].replace("-", "_")]) in (*flags, "True") for flag in flags if flag.startswith("--"))
