"""What one GPU has to hold, computed before anything is loaded."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common import _TokenLogps, here_or_in_repository
from plumbing import InputError, distributed


def memory_budget(config, parameters, *, dtype, masters, gradient_checkpointing, micro_batch_tokens, engine,
                  gpus=1):
    """What one GPU has to hold, in GB of 1e9 bytes -> {part: GB}. Computed, not measured.

    config: the model's; parameters: their number; masters: "gpu" or "cpu"; engine: GB that the sampler's
    engine takes while it samples. gpus: over how many weights, gradients, masters and moments are spread, in
    float32; two layers and the embeddings are whole at any time.
    """
    size, layers = getattr(torch, dtype).itemsize, config.num_hidden_layers
    layer = micro_batch_tokens * (10 * config.hidden_size + 4 * config.intermediate_size) * size
    own = 8 if dtype == "float32" or gpus > 1 else 12  # two moments; float32 weights are their own masters
    embeddings = 2 * config.vocab_size * config.hidden_size
    held = parameters * size
    if gpus > 1:
        held = parameters * 4 / gpus + size * (embeddings + 2 * max(0, parameters - embeddings) / layers)
    kept = layers * layer
    if gradient_checkpointing:
        kept = layers * micro_batch_tokens * config.hidden_size * size + layer
    parts = {
        "weights": held,
        "gradients": held,
        "masters and moments": parameters * own / gpus if masters == "gpu" else 0,
        "activations": kept,
        "output head": 12 * 32 * _TokenLogps.TILE + 4 * config.vocab_size * config.hidden_size,
        "engine, while sampling": engine * 1e9,
    }
    return {name: amount / 1e9 for name, amount in parts.items()}


def fit_memory(path, *, masters, engine_memory, total=None, **settings):
    """Say what the GPU will have to hold, and choose where the masters go -> "gpu" or "cpu".

    masters: "auto" takes the GPU if all fits. engine_memory: the engine's share of the GPU. total: its GB
    (none: ask; without a GPU nothing is said). Sampling and training take turns: the engine sleeps during the
    update; gradients and activations are gone while it samples. Raises InputError, with the setting to change
    first, if it cannot fit.
    """
    if total is None and not torch.cuda.is_available():
        return "cpu"
    total = total or torch.cuda.get_device_properties(0).total_memory / 1e9
    config, parameters = shape(path)
    devices = ["gpu"] if distributed.WORLD_SIZE > 1 else ["gpu", "cpu"] if masters == "auto" else [masters]
    for device in devices:
        parts = memory_budget(
            config, parameters, masters=device, engine=engine_memory * total, gpus=distributed.WORLD_SIZE,
            **settings)
        resident = parts["weights"] + parts["masters and moments"]
        sampling = resident + parts["engine, while sampling"]
        training = resident + parts["gradients"] + parts["activations"] + parts["output head"]
        if max(sampling, training) <= 0.95 * total:  # the rest is the allocator's and CUDA's own
            break
    listed = ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items())
    print(f"memory in GB, computed: {listed}; masters on the {device}; training holds {training:.1f}, "
          f"sampling {sampling:.1f} of {total:.1f}")
    if max(sampling, training) > 0.95 * total:
        first = "lower --engine-memory"
        if training - parts["activations"] <= 0.9 * total < training:
            first = "lower --micro-batch-tokens"
        if resident + parts["gradients"] > 0.9 * total:
            first = "take a smaller model: its weights and gradients alone are too large"
            if distributed.WORLD_SIZE > 1:
                first = "take more GPUs: its shards are too large"
            elif device == "gpu":
                first = "set --masters cpu"
        raise InputError(f"--model {path}: training would hold {training:.1f} and sampling {sampling:.1f} GB "
                         f"of the GPU's {total:.1f}; {first}")
    return device


def shape(path):
    """A model's configuration and its number of parameters. Raises InputError."""
    try:
        config = AutoConfig.from_pretrained(here_or_in_repository(path))
    except Exception as problem:
        raise InputError(f"--model {path}: neither a folder with a model nor a model the hub can give "
                         f"({str(problem).splitlines()[0]})") from None
    with torch.device("meta"):  # shapes without memory
        return config, sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
