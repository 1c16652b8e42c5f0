"""ERPO with the temperatures dealt out among the questions by chance: as much heat, in the wrong places. A
control of ours.

    python results/erpo_permuted.py --out FOLDER    other flags go to erpo.py

Each question has a partner, the same over the whole run, and is sampled at the partner's temperature. What is
remembered of it is its own.
"""

import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import erpo  # noqa: E402
from plumbing import derive_seed  # noqa: E402

OWN = erpo.Tracker


class Permuted(erpo.Tracker):
    """A Tracker that answers for every question with its partner's temperature."""

    def __init__(self, start, step, highest):
        super().__init__(start, step, highest)
        self.partners = {}

    def temperature(self, question):
        known = sorted(self.temperatures)
        if question not in self.temperatures:  # the first visit of a question is at the start, as in ERPO
            return self.start
        if len(self.partners) != len(known):
            shuffled = list(known)
            random.Random(derive_seed("permuted", len(known))).shuffle(shuffled)
            self.partners = dict(zip(known, shuffled, strict=True))
        return super().temperature(self.partners[question])

    def update(self, question, rewards):
        own = OWN(self.start, self.step, self.highest)
        own.temperatures = self.temperatures
        own.update(question, rewards)


if __name__ == "__main__":
    erpo.Tracker = Permuted
    erpo.main([*sys.argv[1:], "--arm", "erpo", "--compare"])
