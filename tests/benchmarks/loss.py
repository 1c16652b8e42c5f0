"""Time and peak memory of per-token log-probabilities over a large vocabulary, forward and backward, against other libraries' functions.

    pip install -r tests/benchmarks/requirements.txt && pip install --no-deps -r tests/benchmarks/requirements-no-deps.txt
    python tests/benchmarks/loss.py                                # N 2048, d 1024, V 151,936 in float32: minutes on two cores
    python tests/benchmarks/loss.py --dtype bfloat16 --tokens 4096 --width 256 --rounds 3

All functions see the same tensors in one process, in turn, round after round, so that a machine that slows down slows down all of them.
Peak memory is what the process held at most during the call, above what it held before (inputs, and room for one set of gradients).
Errors are against float64 on 64 of the tokens. A function that is not installed is left out.
"""

import argparse
import ctypes
import functools
import gc
import importlib.util
import platform
import signal
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from common import token_logps  # noqa: E402


def ours(hidden, weight, targets):
    return token_logps(hidden, weight, targets)


def ours_with_entropy(hidden, weight, targets):
    return token_logps(hidden, weight, targets, with_entropy=True)[0]


def full_logits(hidden, weight, targets):
    return (hidden @ weight.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def checkpointed(hidden, weight, targets):
    part = lambda h, t: full_logits(h, weight, t)  # noqa: E731
    return torch.cat([torch.utils.checkpoint.checkpoint(part, h, t, use_reentrant=False) for h, t in zip(hidden.split(256), targets.split(256))])


def torch_linear_cross_entropy(hidden, weight, targets):
    options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=256)
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options)


def trl_selective(hidden, weight, targets):
    from trl.trainer.utils import selective_log_softmax

    return selective_log_softmax(hidden @ weight.T, targets)


def trl_chunked(hidden, weight, targets):
    from trl.kernels import ChunkedLogProbFunction

    return ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 8192, None, 1.0, ())[0]


def verl_fused(hidden, weight, targets):
    return verl_functional().FusedLinearForPPO()(hidden, weight, targets)[0]


@functools.cache
def verl_functional():
    """That one file of verl: importing the package would ask for ray."""
    package = importlib.util.find_spec("verl")
    if package is None:
        raise ImportError("No module named 'verl'")
    file = Path(package.submodule_search_locations[0]) / "utils/experimental/torch_functional.py"
    spec = importlib.util.spec_from_file_location("verl_torch_functional", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def liger_chunked(hidden, weight, targets):
    from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction

    return _ChunkedSelectiveLogProbFunction.apply(hidden, weight, targets, None, 1.0, 4096)


FUNCTIONS = [ours, ours_with_entropy, full_logits, checkpointed, torch_linear_cross_entropy, trl_selective, trl_chunked, verl_fused, liger_chunked]


def memory(name):
    """Bytes this process holds now ("VmRSS") or has held at most since reset_peak ("VmHWM"). Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def reset_peak():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(function, hidden, weight, targets, upstream):
    """-> seconds, peak bytes above the start, log-probabilities. Gradients go where there is room for them already."""
    hidden.grad.zero_()
    weight.grad.zero_()
    reset_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    logps = function(hidden, weight, targets)
    logps.backward(upstream.to(logps.dtype))
    return time.perf_counter() - start, memory("VmHWM") - before, logps.detach()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--only", nargs="+", help="names of functions")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden = torch.randn(args.tokens, args.width).to(dtype).requires_grad_()
    weight = (torch.randn(args.vocabulary, args.width) * args.width**-0.5 * 2).to(dtype).requires_grad_()
    targets = torch.randint(args.vocabulary, (args.tokens,))
    upstream = torch.randn(args.tokens)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    some = slice(0, min(64, args.tokens))
    with torch.no_grad():
        exact = full_logits_float64(hidden[some], weight, targets[some])

    functions = [f for f in FUNCTIONS if not args.only or f.__name__ in args.only]
    found, results = [], {}
    for function in functions:  # a first call each, not counted: imports, pages, and is it there?
        try:
            results[function.__name__] = [(None, None, measure(function, hidden, weight, targets, upstream)[2][some])]
            found.append(function)
        except ImportError as problem:
            print(f"{function.__name__}: left out, {problem}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for turn in range(args.rounds):
            for function in found[turn % len(found) :] + found[: turn % len(found)]:  # each starts a round once
                results[function.__name__].append(measure(function, hidden, weight, targets, upstream)[:2])
            print(f"round {turn + 1}: " + ", ".join(f"{name} {rows[-1][0]:.2f}" for name, rows in results.items()), file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # a long benchmark that is stopped tells what it has
        print("stopped; the table holds the rounds that were finished", file=sys.stderr)
    finished = min(len(rows) for rows in results.values()) - 1
    if not finished:
        raise SystemExit("error: stopped before the first round was finished: fewer --tokens, or --only some of the functions, take less time")
    first = [row[0] for row in results[found[0].__name__][1 : finished + 1]]
    print(f"N {args.tokens}, d {args.width}, V {args.vocabulary}, {args.dtype}, {finished} rounds, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}, {platform.machine()}\n")
    print(f"| function | seconds, median (least to most) | of {found[0].__name__}, round by round | peak, GB | mean error | largest |")
    print("|---|---|---|---|---|---|")
    for name, ((_, _, logps), *rows) in results.items():
        seconds, peaks = zip(*rows[:finished])
        ratios = sorted(a / b for a, b in zip(seconds, first))
        error = (logps.double() - exact).abs()
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {statistics.median(ratios):.2f} "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {max(peaks) / 1e9:.2f} | {error.mean():.1e} | {error.max():.1e} |", flush=True)


def full_logits_float64(hidden, weight, targets):
    """In slices of the vocabulary: a float64 copy of the whole weight would be the largest thing in memory."""
    logits = torch.cat([hidden.double() @ part.double().T for part in weight.split(8192)], 1)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


if __name__ == "__main__":
    main()
