"""The first thing to run on a GPU: does what was only computed hold? One Markdown table; about ten minutes on one GPU of 80 GB (estimate).

    python tests/gpu/first.py                   # all checks, each in a process of its own; the table goes to results/gpu.md as well
    python tests/gpu/first.py --only update     # one of them
    python tests/gpu/first.py --small           # the same lines on models of a few thousand parameters, on a CPU as well: shows that they run

Checks: engine    parity with the trainer before and after syncs and a sleep cycle, seconds of a sync (tests/gpu/engine.py)
        update    one forward and backward pass of 16,384 tokens, the optimizer step, peak memory against the budget: more than a tenth off fails
        head      token_logps in bfloat16 against all logits at once
        context   an engine for a context of 131,072 starts and samples
        ranks     two ranks, one checkpoint, one resume (skipped with one GPU)
        scripts   one step of each of the six scripts on random weights of 1.5 B; erpo.py with a second arm, that is a second engine
Models have random weights: nothing is downloaded.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
from engine import SHAPE_7B, SHAPE_SMALL  # noqa: E402

from common import Rollout, VLLMSampler, collate, completion_logps, load_model, micro_batches, token_logps  # noqa: E402
from plumbing.memory import host_memory, memory_budget  # noqa: E402
from plumbing.optimizer import MasterAdamW, add_up  # noqa: E402

CHECKS = ("engine", "update", "head", "context", "ranks", "scripts")
CUDA = torch.cuda.is_available()
SHAPE_1B = SHAPE_7B | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
                       "tie_word_embeddings": True}
SCRIPTS = {  # a step of each; with a coin for a reward all methods find what they look for
    "grpo": [],
    "failure_prefix": ["--questions", "4", "--screen-samples", "8", "--saturated-low", "2", "--saturated-high", "6", "--cuts", "2",
                       "--cut-samples", "4"],
    "prefix_rl": ["--questions", "1", "--screen-samples", "1", "--max-attempts", "64", "--max-flops", "0"],
    "erpo": ["--max-draws", "2", "--compare", "dapo"],
    "pos_neg_pairing": ["--questions", "60", "--probe-samples", "8"],
    "lte": [],
}
STEP = ["--tiny", "--steps", "1", "--prompts-per-step", "8", "--group-size", "4", "--eval-samples", "1", "--max-tokens", "64",
        "--reward", f"{Path(__file__).resolve().parent / 'reward.py'}:coin"]


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def build(shape, **changed):
    """A model with random weights where models are trained."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if CUDA else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**shape | changed)).eval()
    torch.set_default_dtype(torch.float32)
    return model


def update(small):
    """One micro-batch through the model and one step of the optimizer. Yields cells of the table."""
    model = build(SHAPE_SMALL if small else SHAPE_7B)
    config, parameters = model.config, sum(weight.numel() for weight in model.parameters())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    threads = os.cpu_count()
    enough = host_memory() > 15e-9 * parameters
    optimizer, sums = MasterAdamW(model, 1e-6, 0.0, "cpu", threads) if enough else None, {}
    for i, weight in enumerate(model.parameters()) if optimizer is None else []:  # gradients as the optimizer would hold them
        weight.register_post_accumulate_grad_hook(functools.partial(add_up, sums, i))
    length = 64 if small else 4096
    answer = length - length // 8
    rollouts = [Rollout([7] * (length - answer), [i % 300 + 5 for i in range(answer)], [0.0] * answer, True, advantage=1.0) for _ in range(4)]
    (part,) = micro_batches(rollouts, 4 * length)
    batch = collate(part, model.device)
    model.train()
    for turn in range(2):  # the first time it compiles and allocates
        synchronize()
        began = time.time()
        logps, _ = completion_logps(model, batch, batch["temperatures"])
        logps.mean().backward()
        synchronize()
        took = time.time() - began
        yield f"{4 * length:,} tokens forward and backward, time {turn + 1}", f"{took:.2f} s"
    yield "operations a second, 8 a parameter and token", f"{8 * parameters * 4 * length / took:.2e}"
    if CUDA:
        peak = torch.cuda.max_memory_allocated() / 1e9
        budget = memory_budget(config, parameters, dtype="bfloat16", masters="cpu", gradient_checkpointing=True,
                               micro_batch_tokens=4 * length, engine=0)
        yield "peak memory, of a budget of", f"{peak:.1f} of {sum(budget.values()):.1f} GB"
        if abs(peak / sum(budget.values()) - 1) > 0.1:
            raise SystemExit(f"error: the peak is {peak:.1f} GB, the budget says {budget}")
    if optimizer is None:
        yield "optimizer step", f"left out: masters need {12e-9 * parameters:.0f} GB of host memory, {host_memory():.0f} are here"
        return
    torch.set_num_threads(1)  # as vLLM leaves it
    began = time.time()
    optimizer.step(1e-6, 1.0)
    synchronize()
    took = time.time() - began
    yield f"optimizer step, masters on the host, {threads} threads", f"{took:.2f} s, {took / parameters * 1e9:.2f} ns a parameter"


def head(small):
    """Forward and backward of the output head."""
    tokens, width, words = (256, 64, 2000) if small else (8192, 3584, 152064)
    device = "cuda" if CUDA else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=device).bfloat16().requires_grad_()
    weight = (torch.randn(words, width, device=device) * 2 * width**-0.5).bfloat16().requires_grad_()
    targets = torch.randint(words, (tokens,), device=device)
    all_at_once = lambda h, w, t: (h @ w.T).float().log_softmax(-1).gather(1, t[:, None])[:, 0]  # noqa: E731
    for name, function in (("token_logps", token_logps), ("all logits at once", all_at_once)):
        for _ in range(3):
            hidden.grad = weight.grad = None
            synchronize()
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            before, began = torch.cuda.memory_allocated() if CUDA else 0, time.time()
            function(hidden, weight, targets).sum().backward()
            synchronize()
            took = time.time() - began
        peak = f", {(torch.cuda.max_memory_allocated() - before) / 1e9:.1f} GB above the inputs" if CUDA else ""
        yield f"{name}, {tokens:,} tokens, {words:,} words", f"{took:.3f} s{peak}"


def context(small):
    """An engine beside a model with a context of 131,072."""
    model = build(SHAPE_SMALL if small else SHAPE_7B, max_position_embeddings=131072)
    began = time.time()
    sampler = VLLMSampler(model, SimpleNamespace(eos_token_id=model.config.eos_token_id), rows=64)
    yield "engine for a context of 131,072 built in", f"{time.time() - began:.1f} s, room for {sampler.room:,} tokens"
    sampler.sync()
    rollouts = sampler.generate([[5, 6, 7]] * 4, 2, 1.0, 32, seed=0)
    yield "responses drawn", str(len(rollouts))
    sampler.close()


def save_model(shape, folder):
    """A folder with random weights and the tiny model's tokenizer. One word in 32 ends a response."""
    tokenizer = load_model("tiny/model")[1]
    model = build(shape).bfloat16()
    model.generation_config = GenerationConfig(eos_token_id=list(range(1, shape["vocab_size"], 32)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(command):
    """Run a script -> seconds. Raises SystemExit with what it printed last."""
    began = time.time()
    done = subprocess.run([sys.executable, "-W", "ignore", *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, command[:4]))}: " + " / ".join(done.stdout.strip().splitlines()[-3:]))
    return time.time() - began


def script_flags(small, folder):
    model = folder / "model"
    save_model(SHAPE_SMALL if small else SHAPE_1B, model)
    return ["--model", model, *STEP, "--dtype", "bfloat16", *(["--sampler", "transformers"] if not CUDA else [])]


def ranks(small):
    """Two ranks: two steps, of which the second is made after a resume."""
    if CUDA and torch.cuda.device_count() < 2:
        yield "two ranks", "left out: one GPU here"
        return
    with tempfile.TemporaryDirectory() as folder:
        flags = script_flags(small, Path(folder))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "grpo.py"]
        yield "two ranks, a step and a checkpoint", f"{run([*torchrun, *flags, '--out', Path(folder) / 'run']):.0f} s"
        yield "two ranks, a resume and a step", f"{run([*torchrun, '--resume', Path(folder) / 'run', '--steps', '2']):.0f} s"


def scripts(small):
    """A step of each script."""
    with tempfile.TemporaryDirectory() as folder:
        flags = script_flags(small, Path(folder))
        for name, own in SCRIPTS.items():
            yield f"{name}.py, one step", f"{run([f'{name}.py', *flags, *own, '--out', Path(folder) / name]):.0f} s"


def check(name, small):
    """Make one check here, and print its rows as they come."""
    if name == "engine":
        command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "engine.py"), *(["--small"] if small else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in done.stdout.splitlines():
            what, _, value = line.strip().replace("|", "/").partition(": ")
            if line.startswith(("  ", "engine", "asleep", "sampled", "closed")):
                print(f"| engine | {what} | {value} |", flush=True)
        if done.returncode:
            raise SystemExit(f"error: engine.py: {done.stdout.strip().splitlines()[-1]}")
        return
    for what, value in globals()[name](small):
        print(f"| {name} | {what} | {value} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=CHECKS)
    parser.add_argument("--small", action="store_true", help="small models, on a CPU as well")
    parser.add_argument("--out", default=str(ROOT / "results" / "gpu.md"), help="where the table goes; not written with --small or --only")
    parser.add_argument("--here", action="store_true", help="make the one check of --only in this process")
    args = parser.parse_args()
    if not CUDA and not args.small:
        raise SystemExit("error: no GPU here; --small runs the same lines on a CPU")
    if args.here:
        return check(args.only[0], args.small)
    device = torch.cuda.get_device_name() if CUDA else "CPU"
    lines = [f"{device}, torch {torch.__version__}, host of {host_memory():.0f} GB, {os.cpu_count()} cores", "",
             "| check | what | found |", "|---|---|---|"]
    print("\n".join(lines), flush=True)
    failed = 0
    for name in args.only:
        command = [sys.executable, "-W", "ignore", __file__, "--here", "--only", name, *(["--small"] if args.small else [])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        rows, problem = process.communicate()
        failed += process.returncode != 0
        last = (problem.strip().splitlines() or [""])[-1].removeprefix("error: ").replace("|", "/")
        new = [row for row in rows.splitlines() if row.startswith("| ")]
        new.append(f"| {name} | in all | {'**failed**: ' + last if process.returncode else 'passed'} |")
        print("\n".join(new), flush=True)
        lines += new
    if not args.small and args.only == CHECKS:
        Path(args.out).write_text("# On a GPU\n\n`python tests/gpu/first.py`: " + "\n".join(lines) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
