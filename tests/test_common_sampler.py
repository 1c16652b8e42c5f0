"""The sampler: what it draws, from which distribution, and the log-probabilities it reports."""

import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config

from common import TransformersSampler, VLLMSampler, build_prompt, collate, completion_logps, draw, make_sampler, sampling_gap
from plumbing import InputError, NotFinite, engine


@pytest.fixture
def sampler(tiny):
    return TransformersSampler(*tiny, rows=64)


@pytest.fixture
def prompts(tiny):
    return [build_prompt(tiny[1], text, "") for text in ("3*4", "((12+1)*3)-18", "(((((20-8)/3)*9)+4)-13)/3", "40/8", "(6*7)-5")]


def test_logps_equal_a_fresh_forward_pass(tiny, sampler, prompts):
    """Key-value cache, left padding, shared prompts and dropped rows leave no trace: the trainer's own pass agrees within 1e-4."""
    rollouts = sampler.generate(prompts, 16, [0.7, 1.0, 1.3, 1.0, 0.5], 60, seed=0)
    batch = collate(rollouts)
    with torch.no_grad():
        logps, _ = completion_logps(tiny[0], batch, batch["temperatures"])
    assert (logps - batch["sampling_per_token_logps"]).abs().max() < 1e-4
    wrong, _ = completion_logps(tiny[0], batch, torch.ones(len(rollouts)))
    assert (wrong - batch["sampling_per_token_logps"]).abs().max() > 0.1  # the comparison can fail


def test_rows_come_back_in_order_whatever_the_batching(tiny, prompts):
    for rows in (1, 7, 64):
        rollouts = TransformersSampler(*tiny, rows=rows).generate(prompts, 3, 1.0, 40, seed=1)
        assert [r.prompt_ids for r in rollouts] == [p for p in prompts for _ in range(3)]


def test_distribution_of_the_first_token(tiny, sampler, prompts):
    """20,000 draws at each temperature against softmax(logits / T) of a plain forward pass: chi-square over the tokens expected at least 20 times."""
    model = tiny[0]
    prompt = build_prompt(tiny[1], "(9+1)+D7 not 17", "")
    prompt += tiny[1]("9+1=10; D7=7; 10+7=17; no D7=").input_ids  # where the model is unsure: any number may follow
    for temperature in (0.7, 1.5):
        rollouts = sampler_of(tiny).generate([prompt], 20_000, temperature, 1, seed=3)
        counts = torch.bincount(torch.tensor([r.completion_ids[0] for r in rollouts]), minlength=model.config.vocab_size).double()
        with torch.no_grad():
            probs = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(0)
        expected = probs * 20_000
        often = expected >= 20
        assert often.sum() > 5
        chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum().item()
        cells = int(often.sum())
        assert chi_square < cells + 5 * (2 * cells) ** 0.5  # five standard deviations of the chi-square distribution


def test_draws_by_hand():
    """A number below .5 is word 0, one below .75 word 2, others word 3; word 1 has no share and never comes."""
    logps = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(1000, 4)
    numbers = torch.rand(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))[:, 0].tolist()
    expected = [0 if number < 0.5 else 2 if number < 0.75 else 3 for number in numbers]
    assert draw(logps, torch.Generator().manual_seed(4))[:, 0].tolist() == expected
    nothing = draw(torch.full((3, 4), math.nan), torch.Generator().manual_seed(0))
    assert nothing.shape == (3, 1) and nothing.max() < 4  # the sampler refuses them later


def sampler_of(tiny):
    return TransformersSampler(*tiny, rows=5000)


def test_each_row_has_its_own_temperature(tiny, prompts):
    """Two copies of one prompt in one batch, at 0.2 and 3: the second spreads over far more first tokens."""
    prompt = prompts[1][:-3]
    rollouts = sampler_of(tiny).generate([prompt, list(prompt)], 500, [0.2, 3.0], 1, seed=0)
    assert [r.temperature for r in rollouts] == [0.2] * 500 + [3.0] * 500
    cold, hot = ({r.completion_ids[0] for r in half} for half in (rollouts[:500], rollouts[500:]))
    assert len(hot) > 3 * len(cold)


def test_temperature_zero_is_greedy(tiny, sampler, prompts):
    rollouts = sampler.generate(prompts, 2, 0.0, 60, seed=0)
    for prompt, rollout in zip(prompts, rollouts[::2], strict=True):
        plain = tiny[0].generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[0, len(prompt) :].tolist()
        assert rollout.completion_ids == plain


def test_same_seed_same_samples(sampler, prompts):
    first, again, other = (sampler.generate(prompts, 4, 1.0, 40, seed) for seed in (5, 5, 6))
    assert first == again
    assert [r.completion_ids for r in first] != [r.completion_ids for r in other]
    assert len({tuple(r.completion_ids) for r in sampler.generate(prompts[2:3], 8, 1.0, 60, 0)}) > 1  # and a group is not one sample eight times


def test_end_token_is_kept_and_cut_rows_are_marked(tiny, sampler, prompts):
    end = tiny[1].eos_token_id
    for rollout in sampler.generate(prompts, 8, 1.0, 12, seed=0):
        assert len(rollout.completion_ids) == len(rollout.logps) <= 12
        assert rollout.finished == (rollout.completion_ids[-1] == end)
        assert end not in rollout.completion_ids[:-1]
        assert rollout.finished or len(rollout.completion_ids) == 12
    assert {r.finished for r in sampler.generate(prompts, 8, 1.0, 12, seed=0)} == {True, False}


def test_a_prefix_is_simply_more_ids(tiny, sampler, prompts):
    opening = tiny[1]("12+1=13; 13*3=39; ").input_ids
    (rollout,) = sampler.generate([prompts[1] + opening], 1, 0.0, 60, seed=0)
    assert tiny[1].decode(rollout.completion_ids).startswith("39-18=")


def test_the_gap_by_hand():
    batch = {
        "old_per_token_logps": torch.tensor([[-1.0, -2.0, 9.0]]),
        "sampling_per_token_logps": torch.tensor([[-1.0, -2.5, 0.0]]),
        "completion_mask": torch.tensor([[True, True, False]]),
    }
    gap = sampling_gap([batch], 1, limit=1.0)  # differences 0 and 0.5, ratios 1 and exp(0.5)
    assert gap["sampling/sampling_logp_difference/mean"] == 0.25 and gap["sampling/sampling_logp_difference/max"] == 0.5
    assert gap["sampling/importance_sampling_ratio/max"] == pytest.approx(math.exp(0.5))
    assert gap["sampling/importance_sampling_ratio/mean"] == pytest.approx((1 + math.exp(0.5)) / 2)
    with pytest.raises(InputError, match="step 7: sampler and trainer differ by 0.25 nats.*did not get the last weights"):
        sampling_gap([batch], 7, limit=0.2)
    batch["sampling_per_token_logps"] = torch.tensor([[float("nan"), -2.5, 0.0]])
    with pytest.raises(InputError, match="differ by nan"):
        sampling_gap([batch], 7, limit=0.2)


def test_asking_for_vllm_where_it_is_not(tiny, monkeypatch):
    """One line that says what to install; and the environment is left as it was."""
    monkeypatch.setitem(sys.modules, "vllm", None)  # makes the import fail, installed or not
    with pytest.raises(InputError, match="--sampler vllm: cannot import vLLM .*pip install -r requirements.txt or take --sampler transformers"):
        make_sampler("vllm", *tiny)
    assert "MASTER_PORT" not in os.environ


def test_numbers_of_the_engine_that_are_not_finite_are_no_traceback():
    """An engine that is made up: the run adds step and questions to this error, as to that of the other sampler."""
    sampler, answer = VLLMSampler.__new__(VLLMSampler), SimpleNamespace(token_ids=[7, 2], finish_reason="stop")
    sampler.stop, sampler.asleep, sampler.room, sampler.piece = [2], False, 99, 8
    sampler.vllm = SimpleNamespace(TokensPrompt=dict, SamplingParams=dict)
    sampler.llm = SimpleNamespace(generate=lambda requests, params, use_tqdm: [SimpleNamespace(outputs=[answer]) for _ in requests])
    for logps, expected in (([-1.0, -2.0], None), ([-1.0, math.nan], NotFinite), ([-1.0, -math.inf], NotFinite), ([-1.0], RuntimeError)):
        answer.logprobs = SimpleNamespace(logprobs=logps)
        if expected:
            with pytest.raises(expected):
                sampler.generate([[5]], 2, 1.0, 9, seed=0)
        else:
            assert [r.logps for r in sampler.generate([[5]], 2, 1.0, 9, seed=0)] == [logps, logps]


def test_a_configuration_in_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    """The engine's shape lies in the shared folder for temporary files, under a name that anybody can compute."""
    monkeypatch.setattr(engine.tempfile, "tempdir", str(tmp_path))
    config = Qwen2Config()
    own = engine.config_folder(config)
    assert engine.config_folder(config) == own  # where vLLM finds again what it compiled
    os.rename(own, tmp_path / "theirs")
    os.symlink(tmp_path / "theirs", own)
    assert engine.config_folder(config) != own
    monkeypatch.setattr(engine.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert engine.config_folder(config) != engine.config_folder(config)
