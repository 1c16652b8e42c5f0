"""Plumbing shared by the six scripts: everything that is not a decision of reinforcement learning.

Read it once; no method needs it reopened. In order: settings and the run folder, model and optimizer, log-probabilities, advantages and
loss, evaluation, what the user sees. Problems are loaded in problems.py, responses drawn in sampler.py and checked in verifier.py.

Letters in tensor shapes:  B sequences  G samples of one question  L tokens of a padded row  N scored tokens  D hidden size  V vocabulary
"""

import argparse
import atexit
import dataclasses
import hashlib
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

import ranks
from curves import plot_curves, read_metrics
from verifier import verify

ROOT = Path(__file__).resolve().parent
TINY_MODEL = "tiny/model"  # the embedded model: what a script trains when it is given no --model
POSITIVE = ("prompts_per_step", "group_size", "temperature", "max_tokens", "updates_per_batch", "eval_every", "eval_samples", "save_every",
            "micro_batch_tokens", "sample_rows")  # numbers that may not be 0; none may be negative
TIMED = ("sync", "sample", "verify", "train")  # the phases of a step
CHANGEABLE = ("steps", "save_every", "micro_batch_tokens", "resume")  # settings that --resume may change
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


class InputError(SystemExit):
    """Something the user can put right. Ends a script with this one line and exit status 1, without a traceback."""

    def __init__(self, message):
        super().__init__("error: " + " ".join(str(message).split()))


# ---- settings and the run folder -----------------------------------------------------------------------------------------


def parse_settings(doc, settings, argv=None):
    """Turn a script's two-column table into command-line flags.

    settings: {name: (value with --model, value without, help)}, with the permitted values in a fourth place if there are few; a name
    `group_size` becomes the flag --group-size. Which column supplies the defaults depends on whether --model is given. With --resume
    DIR the settings come from DIR/args.json, and a flag that contradicts them is refused. Raises InputError.
    """
    argv = [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), a) for a in (sys.argv[1:] if argv is None else argv)]
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=keep_lines, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", help="model to train, a hub id or a local folder (none: the embedded model and the tiny settings)")
    parser.add_argument("--out", help="run folder, new or empty (none: runs/SCRIPT-MODEL, numbered if taken)")
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder from its last checkpoint")
    for name, (full, tiny, text, *choices) in settings.items():
        how = {bool: {"action": argparse.BooleanOptionalAction}, list: {"nargs": "*"}}.get(type(full), {"type": type(full)})
        how |= {"choices": choices[0]} if choices else {}
        parser.add_argument("--" + name.replace("_", "-"), help=f"{text} [{full} | tiny: {tiny}]".replace("%", "%%"), **how)
    given = vars(parser.parse_args(argv))
    for name, value in given.items():
        if isinstance(value, int | float) and not (value > 0 or value == 0 and name not in POSITIVE):
            raise InputError(f"--{name.replace('_', '-')} {value}: must be {'above 0' if name in POSITIVE else '0 or more'}")
    defaults = {"model": TINY_MODEL, "out": None, "resume": None}
    if "resume" in given:
        file = Path(given["resume"]) / "args.json"
        if not file.exists():
            raise InputError(f"--resume {given['resume']}: no run here ({file} is missing); give the folder of an earlier run")
        old = json.loads(file.read_text())["settings"]
        for name, value in given.items():
            if name not in CHANGEABLE and old.get(name) != value:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"--resume {given['resume']}: that run had {flag} {old.get(name)}, not {value}; drop it or start a new run")
        given = old | given
    column = 1 if given.get("model", TINY_MODEL) == TINY_MODEL else 0
    return argparse.Namespace(**defaults | {name: row[column] for name, row in settings.items()} | given)


def derive_seed(*parts):
    """A 63-bit seed from any printable parts.

    Each use of randomness has its own, made from (seed, purpose, step): nothing has to be replayed to resume, and no use disturbs another.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class Run:
    """One run's folder: args.json, metrics.jsonl, checkpoints and curves.png."""

    def __init__(self, args, script, panels=None):
        """panels: what curves.png is to show besides the metrics that all scripts have; see curves.py."""
        ranks.start()
        self.args, self.started = args, time.time()
        self.out = Path(args.resume or ranks.everyones(str(self.new_folder(script)) if ranks.FIRST else "")[0])
        atexit.register(self.tidy)
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, self.stop)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            args.out = str(self.out)
            write_aside(self.out / "args.json", json.dumps({"settings": vars(args), "panels": panels or {}, "environment": environment()}, indent=2))
        except OSError as problem:
            raise InputError(f"--out {self.out}: cannot write there ({problem})") from None
        ranks.everyones(None)  # the folder is there
        saved = sorted(self.out.glob("checkpoint-??????"))
        self.checkpoint = saved[-1] if saved else None  # the folder to start from; None: the beginning
        self.metrics_file = self.out / "metrics.jsonl"
        reached = int(self.checkpoint.name[-6:]) if saved else -1
        self.done = max(reached, 0)  # steps whose work is kept
        self.rows = [row for row in read_metrics(self.metrics_file) if row["step"] <= reached]  # later rows will be made again
        if self.metrics_file.exists():
            write_aside(self.metrics_file, "".join(json.dumps(row) + "\n" for row in self.rows))
        print(f"run folder: {self.out}" + (f"   (resumed after step {self.done})" if args.resume else ""))

    def new_folder(self, script):
        name = f"{Path(script).stem}-{'tiny' if self.args.model == TINY_MODEL else Path(self.args.model).name}"
        taken = (Path("runs") / (name + (f"-{i}" if i > 1 else "")) for i in range(1, 10**6))
        out = Path(self.args.out) if self.args.out else next(path for path in taken if not path.exists())
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out}: exists and is not empty; continue the run in it with --resume {out}, or name another")
        return out

    def stop(self, signal_number, frame):
        """Ctrl-C, or a scheduler's request to end: leave by the ordinary way out, which ends engine and verifier."""
        raise SystemExit(f"stopped by {signal.Signals(signal_number).name}; continue with --resume {self.out}" if ranks.FIRST else 1)

    def tidy(self):
        """A start that failed before there was anything to keep leaves no folder behind."""
        if ranks.FIRST and sorted(path.name for path in self.out.glob("*")) == ["args.json"]:
            shutil.rmtree(self.out)

    def restore(self, optimizer, **stateful):
        """Load what save() wrote. stateful: objects with state_dict() and load_state_dict(). Returns the number of steps done."""
        if self.checkpoint is None:
            return 0
        state = torch.load(self.checkpoint / "trainer_state.pt", weights_only=False)
        optimizer.load_state_dict(state["optimizer"])
        for name, thing in stateful.items():
            thing.load_state_dict(state[name])
        torch.set_rng_state(state["torch_rng"])
        random.setstate(state["python_rng"])
        return state["step"]

    def save(self, step, model, tokenizer, optimizer, **stateful):
        """Write a checkpoint aside and rename it, so that a killed run leaves whole ones only. The last two are kept. Raises InputError."""
        state = {name: thing.state_dict() for name, thing in stateful.items()}
        state |= {"step": step, "optimizer": optimizer.state_dict(), "torch_rng": torch.get_rng_state(), "python_rng": random.getstate()}
        weights = {name: weight.to(model.compute_dtype) for name, weight in ranks.whole(model.state_dict()).items()} if ranks.WORLD > 1 else None
        if not ranks.FIRST:
            return
        final = self.out / f"checkpoint-{step:06d}"
        aside = final.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            model.save_pretrained(aside, state_dict=weights)
            tokenizer.save_pretrained(aside)
            torch.save(state, aside / "trainer_state.pt")
            aside.rename(final)
        except Exception as problem:  # OSError, or whatever safetensors and torch.save make of one
            shutil.rmtree(aside, ignore_errors=True)
            raise InputError(f"step {step} could not be saved ({problem}); make room and continue with --resume {self.out}") from None
        for old in sorted(self.out.glob("checkpoint-??????"))[:-2]:
            shutil.rmtree(old)

    def last(self, name):
        """The latest value of a metric; 0 if there is none."""
        return next((row[name] for row in reversed(self.rows) if name in row), 0)

    def say(self, text):
        tqdm.write(text)

    def log(self, step, metrics):
        """Append one row to metrics.jsonl and show what matters of it on the progress bar."""
        self.rows.append({"step": step, **metrics})
        try:
            append(self.metrics_file, self.rows[-1:])
        except OSError as problem:
            raise InputError(f"step {step} could not be logged ({problem}); make room and continue with --resume {self.out}") from None
        for name in (m for m in metrics if re.fullmatch(r"eval/[^/]+/avg@\d+", m)):
            self.say(f"step {step:4}  {name} {metrics[name]:.3f} ± {metrics[name + '_stderr']:.3f}")
        if "reward" in metrics:
            shown = {"reward": "reward", "silent": "frac_reward_zero_std", "length": "completions/mean_length"}
            words = [f"{word} {metrics[name]:.2f}".removesuffix(".00") for word, name in shown.items()]
            words += [f"{phase} {metrics['time/' + phase]:.1f}s" for phase in TIMED]
            words += [f"{verb} {metrics[f'time/{verb}_tokens_per_s'] / 1000:.1f}k tok/s" for verb in ("sampled", "trained")]
            self.bar.set_postfix_str(" ".join(words))

    def progress(self, first, last):
        """A progress bar over steps first..last."""
        self.bar = tqdm(range(first, last + 1), initial=first - 1, total=last, unit="step", dynamic_ncols=True, smoothing=0.1,
                        disable=not ranks.FIRST)
        return self.bar

    def finish(self):
        """Draw the curves and print what the run did to each evaluation set."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        plot_curves([self.out])
        print(before_and_after(self.rows))
        print(f"{time.time() - self.started:.0f} s; metrics, curves.png and checkpoints are in {self.out}")


def write_aside(path, text):
    """Replace a file in one move, so that a kill leaves the old one or the new one."""
    if not ranks.FIRST:
        return
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    os.replace(aside, path)


def append(path, rows):
    """Add rows to a .jsonl file."""
    if ranks.FIRST:
        with open(path, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def environment():
    """Versions, machine and commit, for args.json."""
    try:
        commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        commit = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {os.cpu_count()} cores"
    return {"commit": commit or None, "python": platform.python_version(), "device": device, "ranks": ranks.WORLD, "command": sys.argv,
            **{name: version(name) for name in ("torch", "transformers", "math-verify", "datasets")}}


# ---- model and optimizer -------------------------------------------------------------------------------------------------


def here_or_in_repository(path):
    """tiny/... is found from any working directory."""
    return path if Path(path).exists() or not (ROOT / path).exists() else ROOT / path


def no_model(path, problem):
    return InputError(f"--model {path}: neither a folder with a model nor a model the hub can give ({str(problem).splitlines()[0]})")


def load_model(path, dtype="float32", gradient_checkpointing=False):
    """A causal language model and its tokenizer, from a hub id or a folder -> (model, tokenizer). dtype: of the weights.

    gradient_checkpointing: in train() mode, keep only what enters each layer and compute the rest again. Raises InputError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(here_or_in_repository(path))
        model = AutoModelForCausalLM.from_pretrained(here_or_in_repository(path), dtype=getattr(torch, dtype))
    except Exception as problem:  # the hub client, safetensors and tokenizers each raise their own kinds
        raise no_model(path, problem) from None
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.eval()  # dropout would make the sampler and the trainer two different models
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.compute_dtype = model.dtype
    if ranks.WORLD > 1:
        ranks.shard(model, model.dtype, _score)
    return model, tokenizer


def memory_budget(config, parameters, *, dtype, masters, gradient_checkpointing, micro_batch_tokens, engine, gpus=1):
    """What one GPU has to hold, in GB of 1e9 bytes -> {part: GB}. Computed, not measured; the activations are an estimate.

    config: the model's; parameters: their number; masters: "gpu" or "cpu"; engine: GB that the sampler's engine takes while it samples.
    gpus: over how many weights, gradients, masters and moments are spread, in float32; two layers and the embeddings are whole at any time.
    """
    size, layers = getattr(torch, dtype).itemsize, config.num_hidden_layers
    layer = micro_batch_tokens * (10 * config.hidden_size + 4 * config.intermediate_size) * size  # what one layer keeps for its backward pass
    own = 8 if dtype == "float32" or gpus > 1 else 12  # float32 weights are their own masters; then there are two moments
    outside = 2 * config.vocab_size * config.hidden_size
    held = parameters * size if gpus == 1 else parameters * 4 / gpus + size * (outside + 2 * max(0, parameters - outside) / layers)
    return {name: amount / 1e9 for name, amount in {
        "weights": held,
        "gradients": held,
        "masters and moments": parameters * own / gpus if masters == "gpu" else 0,
        "activations": layers * micro_batch_tokens * config.hidden_size * size + layer if gradient_checkpointing else layers * layer,
        "output head": 12 * 32 * _TokenLogps.TILE + 4 * config.vocab_size * config.hidden_size,
        "engine, while sampling": engine * 1e9,
    }.items()}


def fit_memory(path, *, masters, engine_memory, total=None, **settings):
    """Say what the GPU will have to hold, before anything is loaded, and choose where the masters go -> "gpu" or "cpu".

    masters: "auto" takes the GPU if all fits. engine_memory: the engine's share of the GPU. total: its GB (none: ask; without a GPU nothing is
    said). Sampling and training take turns: the engine sleeps during the update; gradients and activations are gone while it samples.
    Raises InputError, with the setting to change first, if it cannot fit.
    """
    if total is None and not torch.cuda.is_available():
        return "cpu"
    total = total or torch.cuda.get_device_properties(0).total_memory / 1e9
    try:
        config = AutoConfig.from_pretrained(here_or_in_repository(path))
    except Exception as problem:
        raise no_model(path, problem) from None
    with torch.device("meta"):  # shapes without memory
        parameters = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    for place in ["gpu"] if ranks.WORLD > 1 else ["gpu", "cpu"] if masters == "auto" else [masters]:
        parts = memory_budget(config, parameters, masters=place, engine=engine_memory * total, gpus=ranks.WORLD, **settings)
        resident = parts["weights"] + parts["masters and moments"]
        sampling, training = resident + parts["engine, while sampling"], resident + parts["gradients"] + parts["activations"] + parts["output head"]
        if max(sampling, training) <= 0.95 * total:  # the rest is the allocator's and CUDA's own
            break
    listed = ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items())
    print(f"memory in GB, computed: {listed}; masters on the {place}; training holds {training:.1f}, sampling {sampling:.1f} of {total:.1f}")
    if max(sampling, training) > 0.95 * total:
        first = "lower --micro-batch-tokens" if training - parts["activations"] <= 0.9 * total < training else "lower --engine-memory"
        if resident + parts["gradients"] > 0.9 * total:
            first = "set --masters cpu" if place == "gpu" else "take a smaller model: its weights and gradients alone are too large"
            first = first if ranks.WORLD == 1 else "take more GPUs: its shards are too large"
        raise InputError(f"--model {path}: training would hold {training:.1f} and sampling {sampling:.1f} GB of the GPU's {total:.1f}; {first}")
    return place


def gradient_norm(gradients):
    """Norm of gradients, as backward() leaves them -> a number."""
    return ranks.WORLD * ranks.whole(torch.nn.utils.get_total_norm(gradients)).item()


class MasterAdamW:
    """AdamW that owns float32 copies ("masters") of the weights it updates.

    A bfloat16 weight cannot take a step of 1e-6: 98 of 100 such steps round to nothing. So the model computes in its own precision, the
    optimizer sums the steps up in float32 and hands back what they come to. masters: "gpu", or "cpu" to keep masters and moments, 12 bytes
    a parameter, out of the GPU's memory. Weights that are float32 in that place already are their own masters.
    """

    def __init__(self, model, lr, weight_decay, masters="gpu"):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [weight.detach().to("cpu" if masters == "cpu" else weight.device, torch.float32) for weight in self.weights]
        self.adam = torch.optim.AdamW(self.masters, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)

    def step(self, lr, max_grad_norm):
        """Shorten the gradients to max_grad_norm, update, clear them -> their norm before, as a number."""
        ranks.add_up(self.weights)
        norm = ranks.whole(torch.nn.utils.clip_grad_norm_(self.weights, max_grad_norm)).item()
        for group in self.adam.param_groups:
            group["lr"] = lr
        for weight, master in zip(self.weights, self.masters, strict=True):  # one at a time: only one float32 gradient exists
            if weight.grad is not None:
                master.grad = weight.grad.to(master.device, torch.float32)
                weight.grad = None
                self.adam.step()  # passes over the masters that have no gradient
                master.grad = None
                weight.data.copy_(master)
        return norm

    def state_dict(self):
        return ranks.whole({"adam": self.adam.state_dict(), "masters": self.masters})

    def load_state_dict(self, state):
        for i, moments in state["adam"]["state"].items():
            state["adam"]["state"][i] = {name: ranks.part_of(tensor, self.masters[i]) for name, tensor in moments.items()}
        self.adam.load_state_dict(state["adam"])
        for weight, master, saved in zip(self.weights, self.masters, state["masters"], strict=True):
            master.copy_(ranks.part_of(saved, master))
            weight.data.copy_(master)


# ---- log-probabilities, advantages, loss ---------------------------------------------------------------------------------


class _TokenLogps(torch.autograd.Function):
    """Log-probability and entropy of tokens without ever holding the (N, V) logits: tile by tile, recomputed in the backward pass."""

    ROWS, TILE = 1024, 2**21  # tokens and logits at a time: in float32 8 MB, which stay in a CPU's cache; 32 times that on a GPU

    @staticmethod
    def tiles(hidden, weight, targets, inverse):
        """Slices of the tokens and of the vocabulary, the inputs and logits of both, and each target's column and whether it lies in this tile."""
        rows = min(len(hidden), _TokenLogps.ROWS)
        columns = max(1, _TokenLogps.TILE * (1 if hidden.device.type == "cpu" else 32) // rows)
        exact = hidden.dtype == inverse.dtype
        inputs = hidden * inverse[:, None] if exact else hidden  # bfloat16 would be rounded once more; there the product is scaled
        buffer = hidden.new_empty(rows * columns)  # the same memory for all tiles
        for part in (slice(i, i + rows) for i in range(0, len(hidden), rows)):
            for words in (slice(j, j + columns) for j in range(0, len(weight), columns)):
                shape = len(inputs[part]), len(weight[words])
                logits = torch.mm(inputs[part], weight[words].T, out=buffer[: shape[0] * shape[1]].view(shape))
                column = targets[part] - words.start
                there = (column >= 0) & (column < columns)
                yield (part, words, inputs[part], logits if exact else logits.to(inverse.dtype).mul_(inverse[part, None]),
                       column.clamp(0, shape[1] - 1)[:, None], there)

    @staticmethod
    def forward(ctx, hidden, weight, targets, inverse, with_entropy):
        ctx.set_materialize_grads(False)
        # Over the tiles so far: the largest logit, the sum of exp(z - top) and that of exp(z - top) (z - top); and the target's logit.
        top = torch.full_like(inverse, torch.finfo(inverse.dtype).min)
        sums, moments, chosen = (torch.zeros_like(inverse) for _ in range(3))
        for part, _, _, logits, column, there in _TokenLogps.tiles(hidden, weight, targets, inverse):
            chosen[part] += torch.where(there, logits.gather(1, column)[:, 0], 0)
            highest = torch.maximum(top[part], logits.amax(1))
            shift = top[part] - highest
            logits.sub_(highest[:, None])
            exps = logits.exp() if with_entropy else logits.exp_()
            if with_entropy:
                moments[part] = (moments[part] + sums[part] * shift) * shift.exp() + torch.linalg.vecdot(exps, logits)
            sums[part] = sums[part] * shift.exp() + exps.sum(1)
            top[part] = highest
        log_sums, entropies = top + sums.log(), sums.log() - moments / sums
        ctx.save_for_backward(hidden, weight, targets, inverse, log_sums, entropies)
        return chosen - log_sums, entropies

    @staticmethod
    def backward(ctx, logp_grad, entropy_grad):
        hidden, weight, targets, inverse, log_sums, entropies = ctx.saved_tensors
        logp_grad = torch.zeros_like(inverse) if logp_grad is None else logp_grad
        hidden_grad = torch.zeros_like(hidden, dtype=inverse.dtype)
        weight_grad = torch.zeros_like(weight, dtype=inverse.dtype)  # summed in float32: bfloat16 partial sums would bias training
        for part, words, inputs, logits, column, there in _TokenLogps.tiles(hidden, weight, targets, inverse):
            # d logp(y) / d z_v = [v = y] - p_v        d entropy / d z_v = -p_v (log p_v + entropy)        z = logits / temperature
            log_probs, pull = logits.sub_(log_sums[part, None]), logp_grad[part, None]
            if entropy_grad is not None:
                pull = (log_probs + entropies[part, None]).mul_(entropy_grad[part, None]).add_(pull)
            grad = log_probs.exp_().mul_(-pull).scatter_add_(1, column, torch.where(there, logp_grad[part], 0)[:, None])
            if grad.dtype == inputs.dtype:
                hidden_grad[part].addmm_(grad, weight[words])
                weight_grad[words].addmm_(grad.T, inputs)
            else:
                grad = grad.mul_(inverse[part, None]).to(inputs.dtype)
                hidden_grad[part] += grad @ weight[words]
                weight_grad[words] += grad.T @ inputs
        hidden_grad = hidden_grad * inverse[:, None] if hidden.dtype == inverse.dtype else hidden_grad.to(hidden.dtype)
        return hidden_grad, weight_grad.to(weight.dtype), None, None, None


def token_logps(hidden, weight, targets, temperature=1.0, with_entropy=False):
    """Log-probability of each target under softmax(hidden @ weight.T / temperature) -> (N,), float32 or float64.

    hidden (N, D): last hidden states, each at the position before its target. weight (V, D): the output head. targets (N,): token ids.
    temperature: a number or a tensor (N,), above 0. with_entropy: also return the entropy in nats (N,), differentiable as well.
    """
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    inverse = 1.0 / torch.as_tensor(temperature, device=hidden.device, dtype=kind).expand(len(hidden))
    if len(hidden) == 0:
        empty = (hidden @ weight[:1].T)[:, 0].to(kind)  # gradients of 0 for both
        return (empty, empty) if with_entropy else empty
    logps, entropy = _TokenLogps.apply(hidden, weight, targets, inverse, with_entropy)
    return (logps, entropy) if with_entropy else logps


def micro_batches(rollouts, max_tokens):
    """Cut rollouts into batches of at most max_tokens, padding included (memory only: the gradient does not depend on it).

    Longest first: if memory runs out, it does so at once and not after an hour. With torchrun, only this rank's part of them.
    """
    batches = []
    for rollout in sorted(rollouts, key=lambda r: len(r.prompt_ids) + len(r.completion_ids), reverse=True):
        width = len(batches[-1][0].prompt_ids) + len(batches[-1][0].completion_ids) if batches else 0
        if batches and width * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(rollout)
        else:
            batches.append([rollout])
    return ranks.dealt(batches, [dataclasses.replace(r, prompt_ids=[0, 0], completion_ids=[], logps=[]) for r in rollouts[:1]])  # none scored


def collate(rollouts, device="cpu", padding_side="right"):
    """Pad rollouts into tensors -> dict.

    input_ids, attention_mask, position_ids (B, L); completion_mask, sampling_per_token_logps (B, L-1): column t is about predicting
    token t+1; advantages, temperatures (B,). Masks come from lengths: a padding or end token inside a response is an ordinary token.

    >>> from sampler import Rollout
    >>> batch = collate([Rollout([5, 6, 7], [8, 2], [-0.1, -0.2], True), Rollout([5], [9, 9, 9], [0.0] * 3, False)])
    >>> batch["input_ids"].tolist()               # prompt 5 6 7, response 8 2;    prompt 5, response 9 9 9, one padding token
    [[5, 6, 7, 8, 2], [5, 9, 9, 9, 0]]
    >>> batch["completion_mask"].int().tolist()   # 7 -> 8 and 8 -> 2;             5 -> 9, 9 -> 9 and 9 -> 9
    [[0, 0, 1, 1], [1, 1, 1, 0]]
    """
    sizes = [len(r.prompt_ids) + len(r.completion_ids) for r in rollouts]
    width = max(sizes)
    start = torch.tensor([0 if padding_side == "right" else width - size for size in sizes])[:, None]
    prompt = start + torch.tensor([len(r.prompt_ids) for r in rollouts])[:, None]
    end = start + torch.tensor(sizes)[:, None]
    at = torch.arange(width)[None]  # (1, L)
    input_ids = torch.zeros(len(rollouts), width, dtype=torch.long)
    real = (at >= start) & (at < end)
    input_ids[real] = torch.tensor([token for r in rollouts for token in r.prompt_ids + r.completion_ids])
    completion_mask = ((at >= prompt) & (at < end))[:, 1:]  # the first response token counts: it is predicted at the last prompt token
    sampling_logps = torch.zeros(completion_mask.shape)
    sampling_logps[completion_mask] = torch.tensor([logp for r in rollouts for logp in r.logps])
    batch = {
        "input_ids": input_ids,
        "attention_mask": real.long(),
        "position_ids": (at - start).clamp(min=0),
        "completion_mask": completion_mask,
        "sampling_per_token_logps": sampling_logps,
        "advantages": torch.tensor([r.advantage for r in rollouts]),
        "temperatures": torch.tensor([r.temperature for r in rollouts]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def padded_share(batches):
    """Share of padding among the tokens of collated batches, which the model computes for nothing; 0 without batches."""
    sizes = ranks.total({"all": sum(b["attention_mask"].numel() for b in batches), "real": sum(b["attention_mask"].sum().item() for b in batches)})
    return 1 - sizes["real"] / sizes["all"] if sizes["all"] else 0.0


def completion_logps(model, batch, temperatures):
    """Log-probabilities and entropies of a collated batch's responses -> two tensors (B, L-1), 0 outside the completion mask.

    temperatures (B,): each row's; the logits are divided by it.
    """
    return model.score(batch, temperatures) if ranks.WORLD > 1 else _score(model, batch, temperatures)


def _score(model, batch, temperatures):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state  # (B, L, D)
    mask, head = batch["completion_mask"], model.get_output_embeddings().weight
    heat = temperatures[:, None].expand(mask.shape)[mask]
    scored = token_logps(hidden[:, :-1][mask], head, batch["input_ids"][:, 1:][mask], heat, with_entropy=True)  # two (N,)
    return tuple(torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_scatter(mask, x) for x in scored)


def sampling_gap(batches, step, limit):
    """How far the trainer's log-probabilities are from the sampler's, over the scored tokens of all micro-batches -> dict of metrics, {} without any.

    batches: collated, with old_per_token_logps. The importance sampling ratio is exp(trainer - sampler). Raises InputError if the mean
    absolute difference exceeds limit (nats) or is not a number.
    """
    parts = [(b["old_per_token_logps"] - b["sampling_per_token_logps"])[b["completion_mask"]] for b in batches]
    difference = torch.cat(parts).double()
    sums = ranks.total({"tokens": len(difference), "gap": difference.abs().sum().item(), "ratio": difference.exp().sum().item()})
    most = (difference.abs().max().item(), difference.exp().max().item()) if len(difference) else (0.0, 0.0)
    largest = [max(values) for values in zip(*ranks.everyones(most), strict=True)]
    if not sums["tokens"]:
        return {}
    gap = sums["gap"] / sums["tokens"]
    if not gap <= limit:  # written so that NaN fails as well
        raise InputError(
            f"step {step}: sampler and trainer differ by {gap:.2g} nats on the log-probability of the mean token; --max-logp-gap is {limit:g}. "
            "Likely causes: the sampler did not get the last weights (sync); its cache still holds the old ones' (prefix cache); a tied output head "
            "that was not sent; another temperature in scoring than in sampling. Stopped before the update")
    return {
        "sampling/sampling_logp_difference/mean": gap,
        "sampling/sampling_logp_difference/max": largest[0],
        "sampling/importance_sampling_ratio/mean": sums["ratio"] / sums["tokens"],
        "sampling/importance_sampling_ratio/max": largest[1],
    }


def group_advantages(rewards, scale_by_std=True, eps=1e-4):
    """Rewards (questions, G) -> advantages (questions, G): each reward minus its group's mean, over the group's standard deviation.

    DeepSeekMath (arXiv 2402.03300) section 4.1.2; scale_by_std=False is Dr. GRPO's (arXiv 2503.20783). The standard deviation has the
    divisor G-1. A group whose rewards are all equal gets exactly 0.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale_by_std and rewards.shape[1] > 1:
        centred = centred / (rewards.std(1, keepdim=True) + eps)
    silent = (rewards == rewards[:, :1]).all(1, keepdim=True)
    return centred.masked_fill(silent, 0.0)  # rounding in the mean must not look like a signal


def grpo_loss(per_token_logps, old_per_token_logps, advantages, completion_mask, *, clip_low=0.2, clip_high=0.2, loss_type="token-mean",
              num_tokens=None, num_sequences=None, importance_weights=None, ref_per_token_logps=None, beta=0.0, entropy=None, entropy_coef=0.0):
    """The clipped policy-gradient loss of GRPO -> (loss, statistics).

        ratio = exp(per_token_logps - old_per_token_logps)
        loss  = - mean over tokens of  min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)  + beta * KL - entropy_coef * entropy

    Log-probs, mask and entropy (B, L-1); advantages (B,) or (B, L-1). loss_type "token-mean": every token weighs the same (DAPO, arXiv
    2503.14476, equation 8); "sequence-mean": every sequence does (DeepSeekMath, equation 3). The mean runs over the whole batch:
    num_tokens and num_sequences are the batch's, of which this may be one part; the losses of the parts then add up to the whole.
    importance_weights (B, L-1), without gradient, correct for a sampler whose probabilities are not quite the trainer's: they multiply
    the policy term. KL is the estimator exp(d) - d - 1 with d = ref - policy (DeepSeekMath, equation 4). statistics: sums over this part's tokens.
    """
    mask = completion_mask.to(per_token_logps.dtype)
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    ratio = (per_token_logps - old_per_token_logps).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token_loss = -torch.min(ratio * advantages, clipped * advantages)
    if importance_weights is not None:
        per_token_loss = per_token_loss * importance_weights
    statistics = {
        "clip_ratio/low_mean": ((ratio < 1 - clip_low) & (advantages < 0)) * mask,
        "clip_ratio/high_mean": ((ratio > 1 + clip_high) & (advantages > 0)) * mask,
    }
    if beta:
        difference = ref_per_token_logps - per_token_logps
        statistics["kl"] = (difference.exp() - difference - 1) * mask
        per_token_loss = per_token_loss + beta * statistics["kl"]
    if entropy_coef:
        per_token_loss = per_token_loss - entropy_coef * entropy
    if loss_type == "token-mean":
        loss = (per_token_loss * mask).sum() / (num_tokens or mask.sum())
    elif loss_type == "sequence-mean":
        loss = ((per_token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)).sum() / (num_sequences or len(mask))
    else:
        raise ValueError(f"loss_type {loss_type!r}: must be token-mean or sequence-mean")
    return loss, {name: value.sum().item() for name, value in statistics.items()}


# ---- evaluation ----------------------------------------------------------------------------------------------------------


def pass_at_k(n, c, k):
    """Unbiased estimate of the chance that at least one of k samples is right, from c right ones among n (arXiv 2107.03374, equation 1).

    0 <= c <= n and 1 <= k <= n; raises ValueError otherwise.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def evaluate(sampler, tokenizer, eval_sets, *, n, temperature, max_tokens, seed):
    """avg@n, its standard error over questions, and pass@k for k = 2, 4, ... n, of each set and each `level` in it -> dict of metrics.

    eval_sets: {name: problems}. Prompts and verifier are made as in training; a truncated response scores 0.
    """
    metrics = {}
    for name, problems in eval_sets.items():
        rollouts = sampler.generate([p["prompt_ids"] for p in problems], n, temperature, max_tokens, derive_seed(seed, name))
        score_rollouts(rollouts, [p["answer"] for p in problems for _ in range(n)], tokenizer)
        right = [int(sum(r.reward for r in rollouts[i * n : (i + 1) * n])) for i in range(len(problems))]
        parts = {name: range(len(problems))}
        for level in sorted({p["level"] for p in problems if "level" in p}):
            parts[f"{name}/level {level}"] = [i for i, p in enumerate(problems) if p.get("level") == level]
        for part, members in parts.items():
            rates = torch.tensor([right[i] / n for i in members], dtype=torch.float64)
            metrics[f"eval/{part}/avg@{n}"] = rates.mean().item()
            metrics[f"eval/{part}/avg@{n}_stderr"] = (rates.std(correction=0) / max(1, len(rates) - 1) ** 0.5).item()
            for k in (2**e for e in range(1, n.bit_length()) if 2**e <= n):
                metrics[f"eval/{part}/pass@{k}"] = sum(pass_at_k(n, right[i], k) for i in members) / len(members)
        metrics[f"eval/{name}/mean_length"] = sum(len(r.completion_ids) for r in rollouts) / len(rollouts)
        metrics[f"eval/{name}/clipped_ratio"] = sum(not r.finished for r in rollouts) / len(rollouts)
    return metrics


def score_rollouts(rollouts, golds, tokenizer, counts=None):
    """Set each rollout's reward: 1 if it ended by itself with the right answer in its last box, else 0."""
    found = Counter()

    def check(part):
        texts = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) if r.finished else "" for r, _ in part]
        return verify(texts, [gold for _, gold in part], found)

    for rollout, reward in zip(rollouts, ranks.shared(list(zip(rollouts, golds, strict=True)), check), strict=True):
        rollout.reward = reward
    if counts is not None:
        counts.update(ranks.total(found))


def before_and_after(rows):
    """The first and the last evaluation side by side, as text."""
    rows = [row for row in rows if any(name.startswith("eval/") for name in row)]
    if not rows:
        return "no evaluation was made"
    first, last = rows[0], rows[-1]
    averages = [name for name in last if re.search(r"/avg@\d+$", name)]
    width = max(len(name) for name in averages) - 5
    lines = [f"{'':{width}}  {'before':>16}{'after step ' + str(last['step']):>20}{'pass@k before':>18}{'after':>8}"]
    for name in averages:
        part, n = name.removeprefix("eval/").rsplit("/avg@", 1)
        best = max((m for m in last if m.startswith(f"eval/{part}/pass@")), key=lambda m: int(m.rsplit("@")[1]), default=name)
        scores = [f"{100 * row[name]:.1f} ± {100 * row[name + '_stderr']:.1f}" for row in (first, last)]
        passed = f"{100 * first[best]:>18.1f}{100 * last[best]:>8.1f}  ({best.rsplit('/')[-1]})"
        lines.append(f"{part + ' avg@' + n:{width}}  {scores[0]:>16}{scores[1]:>20}{passed}")
    return "\n".join(lines)


# ---- what the user sees --------------------------------------------------------------------------------------------------


def train_arms(main, argv, run, arms, *flags):
    """Run a script again for each of the other arms, in folders inside this run's, and draw all their curves in one figure. flags: for them all."""
    for arm in arms:
        print(f"\narm {arm}:")
        main([*(sys.argv[1:] if argv is None else argv), "--arm", arm, "--compare", "--out", str(run.out / arm), *flags])
        plot_curves([run.out, *(run.out / other for other in arms if (run.out / other).exists())])


def show_roles(tokenizer, rollout, parts):
    """One rollout as text, part by part, with what is trained on. parts: [(name, number of tokens)] that make up its prompt_ids."""
    lines, at = ["one sample, and which of its tokens are trained on:"], 0
    for name, size in [*parts, ("response", len(rollout.completion_ids))]:
        ids = (rollout.prompt_ids + rollout.completion_ids)[at : at + size]
        lines.append(f"  {name:9} {size:4} tokens  {'trained on' if name == 'response' else 'not trained'}  {tokenizer.decode(ids)!r}")
        at += size
    return "\n".join(lines)


def show_group(tokenizer, rollouts, gold):
    """The responses of one question with their rewards and advantages."""
    lines = [f"one group (right answer {gold}):   reward  advantage  response"]
    lines += [f"{'':34} {r.reward:6.1f}  {r.advantage:+9.3f}  {tokenizer.decode(r.completion_ids)!r}" for r in rollouts]
    return "\n".join(lines)
