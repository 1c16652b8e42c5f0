"""PrefixRL with the figures that only an analysis needs.

    python results/prefix_rl_variants.py --out FOLDER    other flags go to prefix_rl.py

Logs the share of prefixes that hold a boxed answer, and zero-variance groups with and without a prefix.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import prefix_rl  # noqa: E402
from plumbing.verifier import last_boxed  # noqa: E402

BEFORE = {"flops": 0.0, "num_tokens": 0}  # operations spent on the model before it comes here, and tokens
ITEMS, PREFIXES = [], []  # what is trained on; the prefix of each response of this step


class Counting(prefix_rl.Run):
    """A run that logs these figures."""

    def steps(self, flops, num_tokens):
        prefixes = [item["prefix"] for item in ITEMS if item["prefix"]]
        leaks = sum(bool(last_boxed(self.tokenizer.decode(prefix))) for prefix in prefixes)
        spent = {"flops": BEFORE["flops"] + flops, "num_tokens": BEFORE["num_tokens"] + num_tokens}
        return super().steps(**spent, **{"prefix/has_answer": leaks / max(1, len(prefixes))})

    def shared_metrics(self, rewards, *others):
        metrics = super().shared_metrics(rewards, *others)
        behind = [bool(prefix) for prefix in PREFIXES[:: self.args.group_size]]
        zero_variance = (rewards == rewards[:, :1]).all(1)
        for name, wanted in (("with", True), ("without", False)):
            part = [prefixed == wanted for prefixed in behind]
            if any(part):
                metrics[f"prefix/zero_std_{name}"] = zero_variance[part].float().mean().item()
        return metrics


def training_set(*args, **settings):
    """As prefix_rl.training_set."""
    ITEMS[:] = TRAINING_SET(*args, **settings)
    return list(ITEMS)


def score_joined(rollouts, prefixes, *others):
    """As prefix_rl.score_joined."""
    PREFIXES[:] = prefixes
    SCORE_JOINED(rollouts, prefixes, *others)


TRAINING_SET, SCORE_JOINED = prefix_rl.training_set, prefix_rl.score_joined


def install():
    """Put the overrides in the place of prefix_rl's own."""
    prefix_rl.Run, prefix_rl.training_set, prefix_rl.score_joined = Counting, training_set, score_joined


if __name__ == "__main__":
    install()
    prefix_rl.main(sys.argv[1:])
