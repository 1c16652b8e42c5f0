"""pos_neg_pairing.py: which questions are chosen, what the weights do (E1 to E5: exact statements), and whole runs through main."""

import json
import math
import random
import shutil
from types import SimpleNamespace

import pytest
import torch

import pos_neg_pairing
from common import Rollout
from conftest import ROOT, Scripted, rows_of, stopped
from plumbing import InputError
from pos_neg_pairing import choose_pair, pair_advantages

SMALL = ["--steps", "3", "--prompts-per-step", "4", "--group-size", "4", "--eval-every", "3", "--eval-samples", "1", "--save-every", "2",
         "--probe-samples", "8", "--questions", "60", "--band", "2", "--compare"]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Flags for mixed training problems, and for held-out problems that hold all of these: 18 and 100."""
    folder = tmp_path_factory.mktemp("data")
    lines = {name: (ROOT / "tiny" / f"{name}.jsonl").read_text().splitlines(keepends=True) for name in ("train", "test")}
    mixed = [line for line in lines["train"] if '"mixed"' in line][:100]
    (folder / "few.jsonl").write_text("".join(lines["test"][::34] + mixed))
    (folder / "mixed.jsonl").write_text("".join(mixed))
    return ["--eval-sets", str(folder / "few.jsonl"), "--data", str(folder / "mixed.jsonl")]


def group(right, size=8):
    return torch.tensor([[1.0] * right + [0.0] * (size - right)])


BOTH = torch.tensor([1, -1])

# ---- the weights ----


@pytest.mark.parametrize("right", range(9))
def test_e1_advantages_of_a_group(right):
    """Right answers sqrt((1 - p) / p), wrong ones -sqrt(p / (1 - p)), times sqrt((G - 1) / G); they add up to 0, their squares to G - 1."""
    advantages, p = pair_advantages(group(right), torch.tensor([1]))[0], right / 8
    if right in (0, 8):
        assert torch.equal(advantages, torch.zeros(8))
        return
    expected = [((1 - p) / p) ** 0.5] * right + [-((p / (1 - p)) ** 0.5)] * (8 - right)
    assert advantages.tolist() == pytest.approx([a * (7 / 8) ** 0.5 for a in expected], rel=1e-5)
    assert advantages.sum().abs() < 1e-5 and advantages.square().sum().item() == pytest.approx(7, rel=1e-5)


def test_e2_the_weight_cancels():
    rewards = torch.cat([group(1), group(7)])
    reference = pair_advantages(rewards, BOTH, "per_prompt", 1.0)
    for weight in (0.0, 0.5, 4.0):
        assert torch.allclose(pair_advantages(rewards, BOTH, "per_prompt", weight), reference, rtol=1e-5)


def rare_share(advantages, rare):
    """Share of the sum of squared advantages that the rare events hold."""
    return (advantages.square() * rare).sum().item() / advantages.square().sum().item()


def test_e3_energy_and_symmetry():
    for right in range(1, 8):
        advantages = pair_advantages(group(right), torch.tensor([1]))
        assert rare_share(advantages, group(right) == 1) == pytest.approx(1 - right / 8, rel=1e-5)
        mirrored = -pair_advantages(1 - group(right), torch.tensor([1]))
        assert torch.allclose(advantages, mirrored, rtol=1e-5)
    both = torch.cat([group(1), group(7)])
    assert rare_share(pair_advantages(both, BOTH), torch.cat([group(1) == 1, group(7) == 0])) == pytest.approx(7 / 8, rel=1e-5)


def test_e4_the_expected_update():
    """The mean over all outcomes of (1/G) sum A grad log pi is f(p) grad p; f(1/8) / f(1/2) = 1.220, for a policy that is one coin."""

    def f(p, size=8):
        total = 0.0
        for right in range(1, size):
            advantages = pair_advantages(group(right, size), torch.tensor([1]))[0]
            slope = torch.tensor([1 / p] * right + [-1 / (1 - p)] * (size - right))  # d log pi / d p
            total += math.comb(size, right) * p**right * (1 - p) ** (size - right) * (advantages * slope).mean().item()
        return total / (7 / 8) ** 0.5  # with the divisor n

    assert f(0.5) == pytest.approx(1.856, abs=1e-3) and f(1 / 8) / f(0.5) == pytest.approx(1.220, abs=1e-3)


def test_e5_the_reading_in_which_the_weight_acts():
    scale = (15 / 16) ** 0.5
    by_role = pair_advantages(torch.cat([group(2), group(7)]), BOTH, "role_pooled", 2.0)  # successes of q+ = weight times failures of q-
    assert torch.equal(by_role[0, 2:], torch.zeros(6)) and torch.equal(by_role[1, :7], torch.zeros(7))
    assert by_role[0, 0] > 0 > by_role[1, 7]
    by_role = pair_advantages(torch.cat([group(1), group(7)]), BOTH, "role_pooled", 2.0)
    assert [by_role[0, 0].item(), by_role[0, 1].item(), by_role[1, 7].item()] == pytest.approx([1.91 * scale, 0.11 * scale, -3.49 * scale], abs=0.01)


# ---- the choice ----


def test_role_pooled_goes_with_pairs_and_the_weight_without_standard_deviation_acts():
    with pytest.raises(InputError, match="goes with --arm pair"):
        pair_advantages(group(1), torch.tensor([0]), "role_pooled")
    assert pair_advantages(group(2, 4), torch.tensor([0]), "per_prompt", 3.0, scale_by_std=False).tolist() == [[2.0, 2.0, -2.0, -2.0]]


RATES = {"none": 0.0, "rare": 1 / 8, "seldom": 2 / 8, "half": 0.5, "third": 0.4, "often": 6 / 8, "mostly": 7 / 8, "always": 1.0}



def test_bands():
    def pick(**how):
        return choose_pair(RATES, **{"group_size": 8, "band": 2, "rng": random.Random(0)} | how)

    for seed in range(10):
        positive, negative = pick(rng=random.Random(seed))
        assert positive in ("rare", "seldom") and negative in ("often", "mostly")
    assert pick(band=1) == ("rare", "mostly") == pick(hard={"rare"}, band=1)
    with pytest.raises(InputError, match="in the band of q\\+"):
        pick(hard={"half"})


# ---- the tiny exact case: two questions, four responses to each, all numbers by hand ----

# Advantages of q+ (rewards 1 0 0 0) and of q- (1 1 1 0): right one, wrong ones, right ones, wrong one. per_prompt: .75 / .5, -.25 / .5
# and mirrored, whatever the weight. role_pooled, weight 2: outcomes 1 0 0 0 and 0 0 0 -2 have mean -1/8 and standard deviation
# ((1.125^2 + 6 x .125^2 + 1.875^2) / 7)^.5 = .83452, so 1.125, .125 and -1.875 over that.
BY_HAND = {"per_prompt": (1.5, -0.5, 0.5, -1.5), "role_pooled": (1.3481, 0.1498, 0.1498, -2.2468)}


@pytest.mark.parametrize("mode", BY_HAND)
def test_one_step_by_hand(mode, tiny, monkeypatch, tmp_path):
    """In the probe 1+2 is right twice of eight, 2+2 six times: q+ and q-, one copy of each in the batch."""

    def reply(context, heat):  # 4, 5, 5, 6 tokens; 4, 4, 4, 6 tokens, the last cut off
        return ([(0, "3", True), (1, "4", True), (1, "5", True), (2, "6", True)] if "1+2" in context else
                [(0, "4", True), (0, "4", True), (0, "4", True), (3, "4", False)])  # fmt: skip

    case = Scripted(pos_neg_pairing, tiny, monkeypatch, tmp_path / "case", [("1+2", "3"), ("2+2", "4")], reply)
    flags = ["--compare", "--probe-samples", "8", "--questions", "0", "--band", "2", "--adv-mode", mode, "--lambda-neg", "2"]
    row = case.step(*flags)
    lines = [json.loads(line) for line in (tmp_path / "case/run/chosen.jsonl").read_text().splitlines()]
    assert [(line["problem"], line["probe"], line["again"]) for line in lines] == [("1+2", 0.25, 0.25), ("2+2", 0.75, 0.75)]
    hit, miss, safe, slip = BY_HAND[mode]
    one, two = "<|user|>1+2<|assistant|>", "<|user|>2+2<|assistant|>"
    expected = [(one, case.response(0, "3", True), hit), (one, case.response(1, "4", True), miss), (one, case.response(1, "5", True), miss),
                (one, case.response(2, "6", True), miss), *[(two, case.response(0, "4", True), safe)] * 3,
                (two, case.response(3, "4", False), slip)]  # fmt: skip
    assert sorted(case.trained) == sorted(expected)
    loss = -(hit * 4 + miss * (5 + 5 + 6) + safe * (4 + 4 + 4) + slip * 6) / 38
    assert row["loss"] == pytest.approx(loss, abs=1e-4) and row["reward"] == 0.5
    assert (row["pair/reward_positive"], row["pair/reward_negative"], row["pair/mixed_positive"]) == (0.25, 0.75, 1)
    # the probe of both questions and once more of the chosen two, eight each; the step: prompts of 5 tokens and 20 + 18 of responses
    assert row["num_tokens"] == 2 * (16 * 5 + 2 * 38) + 8 * 5 + 38


# ---- whole runs ----


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    pos_neg_pairing.main([*SMALL, *few, "--out", str(folder)])
    return folder


def test_the_chosen_two_are_probed_again(whole_run):
    positive, negative = [json.loads(line) for line in (whole_run / "chosen.jsonl").read_text().splitlines()]
    assert (positive["role"], negative["role"]) == (1, -1) and 0.25 <= positive["probe"] <= 0.5 <= negative["probe"] <= 0.75
    assert 0 <= positive["again"] <= 1
    rows = rows_of(whole_run)
    assert {"pair/reward_positive", "pair/mixed_negative"} < set(rows[1])
    assert rows[0]["num_tokens"] == round(positive["tokens"] + negative["tokens"]) > 8 * (60 + 2) * 10  # the probe is paid for; 10: a short question
    assert rows[1]["reward"] == pytest.approx((rows[1]["pair/reward_positive"] + rows[1]["pair/reward_negative"]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("arms", [("pair", "pool"), ("pool", "pair")])
def test_the_chosen_two_are_never_evaluated(few, tmp_path, monkeypatch, arms):
    """The evaluation set holds the whole pool: two of its 118 problems are left out, the same in both arms. Only one arm pays for them."""
    runs = []

    class Kept(pos_neg_pairing.Run):
        def __init__(self, *given):
            super().__init__(*given)
            runs.append(self)

    monkeypatch.setattr(pos_neg_pairing, "Run", Kept)
    pos_neg_pairing.main([*SMALL, arms[1], *few, "--arm", arms[0], "--steps", "1", "--out", str(tmp_path / "run")])
    chosen = {json.loads(line)["problem"] for line in (tmp_path / "run/chosen.jsonl").read_text().splitlines()}
    for run in runs:
        evaluated = [problem["problem"] for problem in run.eval_sets["few"]]
        assert len(evaluated) == 116 and not chosen & set(evaluated)
    assert [bool(run.rows[0]["num_tokens"]) for run in runs] == [arm == "pair" for arm in arms]
    assert not (tmp_path / "run" / arms[1] / "probe.jsonl").exists()


def test_a_set_that_holds_nothing_else_is_refused():
    run = SimpleNamespace(eval_sets={"few": [{"problem": "1+1"}, {"problem": "2+2"}]})
    with pytest.raises(InputError, match="few holds nothing but what is trained on"):
        pos_neg_pairing.hold_out(run, [{"problem": "1+1"}, {"problem": "2+2"}])


def test_the_probe_goes_by_chunks_and_keeps_counts(tmp_path):
    """Three samples of 130 problems: the i-th is right i % 4 times, at most 3. Stopped after two chunks, it goes on with the third."""
    asked, problems = [], [{"id": i} for i in range(130)]

    def draw(part, n, purpose, start):
        asked.append((start, len(part)))
        return [[Rollout([1, 1], [2] * 5, [0.0] * 5, True, reward=float(k < p["id"] % 4)) for k in range(n)] for p in part]

    run = SimpleNamespace(out=tmp_path, args=SimpleNamespace(probe_samples=3), draw=draw)
    lines = pos_neg_pairing.probe(run, problems)
    assert asked == [(0, 64), (64, 64), (128, 2)]
    assert lines == [{"id": i, "right": i % 4, "tokens": 3 * 7} for i in range(130)]
    kept = (tmp_path / "probe.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "probe.jsonl").write_text("".join(kept[:128]))
    assert pos_neg_pairing.probe(run, problems) == lines and asked[3:] == [(128, 2)]


def test_a_record_of_something_else_is_refused(whole_run, few, tmp_path):
    for file, message in ((whole_run / "probe.jsonl", "is another kind of record"), (tmp_path / "none.jsonl", "holds no line")):
        line = stopped(pos_neg_pairing.main, *SMALL, *few, "--chosen", str(file), "--out", str(tmp_path / file.stem))
        assert message in line


def test_a_resumed_run_trains_on_the_same_two(whole_run, few, tmp_path):
    pos_neg_pairing.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / "halves")])
    pos_neg_pairing.main(["--resume", str(tmp_path / "halves"), "--steps", "3"])
    assert rows_of(whole_run)[-1] == rows_of(tmp_path / "halves")[-1]
    assert (whole_run / "chosen.jsonl").read_text() == (tmp_path / "halves" / "chosen.jsonl").read_text()


@pytest.mark.parametrize("change", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: '{"id": 99, "role": 1}\n{"id": 2}\n',
                                    lambda text: text.replace('"role": 1', '"role": -1')])  # fmt: skip
def test_a_pair_that_is_not_the_one_that_was_trained_on_is_refused(whole_run, tmp_path, change, monkeypatch):
    """Chosen again, it would be by the model of step 3."""
    shutil.copytree(whole_run, tmp_path / "run")
    file = tmp_path / "run/chosen.jsonl"
    file.write_text(change(file.read_text()))
    monkeypatch.setattr(pos_neg_pairing, "probe", None)
    line = stopped(pos_neg_pairing.main, "--resume", str(tmp_path / "run"), "--steps", "4")
    assert "chosen.jsonl does not hold what the run went on from" in line


def test_a_given_pair_may_lie_elsewhere_but_has_to_be_the_same(whole_run, few, tmp_path):
    given, moved = shutil.copy(whole_run / "chosen.jsonl", tmp_path / "given.jsonl"), tmp_path / "moved.jsonl"
    pos_neg_pairing.main([*SMALL, *few, "--steps", "1", "--chosen", str(given), "--out", str(tmp_path / "run")])
    (tmp_path / "given.jsonl").rename(moved)
    pos_neg_pairing.main(["--resume", str(tmp_path / "run"), "--steps", "2", "--chosen", str(moved)])
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1, 2]
    moved.write_text(moved.read_text().replace('"role": 1', '"role": -1'))
    line = stopped(pos_neg_pairing.main, "--resume", str(tmp_path / "run"), "--steps", "3", "--chosen", str(moved))
    assert "moved.jsonl does not hold what the run went on from" in line


def test_before_the_first_checkpoint_a_damaged_choice_is_made_again(whole_run, few, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    (tmp_path / "run/chosen.jsonl").write_text('{"id": 99, "role": 1}\n{"id": 2}\n')
    pos_neg_pairing.main(["--resume", str(tmp_path / "run")])
    assert rows_of(tmp_path / "run") == rows_of(whole_run)


@pytest.mark.parametrize("flags", [["--arm", "pool"], ["--adv-mode", "role_pooled", "--lambda-neg", "2"], ["--no-scale-by-std"],
                                   ["--beta", "0.001", "--entropy-coef", "0.001"]])  # fmt: skip
def test_arms_and_modes_run(few, tmp_path, flags):
    pos_neg_pairing.main([*SMALL, *few, "--steps", "2", *flags, "--out", str(tmp_path / "run")])
    assert len(rows_of(tmp_path / "run")) == 3
