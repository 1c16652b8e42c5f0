"""erpo.py: the tracker, the advantage of solved groups, the three ways to score heated responses; and whole runs through main."""

import json

import pytest
import torch
from conftest import ROOT

import erpo
from common import collate, completion_logps, grpo_loss
from erpo import Tracker, ra_advantage, scoring, scoring_weights, temperature_metrics
from sampler import Rollout, TransformersSampler

SMALL = ["--steps", "4", "--prompts-per-step", "4", "--group-size", "4", "--eval-every", "4", "--eval-samples", "1", "--save-every", "2",
         "--questions", "24", "--probe-questions", "4", "--max-draws", "3", "--compare"]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 16 held-out problems, and for short training problems, many of which are solved."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::20]))
    (folder / "short.jsonl").write_text("".join(line for line in lines["train"] if json.loads(line)["level"] == 1))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "short.jsonl")]


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    erpo.main([*SMALL, *few, "--out", str(folder)])
    return folder


# ---- the tracker ----

HISTORY = [True, True, False, True, True, True, True]


@pytest.mark.parametrize(("rule", "temperatures"), [
    ("ratchet", [1.2, 1.4, 1.4, 1.5, 1.5, 1.5, 1.5]),
    ("reset", [1.2, 1.4, 1.0, 1.2, 1.4, 1.5, 1.5]),
    ("updown", [1.2, 1.4, 1.2, 1.4, 1.5, 1.5, 1.5]),
    ("consecutive", [1.0, 1.2, 1.2, 1.2, 1.4, 1.5, 1.5]),
])  # fmt: skip
def test_rules_on_a_written_out_history(rule, temperatures):
    tracker, seen = Tracker(1.0, 0.2, 1.5, rule, patience=2), []
    for all_right in HISTORY:
        tracker.update("q", all_right)
        seen.append(tracker.of("q")["temperature"])
    assert seen == pytest.approx(temperatures)
    assert tracker.of("q") == {"temperature": pytest.approx(1.5), "visits": 7, "all_right": 6, "streak": 4}
    assert tracker.of("another")["temperature"] == 1.0


def test_no_temperature_falls_below_the_start():
    tracker = Tracker(1.0, 0.2, 1.5, "updown")
    tracker.update("q", False)
    assert tracker.of("q")["temperature"] == 1.0


def test_what_is_logged_of_the_temperatures():
    """Four questions; two were all right at their last visit, one of these comes out mixed now."""
    tracker, visits = Tracker(1.0, 0.25, 1.5), []
    for question, before, mean in (("a", [True], 0.5), ("b", [True, True], 1.0), ("c", [True, False], 0.5), ("d", [], 1.0)):
        for all_right in before:
            tracker.update(question, all_right)
        rollout = Rollout([1], [2], [-0.1], True, temperature=tracker.temperature(question))
        visits.append(({"id": question}, tracker.of(question), mean, [rollout]))
        tracker.update(question, mean == 1)
    metrics = temperature_metrics(tracker, visits)
    assert metrics["temperature/revived"] == 0.5
    assert {name: value for name, value in metrics.items() if "@" in name} == {
        "temperature/visits@1.2": 1, "temperature/visits@1.5": 1, "temperature/revived@1.2": 1, "temperature/revived@1.5": 0}  # fmt: skip
    assert metrics["temperature/mean"] == 1.3125 and metrics["temperature/at_max"] == 0.25  # 1.25, 1.5, 1.25, 1.25
    assert [metrics[f"temperature/decile_{d}"] for d in (1, 5, 9)] == [1.25, 1.25, 1.25]


# ---- RA ----


def test_the_advantage_of_solved_groups():
    """ra-1 is what one wrong response among G + 1 leaves for the right ones; positive, and smaller in larger groups."""
    for size in (4, 8, 16):
        rewards = torch.tensor([1.0] * size + [0.0])
        assert ra_advantage(size) == pytest.approx(((1 - rewards.mean()) / rewards.std()).item())
        rewards = torch.tensor([1.0] * size + [-1.0])  # whatever the rewards are
        assert ra_advantage(size) == pytest.approx(((1 - rewards.mean()) / rewards.std()).item())
    assert ra_advantage(8, "ra-2", 0.1) == pytest.approx(1.1 / 9) and ra_advantage(8, "ra-3", 0.1) == 0.1


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
    logps = completion_logps(model, batch, scoring(batch["temperatures"], "score_T"))[0]
    assert (logps - batch["sampling_per_token_logps"])[batch["completion_mask"]].abs().max() < 1e-4
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    for mode, second in (("score_T", 1.5), ("score_T1", 1.0), ("is_corrected", 1.0)):
        logps = completion_logps(model, batch, scoring(batch["temperatures"], mode))[0]
        own = [(logits[i] / heat).log_softmax(-1).gather(1, batch["input_ids"][i, 1:, None])[:, 0] for i, heat in enumerate((1.0, second))]
        assert torch.allclose(logps[batch["completion_mask"]], torch.stack(own)[batch["completion_mask"]], atol=1e-5)


def gradient(model, batch, mode):
    model.zero_grad()
    logps = completion_logps(model, batch, scoring(batch["temperatures"], mode))[0]
    weights = scoring_weights(logps.detach(), batch["sampling_per_token_logps"], batch["temperatures"], mode, 0.0, 2.0)
    grpo_loss(logps, logps.detach(), batch["advantages"], batch["completion_mask"], importance_weights=weights)[0].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return gradients


def test_modes_differ_where_there_is_heat_and_only_there(heated):
    model, batch = heated
    assert not all(torch.equal(a, b) for a, b in zip(gradient(model, batch, "score_T1"), gradient(model, batch, "score_T")))
    cool = batch | {"temperatures": torch.ones(2)}
    cool["sampling_per_token_logps"] = completion_logps(model, cool, cool["temperatures"])[0].detach()
    reference = gradient(model, cool, "score_T1")
    for mode in ("score_T", "is_corrected"):
        assert all(torch.equal(a, b) for a, b in zip(gradient(model, cool, mode), reference))


def test_weights_by_hand():
    """Rows sampled at 1.0 and 1.5; p(trainer) / p(sampler) is e^.5 and e."""
    old, sampler = torch.tensor([[-1.0], [-1.0]]), torch.tensor([[-1.5], [-2.0]])
    heats = torch.tensor([1.0, 1.5])
    weights = lambda mode, cap: scoring_weights(old, sampler, heats, mode, cap, 2.0)  # noqa: E731
    assert weights("score_T1", 0.0) is None and weights("score_T", 0.0) is None
    assert weights("score_T1", 1.2).flatten().tolist() == pytest.approx([1.2, 1.0])  # another temperature is not the engine's fault
    assert weights("score_T", 1.2).flatten().tolist() == pytest.approx([1.2, 1.2])
    assert weights("is_corrected", 0.0).flatten().tolist() == pytest.approx([1.0, 2.0])
    assert weights("is_corrected", 1.2).flatten().tolist() == pytest.approx([1.2, 2.0])


# ---- whole runs ----


def test_what_a_run_leaves(whole_run):
    rows = rows_of(whole_run)
    assert {f"temperature/all_right@{heat}" for heat in (1.0, 1.2, 1.5)} < set(rows[0])
    assert all(1 <= row["temperature/draws"] <= 3 for row in rows[1:])
    assert 1 < rows[-1]["temperature/mean"] <= 1.5 and rows[-1]["temperature/decile_1"] <= rows[-1]["temperature/decile_9"]


def test_the_tracker_survives_a_resume(whole_run, few, tmp_path):
    erpo.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "halves")])
    erpo.main(["--resume", str(tmp_path / "halves"), "--steps", "4"])
    assert rows_of(whole_run)[3:] == rows_of(tmp_path / "halves")[3:]


def test_without_room_to_heat_erpo_is_ra(few, tmp_path):
    flags = [*SMALL, *few, "--steps", "2", "--t-max", "1.0"]
    erpo.main([*flags, "--out", str(tmp_path / "erpo")])
    erpo.main([*flags, "--arm", "ra", "--out", str(tmp_path / "ra")])
    assert rows_of(tmp_path / "erpo") == rows_of(tmp_path / "ra")
    saved = [torch.load(tmp_path / arm / "checkpoint-000002" / "trainer_state.pt", weights_only=False) for arm in ("erpo", "ra")]
    assert all(torch.equal(a, b) for a, b in zip(*(state["optimizer"]["masters"] for state in saved)))


def test_all_solved(few, tmp_path, monkeypatch):
    """Every response counts as right: ra has a gradient, dapo exactly none."""
    def all_right(rollouts, golds, tokenizer, counts=None):
        for rollout in rollouts:
            rollout.reward = 1.0

    monkeypatch.setattr(erpo, "score_rollouts", all_right)
    for arm in ("dapo", "ra"):
        erpo.main([*SMALL, *few, "--steps", "1", "--arm", arm, "--out", str(tmp_path / arm)])
        row = rows_of(tmp_path / arm)[1]
        assert (row["grad_norm"] > 0) == (arm == "ra") and row["frac_all_right"] == 1
        assert row["temperature/draws"] == (1 if arm == "ra" else 3)
