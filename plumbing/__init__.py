"""What the scripts stand on and nobody has to read to understand them.

    settings.py      flags of all scripts, and errors in one line
    run.py           set-up, metrics, checkpoints, resume
    checkpoints.py   what a run folder holds, and whether it is whole
    data.py          questions and answers from files or the hub
    records.py       files that a kill cannot spoil, and one-off jobs that go on after one
    reward.py        --reward: somebody's own reward function
    verifier.py      are two answers worth the same?
    optimizer.py     AdamW with float32 masters
    distributed.py   torchrun: what ranks tell each other, and sharded weights
    memory.py        what GPU, host and disk have to hold
    dry_run.py       --dry-run: what a run would take
    engine.py        starting vLLM inside this process
    cache.py         keys and values for sampling without vLLM
    model.py         is a model that loads the one that was meant?
    curves.py        draws metrics
    tracker.py       --report-to: tensorboard, wandb

common.py needs verifier.py, distributed.py, engine.py, cache.py and model.py; whoever copies it takes these
along. The others may import common.py.
"""

import hashlib


class InputError(Exception):
    """Something the user can put right. The message is one line: what was wrong, where, and what to do."""

    def __init__(self, message):
        line = " ".join(str(message).encode(errors="backslashreplace").decode().split())
        super().__init__(line if len(line) < 2000 else f"{line[:1000]} ... {line[-900:]}")


class NotFinite(InputError):
    """A sampler's log-probabilities are not finite. Run adds the step and the questions."""


def first_line(problem):
    """An exception of somebody else's code in one line, whatever it says.

    >>> first_line(KeyError("nope")), first_line(ValueError())
    ("KeyError: 'nope'", 'ValueError')
    """
    lines = str(problem).strip().splitlines()
    return ": ".join([type(problem).__name__, *lines[:1]])


def derive_seed(*parts):
    """A 63-bit seed from any printable parts.

    Each use of randomness has its own, made from (seed, purpose, step): nothing has to be replayed to resume,
    and no use disturbs another.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
