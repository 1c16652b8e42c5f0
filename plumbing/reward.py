"""Where rewards come from: the verifier, or a function of the user's (--reward my_rewards.py:score)."""

import importlib.util
import math
import os
import sys
import traceback
from pathlib import Path

from plumbing import InputError
from plumbing.verifier import verify


def load_reward(spec):
    """"" -> common.verify; "FILE.py:FUNCTION" -> that function, checked at every call.

    The function gets two lists of texts, responses and gold answers, and returns as many numbers from 0 to 1.
    A response that was cut off is the empty text and scores 0 whatever is returned. What a method calls
    "right" is a reward of exactly 1. Raises InputError if there is no such function.
    """
    if not spec:
        return verify
    path, _, name = spec.rpartition(":")
    if not os.path.isfile(path):
        raise InputError(f"--reward {spec}: there is no file {path or spec}; write FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(Path(path).stem, path))
    sys.path.insert(0, str(Path(path).resolve().parent))  # what it imports may lie beside it
    try:
        module.__spec__.loader.exec_module(module)
    except Exception as problem:
        raise InputError(f"--reward {spec}: {where(problem)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"--reward {spec}: {path} has no function {name!r}")

    def reward(texts, golds, counts=None):
        try:
            values = list(function(list(texts), list(golds)))
        except Exception as problem:
            raise InputError(f"--reward {spec}: {where(problem)}") from None
        if len(values) != len(texts):
            raise InputError(f"--reward {spec}: returned {len(values)} numbers for {len(texts)} responses")
        try:
            values = [float(value) for value in values]
        except (TypeError, ValueError):
            raise InputError(f"--reward {spec}: returned something that is no number") from None
        for value, text in zip(values, texts):
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise InputError(f"--reward {spec}: returned {value:g} for {text[:60]!r}; must be 0 to 1")
        return values

    return reward


def where(problem):
    """An exception of the user's code in one line, with the line of code that raised it."""
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(last.filename).name} line {last.lineno})"
