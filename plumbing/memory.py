"""What GPU, host and disk have to hold, computed before anything is loaded."""

import itertools
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common import _TokenLogps, here_or_in_repository, which_sampler
from plumbing import InputError, distributed, first_line

SHARES = (0.65, 0.5, 0.4)  # of the GPU, tried for the engine; with less, few responses are sampled at a time
PROCESS = 8.0  # GB of host memory of a rank without its tensors: torch, CUDA, vLLM, verifiers; estimate
ENGINE = 3.0  # GB an engine takes beside weights, keys and values: 8,192 tokens of a first pass; estimate


def memory_budget(config, parameters, *, dtype, masters, gradient_checkpointing, micro_batch_tokens, engine,
                  reference=False, gpus=1):
    """What one GPU has to hold, in GB of 1e9 bytes -> {part: GB}. Computed, not measured.

    config: the model's; parameters: their number; masters: "gpu" or "cpu"; engine: GB that the sampler's
    engine takes while it samples; reference: whether there is a second model for a KL term. gpus: over how
    many weights, gradients, masters and moments are spread, in float32; two layers and the embeddings are
    whole at any time. Gradients are float32 everywhere.
    """
    size, layers = getattr(torch, dtype).itemsize, config.num_hidden_layers
    layer = micro_batch_tokens * (10 * config.hidden_size + 4 * config.intermediate_size) * size
    own = 8 if dtype == "float32" or gpus > 1 else 12  # two moments; float32 weights are their own masters
    embeddings = 2 * config.vocab_size * config.hidden_size
    whole = size * (embeddings + 2 * max(0, parameters - embeddings) / layers) if gpus > 1 else 0
    held = parameters * (4 if gpus > 1 else size) / gpus + whole
    kept = layers * layer
    if gradient_checkpointing:
        kept = layers * micro_batch_tokens * config.hidden_size * size + layer
    parts = {
        "weights": held,
        "reference model": held if reference else 0,
        "gradients": 4 * parameters / gpus + whole,
        "masters and moments": parameters * own / gpus if masters == "gpu" else 0,
        "activations": kept,
        "output head": 12 * 32 * _TokenLogps.TILE + size * config.vocab_size * config.hidden_size,
        "engine, while sampling": engine * 1e9,
    }
    return {name: amount / 1e9 for name, amount in parts.items()}


def host_budget(parameters, *, dtype, masters, largest=0, ranks=1, responses=0.0):
    """What the host has to hold beside a GPU, in GB -> {part: GB}. Computed, not measured.

    masters: "gpu" or "cpu"; largest: numbers in the largest weight, through copies of which they are updated;
    ranks: on this host; responses: GB of what is sampled for one step.
    """
    size = getattr(torch, dtype).itemsize
    weights = parameters * size / 1e9
    return {
        "processes": PROCESS * ranks,
        "masters and moments": (12 * parameters + 6 * largest) / 1e9 if masters == "cpu" else 0.0,
        "weights, while loading": weights * ranks,  # each rank reads the whole model
        "responses": responses * ranks,
    }


def checkpoint_size(parameters, dtype):
    """GB of one checkpoint: weights, float32 masters and two moments."""
    return parameters * (getattr(torch, dtype).itemsize + 12) / 1e9


def fit_memory(args, out=".", gpu=None, gpus=None):
    """Say what GPU, host and disk will hold, and choose what is left to choose -> masters, engine_memory.

    out: the run's folder. gpu: GB of a GPU to plan for, gpus: their number (none: what is here; without a GPU
    nothing is said). Masters go to the GPU if all fits. Sampling and training take turns: the engine sleeps
    during the update; gradients and activations are gone while it samples. Raises InputError, with the
    setting to change first, if it cannot fit.
    """
    planned, gpus = gpu is not None, gpus or distributed.WORLD_SIZE
    config, parameters = shape(args.model, args.trust_remote_code)
    if not planned and torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory / 1e9
    masters, share = "cpu", args.engine_memory or SHARES[0]
    if gpu:
        masters, share = fit_gpu(args, config, parameters, gpu, gpus)
    tokens = args.prompts_per_step * args.group_size * args.max_tokens
    ranks = gpus if planned else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    host = host_budget(parameters, dtype=args.dtype, masters=masters, ranks=ranks, responses=72e-9 * tokens,
                       largest=config.vocab_size * config.hidden_size)
    if not gpu:  # the model trains in the host's memory; what it keeps for the backward pass is not counted
        host = {"processes": 2.0, "weights, gradients, masters and moments": 16e-9 * parameters}
    loading = host.get("weights, while loading", 0)
    needed = max(sum(host.values()) - loading, host["processes"] + loading)
    size, free = checkpoint_size(parameters, args.dtype), shutil.disk_usage(existing(out)).free / 1e9
    there = len(list(Path(out).glob("checkpoint-??????")))
    saves = -(-args.steps // args.save_every)  # two are kept, and a third is written before one goes
    room = size * (min(3, there + saves) - min(3, there))
    if gpu:
        here = ("", "") if planned else (f" of {host_memory():.1f}", f" of {free:.0f} free")
        print(f"host memory in GB, computed: {listed(host)}; at most {needed:.1f} at a time{here[0]}")
        print(f"disk in GB, computed: {room:.0f}{here[1]}, for checkpoints of {size:.1f}")
    if not planned and needed > 0.95 * host_memory():
        first = "set --masters auto" if args.masters == "cpu" else "take a smaller model or a larger machine"
        raise InputError(f"--model {args.model}: the host would hold {needed:.1f} GB ({listed(host)}) of its "
                         f"{host_memory():.1f}; {first}")
    if not planned and room > free:
        raise InputError(f"--out {out}: checkpoints of {size:.1f} GB need {room:.1f} GB of disk, {free:.1f} "
                         "are free; make room, or name a folder on another disk with --out")
    return masters, share


def fit_gpu(args, config, parameters, total, gpus):
    """As fit_memory, for a GPU of so many GB."""
    names = ("dtype", "gradient_checkpointing", "micro_batch_tokens")
    settings = {name: getattr(args, name) for name in names} | {"reference": bool(args.beta), "gpus": gpus}
    elsewhere = not torch.cuda.is_available()  # planned for a machine that has vLLM
    with_engine = args.sampler != "transformers" and (elsewhere or which_sampler(args.sampler) == "vllm")
    devices = ["gpu"] if gpus > 1 else ["gpu", "cpu"] if args.masters == "auto" else [args.masters]
    shares = [args.engine_memory] if args.engine_memory else SHARES
    for device, share in itertools.product(devices, shares):
        engine = share * total * with_engine
        parts = memory_budget(config, parameters, masters=device, engine=engine, **settings)
        resident = parts["weights"] + parts["reference model"] + parts["masters and moments"]
        sampling = resident + parts["engine, while sampling"]
        training = resident + parts["gradients"] + parts["activations"] + parts["output head"]
        limit = 0.95 if share == shares[-1] else 0.9  # the rest is the allocator's and CUDA's own
        if max(sampling, training) <= limit * total:
            break
    print(f"GPU memory in GB, computed: {listed(parts)}; masters on the {device}; training holds "
          f"{training:.1f}, sampling {sampling:.1f} of {total:.1f}")
    if max(sampling, training) > 0.95 * total:
        first = "lower --engine-memory"
        if training - parts["activations"] <= 0.9 * total < training:
            first = "lower --micro-batch-tokens"
        if resident + parts["gradients"] > 0.9 * total:
            first = "take a smaller model: its weights and gradients alone are too large"
            if gpus > 1:
                first = "take more GPUs: its shards are too large"
            elif device == "gpu":
                first = "set --masters cpu"
        raise InputError(f"--model {args.model}: training would hold {training:.1f} and sampling "
                         f"{sampling:.1f} GB of the GPU's {total:.1f}; {first}")
    if with_engine:
        room = engine_room(config, parameters, share * total, args)
        if room < args.max_tokens:
            raise InputError(
                f"--model {args.model}: in {share:g} of {total:.1f} GB the engine has room for "
                f"{max(0, room):,} tokens, a response may have {args.max_tokens:,}; raise --engine-memory")
        print(f"the engine has room for {room:,} tokens of keys and values beside its weights")
    return device, share


def engine_room(config, parameters, engine, args):
    """Tokens whose keys and values an engine of so many GB holds, over all GPUs that share it."""
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = getattr(torch, args.dtype).itemsize
    token = 2 * config.num_hidden_layers * heads * head * size
    return int((args.tensor_parallel * (engine - ENGINE) - parameters * size / 1e9) * 1e9 / token)


def listed(parts):
    """Names and GB in one line; what is nothing is left out."""
    return ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items() if amount)


def host_memory():
    """GB of memory that this machine has, or this container may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(file).read_text().strip() if Path(file).exists() else ""
        total = min(total, int(limit)) if limit.isdigit() else total
    return total / 1e9


def existing(folder):
    """The folder, or the nearest one above it that is there."""
    folder = Path(folder).absolute()
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def shape(path, trust_remote_code=False):
    """A model's configuration and its number of parameters. Raises InputError."""
    trust = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(here_or_in_repository(path), **trust)
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config, **trust)
    except Exception as problem:  # also of a model that is no causal language model, or has odd settings
        raise InputError(f"--model {path}: neither a folder with a model nor a model the hub can give "
                         f"({first_line(problem)})") from None
    return config, sum(weight.numel() for weight in model.parameters())
