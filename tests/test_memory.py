"""The memory budget and gradient checkpointing."""


import pytest
import torch
from transformers import Qwen2Config

import common
import grpo
from common import Rollout, collate, completion_logps
from conftest import SMALL, rows_of
from plumbing import InputError
from plumbing.memory import fit_memory, memory_budget

QWEN_7B = Qwen2Config(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                      num_key_value_heads=4, tie_word_embeddings=False)


def test_gradient_checkpointing_changes_no_gradient():
    rollouts = [Rollout([3, 5, 6, 4], [7, 8, 9, 2], [0.0] * 4, True), Rollout([3, 9, 4], [5, 2], [0.0] * 2, True)]
    gradients = []
    for checkpointing in (False, True):
        model, _ = common.load_model(common.TINY_MODEL, gradient_checkpointing=checkpointing)
        model.train(checkpointing)
        assert model.is_gradient_checkpointing == checkpointing
        batch = collate(rollouts)
        completion_logps(model, batch, batch["temperatures"])[0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)


def test_a_run_with_gradient_checkpointing_is_the_same_run(few, tmp_path):
    for flag in ("--gradient-checkpointing", "--no-gradient-checkpointing"):
        grpo.main([*SMALL, *few, "--steps", "2", "--out", str(tmp_path / flag), flag])
    runs = (rows_of(tmp_path / f"--{no}gradient-checkpointing")[1:] for no in ("", "no-"))
    for ours, theirs in zip(*runs, strict=True):
        assert ours["reward"] == theirs["reward"] and ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


# ---- the budget ----

SETTINGS = {"dtype": "bfloat16", "gradient_checkpointing": True, "micro_batch_tokens": 16384}


def test_the_budget_of_a_7b_model_by_hand():
    parts = memory_budget(QWEN_7B, 7.62e9, masters="gpu", engine=32, **SETTINGS)
    assert parts["weights"] == parts["gradients"] == pytest.approx(7.62 * 2)
    assert parts["masters and moments"] == pytest.approx(7.62 * 12)
    # 16384 tokens: what enters each of 28 layers, 3584 numbers of 2 bytes; one layer live, about 10 * 3584 + 4 * 18944 numbers a token
    assert parts["activations"] == pytest.approx(16384 * 2 * (28 * 3584 + 10 * 3584 + 4 * 18944) / 1e9)
    # 2^26 logits, twice in float32 and twice in bfloat16, and the float32 gradient of the head
    assert parts["output head"] == pytest.approx((12 * 2**26 + 4 * 152064 * 3584) / 1e9)
    assert parts["engine, while sampling"] == 32
    host = memory_budget(QWEN_7B, 7.62e9, masters="cpu", engine=32, **SETTINGS)
    assert host["masters and moments"] == 0
    whole = memory_budget(QWEN_7B, 7.62e9, masters="gpu", engine=32, **SETTINGS | {"dtype": "float32", "gradient_checkpointing": False})
    assert whole["weights"] + whole["gradients"] + whole["masters and moments"] == pytest.approx(7.62 * 16)  # float32 weights are their own masters
    assert whole["activations"] > 10 * parts["activations"]


@pytest.mark.parametrize(
    "total, settings, outcome",
    [
        (300, {}, "gpu"),
        (80, {}, "cpu"),
        (80, {"masters": "gpu"}, "set --masters cpu"),
        (24, {}, "take a smaller model: its weights and gradients alone are too large"),
        (80, {"micro_batch_tokens": 500_000}, "lower --micro-batch-tokens"),
        (80, {"engine_memory": 0.9}, "lower --engine-memory"),
    ],
)
def test_where_the_masters_go_and_what_to_change_first(tmp_path, capsys, total, settings, outcome):
    QWEN_7B.save_pretrained(tmp_path)
    settings = {"masters": "auto", "engine_memory": 0.4} | SETTINGS | settings
    if outcome in ("gpu", "cpu"):
        assert fit_memory(str(tmp_path), total=total, **settings) == outcome
        assert f"masters on the {outcome}" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=outcome):
            fit_memory(str(tmp_path), total=total, **settings)


def test_a_model_that_is_not_there_is_one_line_on_a_gpu_too():
    with pytest.raises(InputError, match="--model ./nowhere: neither a folder with a model nor"):
        fit_memory("./nowhere", masters="auto", engine_memory=0.4, total=80, **SETTINGS)


def test_without_a_gpu_nothing_is_said(capsys):
    if not torch.cuda.is_available():
        assert fit_memory("nowhere", masters="auto", engine_memory=0.4, **SETTINGS) == "cpu" and capsys.readouterr().out == ""


def test_budget_of_eight_gpus_by_hand():
    """7.62 B parameters, 1.09 B of them embeddings: shards of 3.8 GB, and the embeddings and two of 28 layers whole in bfloat16."""
    parts = memory_budget(QWEN_7B, 7.62e9, dtype="bfloat16", masters="gpu", gradient_checkpointing=True, micro_batch_tokens=16384, engine=32, gpus=8)
    embeddings = 2 * 152064 * 3584
    whole = 2 * (embeddings + 2 * (7.62e9 - embeddings) / 28)
    assert parts["weights"] == parts["gradients"] == pytest.approx((4 * 7.62e9 / 8 + whole) / 1e9)
    assert parts["masters and moments"] == pytest.approx(8 * 7.62 / 8)
    alone = memory_budget(QWEN_7B, 7.62e9, dtype="bfloat16", masters="gpu", gradient_checkpointing=True, micro_batch_tokens=16384, engine=32)
    assert parts["activations"] == alone["activations"] and alone["weights"] == pytest.approx(2 * 7.62)
