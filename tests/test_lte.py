"""lte.py: what the hint says, how a group is refined, the shaped ratio; and whole runs through main."""

import json
import random

import pytest
import torch

import lte
from common import Rollout, group_advantages
from conftest import ROOT, rows_of
from lte import Hinted, hinted_question, lte_loss, refine, wrong_answers

SMALL = ["--steps", "3", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "3", "--eval-samples", "1", "--save-every", "2",
         "--compare"]  # fmt: skip
TEXTS = {"instruction": " Think.", "concise": " Be brief.", "hint": " Not {}.", "separator": ", "}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 16 held-out problems, and for training problems that are mostly all wrong at first, and helped by a hint."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::20]))
    trap = [line for line in lines["train"] if '"trap"' in line or '"mixed"' in line and json.loads(line)["level"] == 3]
    (folder / "trap.jsonl").write_text("".join(trap[:150]))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "trap.jsonl")]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    lte.main([*SMALL, *few, "--out", str(folder)])
    return folder


def member(reward=0.0, finished=True, kind=Rollout):
    return kind([1], [2, 3], [-0.5, -0.5], finished, reward=reward)


# ---- the hint ----


def test_three_cases_of_hints():
    assert hinted_question("Q", ["3", "5"], False, **TEXTS) == "Q Not 3, 5. Think."  # none cut off
    assert hinted_question("Q", ["3"], True, **TEXTS) == "Q Not 3. Be brief."  # some
    assert hinted_question("Q", [], True, **TEXTS) == "Q Be brief."  # all, or nothing readable in the others
    assert hinted_question("Q", [], False, **TEXTS) is None


def test_wrong_answers_are_listed_once_and_only_if_their_response_ended():
    rollouts = [member(), member(), member(finished=False), member(), member()]
    texts = [r"so \boxed{3}", r"\boxed{5}", r"\boxed{7}", r"again \boxed{ 3 }", "no box"]
    assert wrong_answers(rollouts, texts) == ["3", "5"]


def test_the_tiny_model_reads_its_hints_as_it_was_taught(tiny):
    settings = {name: row[1] for name, row in lte.SETTINGS.items()}
    texts = {"instruction": settings["instruction"], "concise": settings["concise"], "hint": settings["hint"],
             "separator": settings["hint_separator"]}  # fmt: skip
    text = hinted_question("12+1", ["31", "2"], True, **texts)
    assert text == "12+1 not 31 not 2 brief"
    assert tiny[1].convert_ids_to_tokens(tiny[1](text).input_ids)[-3:] == [" not 31", " not 2", " brief"]


# ---- the group ----


def test_right_retries_take_random_places():
    group, retries = [member() for _ in range(4)], [member(1.0, kind=Hinted), member(kind=Hinted), member(1.0, kind=Hinted)]
    refined, count = refine(group, retries, random.Random(0))
    assert count == 2 and len(refined) == 4 and sum(isinstance(r, Hinted) for r in refined) == 2
    assert [r.reward for r in refined if isinstance(r, Hinted)] == [1.0, 1.0]  # the wrong retry is dropped
    assert all(a is b for a, b in zip(refined, refine(group, retries, random.Random(0))[0]))
    places = {tuple(isinstance(r, Hinted) for r in refine(group, retries, random.Random(seed))[0]) for seed in range(30)}
    assert len(places) == 6  # every pair of places comes up
    assert refine(group, [], random.Random(0)) == (group, 0)


def test_a_group_that_is_all_hinted_and_right_teaches_nothing():
    refined, count = refine([member() for _ in range(2)], [member(1.0, kind=Hinted) for _ in range(3)], random.Random(0))
    assert count == 2 and torch.equal(group_advantages(torch.tensor([[r.reward for r in refined]])), torch.zeros(1, 2))


# ---- the loss ----

LOSS = {"gamma": 0.1, "clip_low": 0.2, "clip_high": 0.2, "importance_weights": None}


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.1, 0.5, 1.0, 10.0])
def test_weight_of_a_hinted_token(ratio):
    """d/d logp of -r / (r + gamma) A is -gamma r / (r + gamma)^2 A, largest at r = gamma, where it is a quarter; no clip."""
    logp = torch.tensor([[0.0]], dtype=torch.float64, requires_grad=True)
    old = -torch.tensor([[ratio]], dtype=torch.float64).log()
    loss, statistics = lte_loss(logp, old, torch.tensor([2.0]), torch.tensor([[True]]), hinted=True, **LOSS, num_tokens=1)
    loss.backward()
    weight = 0.1 * ratio / (ratio + 0.1) ** 2
    assert loss.item() == pytest.approx(-2 * ratio / (ratio + 0.1)) and logp.grad.item() == pytest.approx(-2 * weight)
    assert statistics["hint/weight"] == pytest.approx(weight) and statistics["hint/log_ratio"] == pytest.approx(torch.tensor(ratio).log().item())
    assert weight <= 0.25 + 1e-12


def test_plain_members_have_the_clipped_loss_and_one_count_divides_both():
    """Plain: r = 1.5 clipped to 1.2 for A = 1; hinted: r = 0.1, so half of A = 2; 4 tokens in the batch."""
    logps, mask = torch.tensor([[1.5], [0.1]]).log().requires_grad_(), torch.ones(1, 1, dtype=torch.bool)
    plain, _ = lte_loss(logps[:1], torch.zeros(1, 1), torch.tensor([1.0]), mask, hinted=False, **LOSS, num_tokens=4)
    hinted, _ = lte_loss(logps[1:], torch.zeros(1, 1), torch.tensor([2.0]), mask, hinted=True, **LOSS, num_tokens=4)
    loss = plain + hinted
    assert loss.item() == pytest.approx(-(1.2 + 1.0) / 4)
    loss.backward()
    assert logps.grad[0].item() == 0 and logps.grad[1].item() == pytest.approx(-0.25 * 2 / 4)


# ---- whole runs ----


def test_ratios_on_the_first_update(tiny, few, tmp_path, monkeypatch):
    """Plain ratios are exactly 1, hinted ones are not; no prompt that is trained on holds a hint."""
    seen, original = [], lte.lte_loss

    def watched(new, old, advantages, mask, *, hinted, **settings):
        seen.append((hinted, (new - old)[mask].detach()))
        return original(new, old, advantages, mask, hinted=hinted, **settings)

    prompts, collate = [], lte.collate
    monkeypatch.setattr(lte, "lte_loss", watched)
    monkeypatch.setattr(lte, "collate", lambda part, device: prompts.extend(r.prompt_ids for r in part) or collate(part, device))
    lte.main([*SMALL, *few, "--prompts-per-step", "32", "--out", str(tmp_path / "run")])
    kinds = [hinted for hinted, _ in seen]
    assert True in kinds and False in kinds
    for hinted, difference in seen:
        assert bool((difference == 0).all()) != hinted
    tokenizer = tiny[1]
    assert not any(" not " in tokenizer.decode(ids) or "brief" in tokenizer.decode(ids) for ids in prompts)


def test_counts_are_taken_before_the_hint(whole_run):
    for row in rows_of(whole_run)[1:]:
        assert row["hint/none_pass"] + row["hint/some_pass"] + row["hint/all_pass"] == 8
        assert row["frac_reward_zero_std"] == (row["hint/none_pass"] + row["hint/all_pass"]) / 8 >= row["hint/zero_std_after"]


def test_a_resumed_run_has_the_same_metrics(whole_run, few, tmp_path):
    lte.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "halves")])
    lte.main(["--resume", str(tmp_path / "halves"), "--steps", "3"])
    assert rows_of(whole_run)[-1] == rows_of(tmp_path / "halves")[-1]


@pytest.mark.parametrize("flags", [["--arm", "grpo"], ["--arm", "extra"], ["--entropy-coef", "0.01"], ["--beta", "0.01"],
                                   ["--updates-per-batch", "2"]])  # fmt: skip
def test_every_arm_runs(whole_run, few, tmp_path, flags):
    lte.main([*SMALL, *few, "--steps", "1", *flags, "--out", str(tmp_path / "run")])
    first, step = rows_of(whole_run)[1], rows_of(tmp_path / "run")[1]
    assert step["hint/none_pass"] == first["hint/none_pass"]  # the same questions and first answers
    if flags == ["--arm", "grpo"]:
        assert step["hint/rescued"] == 0 and step["num_tokens"] < first["num_tokens"]
