"""erpo.py: the tracker, the advantage of solved groups, the three ways to score heated responses; and whole runs through main."""

import json
from types import SimpleNamespace

import pytest
import torch

import erpo
from common import TransformersSampler, collate, completion_logps, grpo_loss, sampling_gap
from conftest import ROOT, Scripted, rows_of
from erpo import Tracker, comparable, heated_batches, ra_advantage, scoring, scoring_weights
from plumbing import InputError

SMALL = ["--steps", "4", "--prompts-per-step", "4", "--group-size", "4", "--eval-every", "4", "--eval-samples", "1", "--save-every", "2",
         "--questions", "24", "--max-draws", "3", "--compare"]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 18 held-out problems, and for short training problems, many of which are solved."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::34]))
    (folder / "short.jsonl").write_text("".join(line for line in lines["train"] if json.loads(line)["level"] == 1))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "short.jsonl")]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    erpo.main([*SMALL, *few, "--out", str(folder)])
    return folder


# ---- the tracker ----

HISTORY = [True, True, False, True, True, True, True]


def test_a_written_out_history():
    """Hotter after every all-right group, never cooler, up to the cap; a question that was never visited is at the start."""
    tracker, seen = Tracker(1.0, 0.2, 1.5), []
    for all_right in HISTORY:
        tracker.update("q", torch.tensor([1.0, 1.0 if all_right else 0.0]))
        seen.append(tracker.temperature("q"))
    assert seen == pytest.approx([1.2, 1.4, 1.4, 1.5, 1.5, 1.5, 1.5]) and tracker.temperature("another") == 1.0
    tracker.update("r", torch.tensor([0.0, 0.0]))
    tracker.update("s", torch.tensor([1.0, 0.9]))  # of another reward: nearly right is not right
    assert tracker.metrics() == {"temperature/mean": pytest.approx(3.5 / 3), "temperature/at_max": 1 / 3}
    again = Tracker(1.0, 0.2, 1.5)
    again.load_state_dict(tracker.state_dict())
    assert again.temperature("q") == tracker.temperature("q")


# ---- RA ----


def test_the_advantage_of_solved_groups():
    """ra-1 is what one wrong response among G + 1 leaves for the right ones; positive, and smaller in larger groups."""
    for size in (4, 8, 16):
        rewards = torch.tensor([1.0] * size + [0.0])
        assert ra_advantage(size) == pytest.approx(((1 - rewards.mean()) / rewards.std()).item())
        rewards = torch.tensor([1.0] * size + [-1.0])  # whatever the rewards are
        assert ra_advantage(size) == pytest.approx(((1 - rewards.mean()) / rewards.std()).item())


# ---- scoring ----


@pytest.fixture(scope="module")
def heated(tiny):
    """Two rows sampled at 1.0 and 1.5 in one batch, collated."""
    model, tokenizer = tiny
    prompt = tokenizer("<|user|>(12+1)*3<|assistant|>", add_special_tokens=False).input_ids
    rollouts = TransformersSampler(model, tokenizer, 8).generate([prompt, list(prompt)], 1, [1.0, 1.5], 40, 3)
    for rollout, advantage in zip(rollouts, (1.0, -0.5)):
        rollout.advantage = advantage
    return model, collate(rollouts)


def test_each_row_is_sampled_and_scored_at_its_own_temperature(heated):
    model, batch = heated
    logps = completion_logps(model, batch, scoring(batch["temperatures"], "score_T", 1.0))[0]
    assert (logps - batch["sampling_per_token_logps"])[batch["completion_mask"]].abs().max() < 1e-4
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    for mode, second in (("score_T", 1.5), ("score_T0", 1.0)):
        logps = completion_logps(model, batch, scoring(batch["temperatures"], mode, 1.0))[0]
        own = [(logits[i] / heat).log_softmax(-1).gather(1, batch["input_ids"][i, 1:, None])[:, 0] for i, heat in enumerate((1.0, second))]
        assert torch.allclose(logps[batch["completion_mask"]], torch.stack(own)[batch["completion_mask"]], atol=1e-5)


def gradient(model, batch, mode):
    model.zero_grad()
    logps = completion_logps(model, batch, scoring(batch["temperatures"], mode, 1.0))[0]
    weights = scoring_weights(batch | {"old_per_token_logps": logps.detach()}, 0.0)
    grpo_loss(logps, logps.detach(), batch["advantages"], batch["completion_mask"], importance_weights=weights)[0].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return gradients


def test_modes_differ_where_there_is_heat_and_only_there(heated):
    model, batch = heated
    assert not all(torch.equal(a, b) for a, b in zip(gradient(model, batch, "score_T0"), gradient(model, batch, "score_T")))
    cool = batch | {"temperatures": torch.ones(2)}
    cool["sampling_per_token_logps"] = completion_logps(model, cool, cool["temperatures"])[0].detach()
    reference = gradient(model, cool, "score_T0")
    assert all(torch.equal(a, b) for a, b in zip(gradient(model, cool, "score_T"), reference))


def test_constant_heat_is_scored_as_it_was_sampled():
    """A trainer with one temperature, here 1.5, scores at that one in both modes; what ERPO heats further is scored at it as well."""
    for mode, scored_at in (("score_T0", [1.5, 1.5]), ("score_T", [1.5, 1.75])):
        assert scoring(torch.tensor([1.5, 1.75]), mode, 1.5).tolist() == scored_at


def test_weights_by_hand():
    """Rows sampled at 1.0 and 1.5; p(trainer) / p(sampler) is e^.5 and e."""
    batch = {"old_per_token_logps": torch.tensor([[-1.0], [-1.0]]), "sampling_per_token_logps": torch.tensor([[-1.5], [-2.0]]),
             "temperatures": torch.tensor([1.0, 1.5]), "completion_mask": torch.tensor([[True], [True]])}  # fmt: skip
    cool, own = batch | {"scored_at": torch.ones(2)}, batch | {"scored_at": batch["temperatures"]}
    assert scoring_weights(cool, 0.0) is None and scoring_weights(own, 0.0) is None
    assert scoring_weights(cool, 1.2).flatten().tolist() == pytest.approx([1.2, 1.0])  # another temperature is not the engine's fault
    assert scoring_weights(own, 1.2).flatten().tolist() == pytest.approx([1.2, 1.2])


def test_the_sampler_is_checked_on_heated_rows_too(tiny):
    """Three rows sampled at 1, 1.5 and 1.5, scored at 1. The heated ones are scored once more, a micro-batch of them, at 1.5."""
    model, tokenizer = tiny
    prompt = tokenizer("<|user|>12+1<|assistant|>", add_special_tokens=False).input_ids
    rollouts = TransformersSampler(model, tokenizer, 8).generate([list(prompt) for _ in range(3)], 1, [1.0, 1.5, 1.5], 40, 3)
    batch = collate(rollouts)
    batch |= {"scored_at": torch.ones(3), "old_per_token_logps": completion_logps(model, batch, torch.ones(3))[0].detach()}
    args = SimpleNamespace(score="score_T0", temperature=1.0, micro_batch_tokens=4096)
    (plain,), (extra,) = comparable([batch]), heated_batches(model, rollouts, args)
    assert plain["completion_mask"].any(1).tolist() == [True, False, False] and extra["temperatures"].tolist() == [1.5, 1.5]
    assert not extra["old_per_token_logps"].requires_grad
    assert heated_batches(model, rollouts[:1], args) == []
    assert sampling_gap([plain, extra], 1, 1e-4)["sampling/sampling_logp_difference/max"] < 1e-4
    for rollout in rollouts[1:]:  # a sampler that is a little off where it is hot
        rollout.logps = [logp + 0.01 for logp in rollout.logps]
    with pytest.raises(InputError, match="sampler and trainer differ"):
        sampling_gap(comparable([batch]) + heated_batches(model, rollouts, args), 1, 1e-4)


# ---- the tiny exact case: two questions, four responses to each, all numbers by hand ----


@pytest.mark.parametrize("arm", ["dapo", "ra", "temp", "erpo"])
def test_one_step_by_hand(arm, tiny, monkeypatch, tmp_path):
    """1+2 is all right, 2+2 mixed. Two draws of both, which 4 trained groups would need; RA keeps the all-right groups."""

    def reply(context, heat):
        return [(0, "3", True)] * 4 if "1+2" in context else [(0, "4", True), (1, "5", True), (1, "6", True), (4, "4", False)]

    case = Scripted(erpo, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    row = case.step("--compare", "--questions", "0", "--arm", arm, "--max-draws", "2", "--t-step", "0.25")
    heats = [heat for text, n, heat in case.asked if "1+2" in text]
    with_ra, with_heat = arm in ("ra", "erpo"), arm in ("temp", "erpo")
    # With RA the first draw fills the batch of two groups. Without, each draw brings one: 1+2 is met again, hotter where there is heat.
    assert heats == ([1.0] if with_ra else [1.0, 1.25 if with_heat else 1.0]) and row["temperature/draws"] == len(heats)
    # 1+2: (1 - .8) / .4 = 1 / sqrt(5) = .4472 with one imaginary wrong answer; 2+2: rewards 1 0 0 0, A = 1.4997 and -.4999 three times
    mixed = [(case.response(0, "4", True), 1.4997), (case.response(1, "5", True), -0.4999), (case.response(1, "6", True), -0.4999),
             (case.response(4, "4", False), -0.4999)]  # fmt: skip
    one, two = "<|user|>1+2<|assistant|>", "<|user|>2+2<|assistant|>"
    solved = [(one, case.response(0, "3", True), 0.4472)] * 4 if with_ra else []
    groups = 1 if with_ra else 2
    batch = [trained for trained in case.trained if trained[0] == two]
    assert sorted(batch) == sorted([(two, *one_of) for one_of in mixed] * groups)
    assert [trained for trained in case.trained if trained[0] == one] == solved
    # tokens: 4 each of 1+2; 4, 5, 5, 7 of 2+2. loss = - sum of A x tokens / tokens
    signal, tokens = 1.4997 * 4 - 0.4999 * (5 + 5 + 7), 4 + 5 + 5 + 7
    loss = -(0.4472 * 16 + signal) / (16 + tokens) if with_ra else -signal / tokens
    assert row["loss"] == pytest.approx(loss, abs=1e-5)
    # of all that was drawn, kept or not: rewards 4 + 1 of 8, one of two groups all right, 37 tokens and eight prompts of 5 a draw
    assert row["reward"] == 5 / 8 and row["frac_all_right"] == 0.5 and row["completions/mean_length"] == (16 + tokens) / 8
    assert row["completions/clipped_ratio"] == 1 / 8 and row["num_tokens"] == len(heats) * (8 * 5 + 16 + tokens)
    # The next visit of 1+2 would be hotter by .25 for each that was all right; 2+2 stays: their mean
    visits = len(heats) * with_heat
    assert row["temperature/mean"] == 1 + 0.25 * visits / 2


# ---- whole runs ----


def test_what_a_run_leaves(whole_run):
    rows = rows_of(whole_run)
    assert all(1 <= row["temperature/draws"] <= 3 for row in rows[1:])
    assert 1 < rows[-1]["temperature/mean"] <= 1.5 and 0 <= rows[-1]["temperature/at_max"] <= 1


def test_heated_rows_are_checked_in_every_step(whole_run):
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-4 for row in rows_of(whole_run)[1:])


def test_a_run_at_one_temperature_is_scored_and_checked_at_it(few, tmp_path, monkeypatch):
    """dapo at a constant 1.5: one temperature for sampling, scoring and the check of the sampler, which no row escapes."""
    scored_at = []

    def spied(model, batch, temperatures):
        scored_at.extend(temperatures.tolist())
        return completion_logps(model, batch, temperatures)

    monkeypatch.setattr(erpo, "completion_logps", spied)
    erpo.main([*SMALL, *few, "--steps", "1", "--arm", "dapo", "--temperature", "1.5", "--out", str(tmp_path / "run")])
    assert set(scored_at) == {1.5}
    assert 0 < rows_of(tmp_path / "run")[1]["sampling/sampling_logp_difference/max"] < 1e-4


def test_a_sampler_that_is_off_where_it_is_hot_stops_the_run(few, tmp_path, monkeypatch):
    """Of the heated responses alone its log-probabilities are wrong: cool ones pass the check, so the first step is made."""
    sample = TransformersSampler.generate

    def off(sampler, *job):
        drawn = sample(sampler, *job)
        for rollout in drawn if isinstance(job[2], list) else []:  # training asks for each question's own temperature
            rollout.logps = [logp + 0.01 * (rollout.temperature > 1) for logp in rollout.logps]
        return drawn

    monkeypatch.setattr(TransformersSampler, "generate", off)
    with pytest.raises(SystemExit, match="step 2: sampler and trainer differ"):
        erpo.main([*SMALL, *few, "--questions", "4", "--max-draws", "1", "--out", str(tmp_path / "run")])
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1]


def test_the_tracker_survives_a_resume(whole_run, few, tmp_path):
    erpo.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "halves")])
    erpo.main(["--resume", str(tmp_path / "halves"), "--steps", "4"])
    assert rows_of(whole_run)[3:] == rows_of(tmp_path / "halves")[3:]


def test_without_room_to_heat_erpo_is_ra(few, tmp_path):
    flags = [*SMALL, *few, "--steps", "2", "--t-max", "1.0"]
    erpo.main([*flags, "--out", str(tmp_path / "erpo")])
    erpo.main([*flags, "--arm", "ra", "--out", str(tmp_path / "ra")])
    assert rows_of(tmp_path / "erpo") == rows_of(tmp_path / "ra")
    saved = [torch.load(tmp_path / arm / "checkpoint-000002" / "optimizer-000.pt", weights_only=True) for arm in ("erpo", "ra")]
    assert all(torch.equal(a, b) for a, b in zip(*(state["masters"] for state in saved), strict=True))


def test_all_solved(few, tmp_path, monkeypatch):
    """Every response counts as right: ra has a gradient, dapo exactly none."""
    def all_right(rollouts, golds, tokenizer, reward, counts=None):
        for rollout in rollouts:
            rollout.reward = 1.0

    monkeypatch.setattr(erpo, "score_rollouts", all_right)
    for arm in ("dapo", "ra"):
        erpo.main([*SMALL, *few, "--steps", "1", "--arm", arm, "--out", str(tmp_path / arm)])
        row = rows_of(tmp_path / arm)[1]
        assert (row["grad_norm"] > 0) == (arm == "ra") and row["frac_all_right"] == 1
        assert row["temperature/draws"] == (1 if arm == "ra" else 3)
