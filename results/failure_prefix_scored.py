"""Failure prefixes with the loss on the prefix as well as on the continuation: shows what leaving it out is
good for.

    python results/failure_prefix_scored.py --bank B --out FOLDER    other flags go to failure_prefix.py

A wrong prefix then shares the advantage of what was made of it: a continuation that saved itself teaches to
make the mistake as well. The loss is still divided by the number of generated tokens, so that the
continuations weigh as much as without.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import common  # noqa: E402
import failure_prefix  # noqa: E402

SIZES = {}  # of the prefix, by what a response was sampled behind


def training_items(*args, **settings):
    """As failure_prefix.training_items; the sizes of the prefixes are remembered."""
    items = ITEMS(*args, **settings)
    SIZES.update({tuple(item["prompt_ids"]): item["prefix"] for item in items})
    return items


def collate(rollouts, device="cpu"):
    """As common.collate, with the prefix in the completion mask; the mask without it stays as
    generated_mask."""
    batch = common.collate(rollouts, device)
    batch["generated_mask"] = batch["completion_mask"].clone()
    for row, rollout in zip(batch["completion_mask"], rollouts, strict=True):
        before = len(rollout.prompt_ids) - 1  # the column that predicts the first generated token
        row[before - SIZES.get(tuple(rollout.prompt_ids), 0) : before] = True
    return batch


def sampling_gap(batches, *limits):
    """As common.sampling_gap, over what was sampled: prefixes have no log-probabilities of their own."""
    generated = [batch | {"completion_mask": batch["generated_mask"]} for batch in batches]
    return common.sampling_gap(generated, *limits)


ITEMS = failure_prefix.training_items

if __name__ == "__main__":
    failure_prefix.training_items = training_items
    failure_prefix.collate, failure_prefix.sampling_gap = collate, sampling_gap
    failure_prefix.main([*sys.argv[1:], "--arm", "failure", "--compare"])
