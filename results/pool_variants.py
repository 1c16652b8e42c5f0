"""One pool for all: a method's script that ends when it has drawn as many tokens as a run of grpo.py.

    python results/pool_variants.py erpo --until RUN     RUN: the folder of that run

Other flags go to the script. The step that reaches the budget is the last, and is evaluated. Where a script
trains on nothing but contexts that it made (failure_prefix.py, prefix_rl.py), every second place of a batch
goes to a question of the whole pool without a prefix, in the order of grpo.py. Logs time/search, the seconds
of drawing and checking before step 1.
"""

import importlib
import sys

import variants

from plumbing import InputError
from plumbing.data import Shuffled
from plumbing.records import read_record
from plumbing.run import Run

GIVEN = variants.Given()
SETTINGS = {"until": ("", "", "folder of a run whose num_tokens is the budget, none: --steps alone")}


class Budgeted(Run):
    """A run that is over with the step in which --until's tokens are spent."""

    def steps(self, **metrics):
        self.budget = float("inf")
        if self.args.until:
            self.budget = read_record(f"{self.args.until}/metrics.jsonl")[-1].get("num_tokens", 0)
        if not self.budget:
            raise InputError(f"--until {self.args.until}: that run has made no step")
        seconds = self.clock["sample"] + self.clock["verify"]
        for step in super().steps(**metrics, **{"time/search": seconds}):
            if self.last("num_tokens") >= self.budget:  # in this run or before its resume
                break
            yield step

    def finish_step(self, step, metrics, last=False, **stateful):
        super().finish_step(step, metrics, last or metrics["num_tokens"] >= self.budget, **stateful)


class Halves(Shuffled):
    """A method's order of contexts with as many plain questions of the whole pool; any other as it is."""

    def __init__(self, items, seed):
        super().__init__(items, seed)
        whole, self.mixed = [], "prefix" in items[0]  # else these are what a search goes through
        if self.mixed:
            nothing = type(items[0]["prefix"])()  # of a length, or of token ids
            whole = [problem | {"prefix": nothing} for problem in GIVEN.run.problems]
        self.plain = Shuffled(whole, GIVEN.args.seed)

    def draw(self, count):
        plain = self.plain.draw(self.mixed * (count // 2))
        return super().draw(count - len(plain)) + plain

    def state_dict(self):
        return super().state_dict() | {"plain": self.plain.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.plain.load_state_dict(state["plain"])


def main(method, given):
    """method: a script's name without .py. given: its flags."""
    script = importlib.import_module(method)
    script.Run = Budgeted
    if method in ("failure_prefix", "prefix_rl"):
        script.Shuffled = Halves
    variants.extend(script, SETTINGS, GIVEN)
    script.main(given)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
