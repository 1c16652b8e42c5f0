"""Hints for unsolved questions and prefixes of failures for solved ones, together, on one pool.

    python results/pool_combined.py --until RUN     RUN: as for pool_variants.py

lte.py, of whose batches one half stands behind failures that failure_prefix.py has mined before step 1, as in
that method's arm of the pool. What is behind a prefix gets no hint: a rescued answer would be learned there.
"""

import sys
from argparse import Namespace
from copy import copy

import pool_variants
import variants
from pool_variants import GIVEN

import failure_prefix
import lte

MINING = (
    "questions", "bank", "screen_samples", "saturated_low", "saturated_high", "cuts", "cut_samples", "tau",
    "fixed_cut", "refresh_every",
)  # fmt: skip
SETTINGS = pool_variants.SETTINGS | {name: failure_prefix.SETTINGS[name] for name in MINING}
lte_prompts = lte.retry_prompts


class Mined(pool_variants.Budgeted):
    """A run whose mining counts."""

    def steps(self):
        return super().steps(num_tokens=GIVEN.mined_tokens)


def mined_order(problems, seed):
    """In the place of lte.py's order: half prefixes, half plain questions."""
    miner = copy(GIVEN.run)  # by the name of that arm failure_prefix.py gives prefixes; the run keeps its own
    miner.args = Namespace(**vars(GIVEN.args) | {"arm": "failure"})
    order, GIVEN.mined_tokens = failure_prefix.training_order(miner, 0)
    return order


def retry_prompts(questions, groups, tokenizer, **texts):
    """As lte.retry_prompts, None behind a prefix."""
    prompts = lte_prompts(questions, groups, tokenizer, **texts)
    return [None if q["prefix"] else prompt for q, prompt in zip(questions, prompts, strict=True)]


def main(given):
    lte.Run, lte.Shuffled, lte.retry_prompts = Mined, mined_order, retry_prompts
    failure_prefix.Shuffled = pool_variants.Halves
    variants.extend(lte, SETTINGS, GIVEN)
    lte.main(given)


if __name__ == "__main__":
    main(sys.argv[1:])
