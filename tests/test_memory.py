"""What a GPU, a host and a disk have to hold, the dry run, and gradient checkpointing."""

import importlib
import json
import os
import re
from argparse import Namespace

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config

import common
import grpo
from common import Rollout, collate, completion_logps
from conftest import ROOT, SCRIPTS, SMALL, rows_of, stopped
from plumbing import InputError, data, dry_run, memory
from plumbing.memory import checkpoint_size, fit_memory, host_budget, memory_budget
from plumbing.settings import parse_settings

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
    parts = memory_budget(QWEN_7B, 7.62e9, masters="gpu", engine=32, reference=True, **SETTINGS)
    assert parts["weights"] == parts["reference model"] == pytest.approx(7.62 * 2)
    assert parts["gradients"] == pytest.approx(7.62 * 4)  # added up in float32
    assert parts["masters and moments"] == pytest.approx(7.62 * 12)
    # 16384 tokens: what enters each of 28 layers, 3584 numbers of 2 bytes; one layer live, about 10 * 3584 + 4 * 18944 numbers a token
    assert parts["activations"] == pytest.approx(16384 * 2 * (28 * 3584 + 10 * 3584 + 4 * 18944) / 1e9)
    # 2^26 logits, twice in float32 and twice in bfloat16, and the gradient of the head
    assert parts["output head"] == pytest.approx((12 * 2**26 + 2 * 152064 * 3584) / 1e9)
    assert parts["engine, while sampling"] == 32
    host = memory_budget(QWEN_7B, 7.62e9, masters="cpu", engine=32, **SETTINGS)
    assert host["masters and moments"] == host["reference model"] == 0
    whole = memory_budget(QWEN_7B, 7.62e9, masters="gpu", engine=32, **SETTINGS | {"dtype": "float32", "gradient_checkpointing": False})
    assert whole["weights"] + whole["gradients"] + whole["masters and moments"] == pytest.approx(7.62 * 16)  # float32 weights are their own masters
    assert whole["activations"] > 10 * parts["activations"]


def test_host_and_disk_of_a_7b_model_by_hand():
    """Masters on the host: 12 bytes a parameter, and copies of the largest weight in float32 and bfloat16. Eight ranks read the model each."""
    one = host_budget(7.62e9, dtype="bfloat16", masters="cpu", largest=152064 * 3584, responses=0.5)
    assert one == pytest.approx({"processes": 8, "masters and moments": 91.44 + 3.27, "weights, while loading": 15.24, "responses": 0.5}, rel=1e-3)
    eight = host_budget(7.62e9, dtype="bfloat16", masters="gpu", ranks=8, responses=0.5)
    assert eight == pytest.approx({"processes": 64, "masters and moments": 0, "weights, while loading": 121.92, "responses": 4})
    assert checkpoint_size(7.62e9, "bfloat16") == pytest.approx(7.62 * 14) and checkpoint_size(1e9, "float32") == 16


def planned(tmp_path, gpu, gpus=1, **changed):
    """fit_memory for a 7B model and the settings of grpo.py --model, with some changed."""
    QWEN_7B.save_pretrained(tmp_path)
    args = parse_settings("", grpo.SETTINGS, ["--model", str(tmp_path)])
    return fit_memory(Namespace(**vars(args) | changed), tmp_path, gpu, gpus)


@pytest.mark.parametrize(
    "gpu, changed, outcome",
    [
        (300, {}, ("gpu", 0.5)),
        (85, {}, ("cpu", 0.65)),
        (85, {"engine_memory": 0.3}, ("cpu", 0.3)),
        (85, {"beta": 0.1}, ("cpu", 0.5)),
        (85, {"masters": "gpu"}, "set --masters cpu"),
        (24, {}, "take a smaller model: its weights and gradients alone are too large"),
        (85, {"micro_batch_tokens": 500_000}, "lower --micro-batch-tokens"),
        (85, {"engine_memory": 0.9}, "lower --engine-memory"),
        (85, {"engine_memory": 0.2}, "room for 0 tokens, a response may have 3,000; raise --engine-memory"),
    ],
)
def test_what_is_chosen_and_what_to_change_first(tmp_path, capsys, gpu, changed, outcome):
    if isinstance(outcome, tuple):
        assert planned(tmp_path, gpu, **changed) == outcome
        assert f"masters on the {outcome[0]}" in capsys.readouterr().out
    else:
        with pytest.raises(InputError, match=outcome):
            planned(tmp_path, gpu, **changed)


def test_what_host_and_disk_cannot_hold_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    """A GPU of 85 GB in a host of 64 GB, and a checkpoint of 107 GB on a disk with room for two: three are there for a moment."""
    QWEN_7B.save_pretrained(tmp_path / "model")
    args = parse_settings("", grpo.SETTINGS, ["--model", str(tmp_path / "model")])
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory.torch.cuda, "get_device_properties", lambda device: Namespace(total_memory=85e9))
    monkeypatch.setattr(memory, "which_sampler", lambda name: "vllm")
    monkeypatch.setattr(memory, "host_memory", lambda: 64.0)
    with pytest.raises(InputError, match="the host would hold 103.1 GB .* of its 64.0; take a smaller model or a larger machine"):
        fit_memory(args, tmp_path / "run")
    monkeypatch.setattr(memory, "host_memory", lambda: 128.0)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: Namespace(free=250e9))
    with pytest.raises(InputError, match="checkpoints of 106.6 GB need 319.9 GB of disk, 250.0 are free; make room, or name"):
        fit_memory(args, tmp_path / "run")
    for step in (20, 40):  # a run that goes on has two of them
        (tmp_path / "run" / f"checkpoint-{step:06d}").mkdir(parents=True)
    assert fit_memory(args, tmp_path / "run") == ("cpu", 0.65)


def test_a_container_is_given_less_than_the_machine_has(tmp_path, monkeypatch):
    assert 0 < memory.host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "Path", lambda file: limit)
    for text, expected in (("1000000000", 1.0), ("max", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)):
        limit.write_text(text)
        assert memory.host_memory() == expected


def test_a_model_that_is_not_there_is_one_line():
    args = parse_settings("", grpo.SETTINGS, ["--model", "./nowhere"])
    for gpu in (85, None):
        with pytest.raises(InputError, match="--model ./nowhere: neither a folder with a model nor"):
            fit_memory(args, gpu=gpu)


@pytest.mark.parametrize("changed", [
    {"model_type": "t5"}, {"model_type": "vit"}, {"model_type": "whisper"}, {"hidden_act": "nope"}, {"vocab_size": -5},
    {"rope_parameters": {"rope_type": "nope"}}])  # fmt: skip
def test_a_model_of_another_kind_is_one_line(tmp_path, changed):
    config = json.loads((ROOT / "tiny/model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(InputError, match="neither a folder with a model nor a model the hub can give .[A-Z][A-Za-z]+Error: "):
        memory.shape(str(tmp_path))


@pytest.mark.parametrize("work", [
    lambda: memory.shape("some/model"), lambda: data.hub_rows("some/set"),
    lambda: dry_run.read_data(parse_settings("", grpo.SETTINGS, ["--model", "some/model"]), None)])  # fmt: skip
def test_an_error_without_a_message_is_one_line(work, monkeypatch):
    """Libraries raise such things."""
    def raising(*given, **settings):
        raise AssertionError

    for owner, name in ((memory.AutoConfig, "from_pretrained"), (dry_run.AutoTokenizer, "from_pretrained"), (data.datasets, "load_dataset")):
        monkeypatch.setattr(owner, name, raising)
    with pytest.raises(InputError, match=r"\(AssertionError\)$"):
        work()


def test_without_a_gpu_nothing_is_said(capsys):
    if not torch.cuda.is_available():
        assert fit_memory(parse_settings("", grpo.SETTINGS, []))[0] == "cpu" and capsys.readouterr().out == ""


def test_budget_of_eight_gpus_by_hand():
    """7.62 B parameters, 1.09 B of them embeddings: shards of 3.8 GB, and the embeddings and two of 28 layers whole in bfloat16."""
    parts = memory_budget(QWEN_7B, 7.62e9, dtype="bfloat16", masters="gpu", gradient_checkpointing=True, micro_batch_tokens=16384, engine=32, gpus=8)
    embeddings = 2 * 152064 * 3584
    whole = 2 * (embeddings + 2 * (7.62e9 - embeddings) / 28)
    assert parts["weights"] == parts["gradients"] == pytest.approx((4 * 7.62e9 / 8 + whole) / 1e9)
    assert parts["masters and moments"] == pytest.approx(8 * 7.62 / 8)
    alone = memory_budget(QWEN_7B, 7.62e9, dtype="bfloat16", masters="gpu", gradient_checkpointing=True, micro_batch_tokens=16384, engine=32)
    assert parts["activations"] == alone["activations"] and alone["weights"] == pytest.approx(2 * 7.62)


# ---- the dry run ----


@pytest.fixture(scope="module")
def model_7b(tmp_path_factory):
    """A folder with a 7B model's configuration and a tokenizer, and no weights."""
    folder = tmp_path_factory.mktemp("model")
    load_tokenizer().save_pretrained(folder)
    Qwen2Config(**QWEN_7B.to_dict() | {"max_position_embeddings": 32768}).save_pretrained(folder)
    return str(folder)


def load_tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / common.TINY_MODEL)


# What is drawn once, of 18 questions; pairing has 18 hard ones besides, and probes two again.
ONCE = {"failure_prefix": [("screening, if every question is of use", "576"), ("trying cuts", "5,184")],
        "prefix_rl": [("screening, if every question is of use", "9,216"), ("collecting traces, at most", "45,000")],
        "pos_neg_pairing": [("probe, and again of the two", "4,864")]}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_of_every_script(script, model_7b, few_test, tmp_path, capsys, monkeypatch):
    """It reads the data, loads no weights, writes nothing and ends with 0."""
    monkeypatch.chdir(tmp_path)
    flags = ["--model", model_7b, "--data", few_test, "--eval-sets", few_test, "--eval-samples", "4", "--eval-every", "20"]
    flags += ["--hard-data", few_test] if script == "pos_neg_pairing" else []
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).main([*flags, "--steps", "100", "--dry-run", "--gpu-memory", "80", "--gpus", "8"])
    printed = capsys.readouterr().out
    assert not end.value.code and list(tmp_path.iterdir()) == []
    assert re.search(rf"dry run of {script}.py: 7.6\d B parameters, a context of 32,768", printed)
    assert "problems: " in printed and "longest prompt" in printed and "hours on 8 GPUs: estimates" in printed
    own = 18 * 4 if script == "prefix_rl" else 0  # 18 held-out questions, and at most 18 unsolved ones with 4 samples whenever there is any
    assert re.search(rf"\| an evaluation in between \| 4 \| {72 + own} \|", printed)  # at 20, 40, 60 and 80
    final = importlib.import_module(script).SETTINGS["final_eval_samples"][0]
    assert re.search(rf"\| the first and the last \| 2 \| {18 * final + own:,} \|", printed)
    assert re.findall(r"^\| (?!sampling of|update of|an eval|the first|all)(\D+) \| 1 \| ([\d,]+) \|", printed, re.M) == ONCE.get(script, [])


def test_the_hours_of_a_dry_run_by_hand(model_7b, few_test, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        grpo.main(["--model", model_7b, "--data", few_test, "--eval-sets", few_test, "--dry-run", "--gpu-memory", "80"])
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", capsys.readouterr().out, re.M))
    times, responses, tokens, each, total = rows["sampling of a step"].split(" | ")
    assert (times, responses, tokens) == ("300", "2,048", "1,843,200")  # 128 questions, 16 responses, 900 tokens
    assert float(each) == pytest.approx(1_843_200 / 15_000 / 3600, abs=1e-3) and float(total) == pytest.approx(300 * 0.0341, rel=0.01)
    update = float(rows["update of a step"].split(" | ")[3])
    assert update == pytest.approx((8 * 7.62e9 * 2048 * 930 / 370e12 + 7.62e9 * 1.5e-9) / 3600, rel=0.1)


def test_a_dry_run_refuses_what_cannot_fit(model_7b, few_test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", model_7b, "--data", few_test, "--eval-sets", few_test, "--dry-run"]
    assert "take a smaller model" in stopped(grpo.main, *flags, "--gpu-memory", "24")
    assert "lower --micro-batch-tokens" in stopped(grpo.main, *flags, "--gpu-memory", "80", "--micro-batch-tokens", "400000")
