"""What the scripts stand on and nobody has to read to understand them.

    settings.py      flags of all scripts, and errors in one line      distributed.py   torchrun: ranks and sharded weights
    run.py           set-up, metrics, checkpoints, resume              memory.py        what a GPU has to hold
    data.py          questions and answers from files or the hub       verifier.py      are two answers worth the same?
    records.py       one-off jobs that survive a kill                  curves.py        draws metrics
    reward.py        --reward: somebody's own reward function          tracker.py       --report-to: tensorboard, wandb

common.py needs only distributed.py and verifier.py of these; whoever copies it takes them along.
"""

import hashlib


class InputError(Exception):
    """Something the user can put right. The message is one line: what was wrong, where, and what to do."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))


def derive_seed(*parts):
    """A 63-bit seed from any printable parts.

    Each use of randomness has its own, made from (seed, purpose, step): nothing has to be replayed to resume,
    and no use disturbs another.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
