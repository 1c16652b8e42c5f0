"""erpo.py: the tracker, the advantage of solved groups, the three ways to score heated responses; and whole runs through main."""

import json

import pytest
import torch

import erpo
from common import TransformersSampler, collate, completion_logps, grpo_loss
from conftest import ROOT, rows_of
from erpo import Tracker, comparable, ra_advantage, scoring, scoring_weights

SMALL = ["--steps", "4", "--prompts-per-step", "4", "--group-size", "4", "--eval-every", "4", "--eval-samples", "1", "--save-every", "2",
         "--questions", "24", "--max-draws", "3", "--compare"]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 16 held-out problems, and for short training problems, many of which are solved."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::20]))
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
    logps = completion_logps(model, batch, scoring(batch["temperatures"], "score_T"))[0]
    assert (logps - batch["sampling_per_token_logps"])[batch["completion_mask"]].abs().max() < 1e-4
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    for mode, second in (("score_T", 1.5), ("score_T1", 1.0)):
        logps = completion_logps(model, batch, scoring(batch["temperatures"], mode))[0]
        own = [(logits[i] / heat).log_softmax(-1).gather(1, batch["input_ids"][i, 1:, None])[:, 0] for i, heat in enumerate((1.0, second))]
        assert torch.allclose(logps[batch["completion_mask"]], torch.stack(own)[batch["completion_mask"]], atol=1e-5)


def gradient(model, batch, mode):
    model.zero_grad()
    logps = completion_logps(model, batch, scoring(batch["temperatures"], mode))[0]
    weights = scoring_weights(batch | {"old_per_token_logps": logps.detach()}, mode, 0.0)
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
    assert all(torch.equal(a, b) for a, b in zip(gradient(model, cool, "score_T"), reference))


def test_weights_and_masks_by_hand():
    """Rows sampled at 1.0 and 1.5; p(trainer) / p(sampler) is e^.5 and e."""
    batch = {"old_per_token_logps": torch.tensor([[-1.0], [-1.0]]), "sampling_per_token_logps": torch.tensor([[-1.5], [-2.0]]),
             "temperatures": torch.tensor([1.0, 1.5]), "completion_mask": torch.tensor([[True], [True]])}  # fmt: skip
    assert scoring_weights(batch, "score_T1", 0.0) is None and scoring_weights(batch, "score_T", 0.0) is None
    assert scoring_weights(batch, "score_T1", 1.2).flatten().tolist() == pytest.approx([1.2, 1.0])  # another temperature is not the engine's fault
    assert scoring_weights(batch, "score_T", 1.2).flatten().tolist() == pytest.approx([1.2, 1.2])
    masks = [comparable([batch], mode)[0]["completion_mask"].flatten().tolist() for mode in ("score_T1", "score_T")]
    assert masks == [[True, False], [True, True]]  # a response scored at another temperature has no business agreeing with the sampler


# ---- whole runs ----


def test_what_a_run_leaves(whole_run):
    rows = rows_of(whole_run)
    assert all(1 <= row["temperature/draws"] <= 3 for row in rows[1:])
    assert 1 < rows[-1]["temperature/mean"] <= 1.5 and 0 <= rows[-1]["temperature/at_max"] <= 1


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
    def all_right(rollouts, golds, tokenizer, reward, counts=None):
        for rollout in rollouts:
            rollout.reward = 1.0

    monkeypatch.setattr(erpo, "score_rollouts", all_right)
    for arm in ("dapo", "ra"):
        erpo.main([*SMALL, *few, "--steps", "1", "--arm", arm, "--out", str(tmp_path / arm)])
        row = rows_of(tmp_path / arm)[1]
        assert (row["grad_norm"] > 0) == (arm == "ra") and row["frac_all_right"] == 1
        assert row["temperature/draws"] == (1 if arm == "ra" else 3)
