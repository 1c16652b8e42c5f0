"""How time and memory grow with the tokens of a batch, the vocabulary and the group size: slopes, and where they bend.

    python tests/benchmarks/scaling.py            # a few minutes on one core

Each row doubles one quantity. Slope is the growth of the time from the row before on a log-log scale: 0 while fixed costs rule, 1 when the time is
proportional. Rounds go over all sizes in turn; shown are medians, and the largest peak above what was held before the call.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent.parent)]

import torch  # noqa: E402
from loss import memory, reset_peak  # noqa: E402

from common import (  # noqa: E402
    TransformersSampler,  # noqa: E402
    collate,
    completion_logps,
    group_advantages,
    grpo_loss,
    load_model,
    micro_batches,
    token_logps,
)
from plumbing.data import load_problems  # noqa: E402


def timed(work):
    """-> seconds and peak bytes of one call."""
    reset_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    work()
    return time.perf_counter() - start, memory("VmHWM") - before


def head(tokens, vocabulary, width=256):
    """Log-probabilities of `tokens` tokens over a vocabulary, forward and backward."""
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) * 2 * width**-0.5).requires_grad_()  # wider logits end in denormal numbers, which are slow
    targets = torch.randint(vocabulary, (tokens,))
    return lambda: token_logps(hidden, weight, targets).sum().backward()


def sampling(model, tokenizer, contexts, group_size):
    sampler = TransformersSampler(model, tokenizer, rows=256)
    return lambda: sampler.generate(contexts, group_size, 1.0, 96, seed=0)


def update(model, rollouts, micro_batch_tokens):
    """Forward and backward over all rollouts."""
    advantages = group_advantages(torch.arange(float(len(rollouts))).view(1, -1))[0].tolist()
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        rollout.advantage = advantage
    count = sum(len(r.completion_ids) for r in rollouts)

    def work():
        for part in micro_batches(rollouts, micro_batch_tokens):
            batch = collate(part)
            logps, _ = completion_logps(model, batch, batch["temperatures"])
            grpo_loss(logps, logps.detach(), batch["advantages"], batch["completion_mask"], num_tokens=count)[0].backward()

    return work


def table(title, sizes, works, rounds):
    results = {size: [] for size in sizes}
    for turn in range(rounds + 1):
        for size, work in zip(sizes, works, strict=True):
            measured = timed(work)
            if turn:  # the first round warms up
                results[size].append(measured)
    print(f"\n| {title} | seconds, median (least to most) | slope | peak, GB |\n|---|---|---|---|")
    last = None
    for size, rows in results.items():
        seconds = [row[0] for row in rows]
        middle = statistics.median(seconds)
        slope = f"{math.log(middle / last[1]) / math.log(size / last[0]):.2f}" if last else ""
        peak = max(row[1] for row in rows) / 1e9
        print(f"| {size:,} | {middle:.3f} ({min(seconds):.3f} to {max(seconds):.3f}) | {slope} | {peak:.2f} |", flush=True)
        last = size, middle


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokens = [256, 512, 1024, 2048, 4096]
    table("token_logps: tokens (V 32,768, d 256)", tokens, [head(n, 32_768) for n in tokens], args.rounds)
    words = [8_192, 16_384, 32_768, 65_536, 131_072]
    table("token_logps: vocabulary (512 tokens, d 256)", words, [head(512, v) for v in words], args.rounds)
    model, tokenizer = load_model("tiny/model")
    contexts = [p["prompt_ids"] for p in load_problems("tiny/train.jsonl", tokenizer)[::400]]
    groups = [2, 4, 8, 16, 32, 64]
    table(f"sampling: group size ({len(contexts)} questions)", groups, [sampling(model, tokenizer, contexts, g) for g in groups], args.rounds)
    rollouts = TransformersSampler(model, tokenizer, rows=256).generate(contexts, 64, 1.0, 96, seed=0)
    counts = [32, 64, 128, 256, 512]
    works = [update(model, rollouts[:: 512 // n], 4096) for n in counts]
    table("update: responses (micro-batches of 4,096 tokens)", counts, works, args.rounds)
    limits = [512, 1024, 2048, 4096, 8192, 16384]
    works = [update(model, rollouts, limit) for limit in limits]
    table("update of 512 responses: tokens of a micro-batch", limits, works, args.rounds)


if __name__ == "__main__":
    main()
