"""lte.py: what the hint says, how a group is refined, the shaped ratio; and whole runs through main."""

import json
import random

import pytest
import torch

import lte
from common import Rollout, TransformersSampler, collate, completion_logps, group_advantages
from conftest import ROOT, Scripted, rows_of
from lte import Hinted, hinted_question, logps_under_hint, lte_loss, refine, retry_prompts, wrong_answers

SMALL = ["--steps", "3", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "3", "--eval-samples", "1", "--save-every", "2",
         "--compare"]  # fmt: skip
TEXTS = {"instruction": " Think.", "concise": " Be brief.", "hint": " Not {}.", "separator": ", "}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for 18 held-out problems, and for training problems that are mostly all wrong at first, and helped by a hint."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    (folder / "few.jsonl").write_text("".join(lines["test"][::34]))
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


def texts_of(column):
    """The texts of the hints, full (0) or tiny (1)."""
    settings = {name: row[column] for name, row in lte.SETTINGS.items()}
    return {"instruction": settings["instruction"], "concise": settings["concise"], "hint": settings["hint"], "separator": settings["hint_separator"]}


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
    text = hinted_question("12+1", ["31", "2"], True, **texts_of(1))
    assert text == "12+1 not 31 not 2 brief"
    assert tiny[1].convert_ids_to_tokens(tiny[1](text).input_ids)[-3:] == [" not 31", " not 2", " brief"]


def test_the_wording_is_the_papers():
    """Of version 1's figures: question, list, the order not to mention it, the usual instruction; concisely where some were cut off."""
    plain, brief = (hinted_question("Q", ["3", "5"], cut_off, **texts_of(0)) for cut_off in (False, True))
    assert plain.startswith("Q\nHint: possible incorrect answers include 3, 5.\nDo not use or mention") and "\nPlease think step by step" in plain
    assert brief == plain.replace("step by step", "concisely")


def test_chat_messages_get_the_hint_in_the_last_one(tiny):
    tokenizer = tiny[1]
    box = tokenizer("\\boxed{3}", add_special_tokens=False).input_ids
    group = [Rollout([1], box, [0.0] * len(box), True)]
    text = {"problem": "1+1"}
    chat = {"problem": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "1+1"}]}
    prompts = [tokenizer.decode(ids) for ids in retry_prompts([text, chat], [group, group], tokenizer, **texts_of(1))]
    assert prompts[0] == "<|user|>1+1 not 3<|assistant|>" and prompts[1].endswith("<|user|>1+1 not 3<|assistant|>") and "<|user|>2+2" in prompts[1]


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


def test_the_denominator_is_the_trainers_under_the_hint(tiny):
    """Two hinted members of different lengths: their tokens are scored behind the hint, and stand where the plain prompt has them."""
    model, tokenizer = tiny
    plain, asked = ([tokenizer(f"<|user|>{q}{hint}<|assistant|>", add_special_tokens=False).input_ids for q in ("12+1", "(1+2)*3")]
                    for hint in ("", " not 31 not 2"))  # fmt: skip
    sampled = TransformersSampler(model, tokenizer, 8).generate(asked, 1, 1.0, 40, 3)
    members = [Hinted(**vars(r) | {"prompt_ids": ids}, asked_ids=r.prompt_ids) for ids, r in zip(plain, sampled)]
    batch = collate(members) | {"members": members}
    mask, logps = batch["completion_mask"], logps_under_hint(model, batch)
    assert not logps.requires_grad and (logps - batch["sampling_per_token_logps"])[mask].abs().max() < 1e-4
    assert (logps[mask] != completion_logps(model, batch, batch["temperatures"])[0][mask]).any() and not logps[~mask].any()


# ---- the tiny exact case: two questions, four responses to each, all numbers by hand ----


def test_one_step_by_hand(tiny, monkeypatch, tmp_path):
    """1+2 is all wrong, one answer cut off: asked again with "not 4 not 5 brief", one of the four is right. 2+2 is mixed."""

    def reply(context, heat):
        if context == "1+2<|assistant|>":  # 4, 5, 5, 7 tokens
            return [(0, "4", True), (1, "5", True), (1, "4", True), (4, "3", False)]
        if context == "1+2 not 4 not 5 brief<|assistant|>":  # 6, 4, 4, 4 tokens
            return [(2, "3", True), (0, "6", True), (0, "6", True), (0, "6", True)]
        assert context == "2+2<|assistant|>"  # 4, 4, 5, 5 tokens; rewards 1 1 0 0
        return [(0, "4", True), (0, "4", True), (1, "3", True), (1, "3", True)]

    case = Scripted(lte, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    row = case.step("--compare")
    one, two = "<|user|>1+2<|assistant|>", "<|user|>2+2<|assistant|>"
    under_hint = [trained for trained in case.trained if " not " in trained[0]]
    batch = [trained for trained in case.trained if " not " not in trained[0]]
    # The refined group of 1+2 has the one right retry and three of the four wrong answers: rewards 1 0 0 0,
    # A = 1.4997 and -.4999. 2+2: A = .8659 and -.8659. Hinted or not, all is learned behind the plain question.
    hinted = case.response(2, "3", True)
    wrong = [case.response(*answer) for answer in reply("1+2<|assistant|>", 1.0)]
    kept = [ids for prompt, ids, advantage in batch if prompt == one and ids != hinted]
    assert len(kept) == 3 and all(ids in wrong for ids in kept)
    expected = [(one, hinted, 1.4997), *((one, ids, -0.4999) for ids in kept)]
    expected += [(two, case.response(0, "4", True), 0.8659)] * 2 + [(two, case.response(1, "3", True), -0.8659)] * 2
    assert sorted(batch) == sorted(expected)
    assert [(prompt, ids) for prompt, ids, _ in under_hint] == [("<|user|>1+2 not 4 not 5 brief<|assistant|>", hinted)]

    def logps(prompt):  # of the hinted member's tokens behind a prompt
        ids = torch.tensor([case.ids(prompt) + hinted])
        scores = tiny[0](input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return scores[-len(hinted) :]

    # hinted: - sum over its 6 tokens of r / (r + .1) x 1.4997 with r = p(question) / p(question and hint); plain: ratio 1
    ratio = (logps(one) - logps("<|user|>1+2 not 4 not 5 brief<|assistant|>")).exp()
    tokens = 6 + sum(map(len, kept)) + 4 + 4 + 5 + 5
    shaped = 1.4997 * (ratio / (ratio + 0.1)).sum().item()
    loss = -(shaped - 0.4999 * sum(map(len, kept)) + 0.8659 * (4 + 4) - 0.8659 * (5 + 5)) / tokens
    assert row["loss"] == pytest.approx(loss, abs=1e-5) and ratio.min() < 0.999
    assert row["hint/log_ratio"] == pytest.approx(ratio.log().mean().item(), abs=1e-5)
    # before the hints: 2 of 8 right, 21 + 18 tokens; drawn besides: four prompts of 5 + 3 tokens, with the hint, and 18 tokens
    assert row["reward"] == 0.25 and (row["hint/none_pass"], row["hint/some_pass"], row["hint/asked"], row["hint/rescued"]) == (1, 1, 1, 1)
    assert row["completions/mean_length"] == 39 / 8 and row["completions/clipped_ratio"] == 1 / 8
    hint_prompt = len(case.ids("<|user|>1+2 not 4 not 5 brief<|assistant|>"))
    assert row["num_tokens"] == 8 * 5 + 39 + 4 * hint_prompt + 18


def test_a_hint_too_long_for_the_context_is_left_out(tiny, monkeypatch, tmp_path):
    """The context has room for the question but not for the hint: no retry, the step goes on."""

    def reply(context, heat):
        assert " not " not in context
        return [(0, "4", True), (1, "5", True), (0, "6", True), (0, "7", True)] if "1+2" in context else [(0, "4", True)] * 3 + [(0, "5", True)]

    case = Scripted(lte, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    row = case.step("--compare", "--max-tokens", str(tiny[0].config.max_position_embeddings - 6))
    assert row["hint/none_pass"] == 1 and row["hint/asked"] == 0


# ---- whole runs ----


def test_ratios_on_the_first_update(tiny, few, tmp_path, monkeypatch):
    """Plain ratios are exactly 1, hinted ones are not; no prompt that is trained on holds a hint."""
    seen, original = [], lte.lte_loss

    def watched(new, old, advantages, mask, *, hinted, **settings):
        seen.append((hinted, (new - old)[mask].detach()))
        return original(new, old, advantages, mask, hinted=hinted, **settings)

    prompts, micro_batches = [], lte.micro_batches
    monkeypatch.setattr(lte, "lte_loss", watched)
    monkeypatch.setattr(lte, "micro_batches", lambda some, size: prompts.extend(r.prompt_ids for r in some) or micro_batches(some, size))
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
