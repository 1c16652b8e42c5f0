"""ERPO's open choices read otherwise, and what its temperatures do, in detail.

    python results/erpo_variants.py --t-rule reset          when T changes: ratchet, reset, updown, ...
    python results/erpo_variants.py --ra ra-2               how large RA's advantage is: ra-1, ra-2, ra-3
    python results/erpo_variants.py --score is_corrected    heated ones weighed by p(T0) / p(T), to --is-cap
    python results/erpo_variants.py --score score_T1        all are scored at 1, whatever --temperature is

Other flags go to erpo.py. Logs besides its metrics: deciles of the temperatures; of the questions that were
all right at their last visit, how many came out mixed (revived), by temperature; all-right groups of a few
questions at three temperatures; of what is trained on, how much is of all-right and of heated mixed groups.
"""

import sys

import torch
import variants

import erpo
from plumbing import derive_seed
from plumbing.data import Shuffled

RULES = ("ratchet", "reset", "updown", "consecutive")
GIVEN = variants.Given()
SETTINGS = {
    **variants.choices(erpo, "score", "is_corrected", "score_T1"),
    "is_cap": (2.0, 2.0, "for --score is_corrected"),
    "t_rule": (
        "ratchet",
        "ratchet",
        "when a group is not all right: ratchet: T stays; reset: back to the start; updown: "
        "one step back; consecutive: stays, and rises only after --t-patience all-right visits in a row",
        RULES,
    ),
    "t_patience": (2, 2, "for --t-rule consecutive"),
    "ra": (
        "ra-1",
        "ra-1",
        "advantage in an all-right group; ra-1: 1/sqrt(G+1); ra-2: (1 + ra_size)/(G+1); ra-3: ra_size",
        ("ra-1", "ra-2", "ra-3"),
    ),
    "ra_size": (0.1, 0.1, "for --ra ra-2 and ra-3"),
    "probe_questions": (
        0,
        32,
        "training questions sampled at three temperatures at every evaluation, 0: none",
    ),
}


class History(erpo.Tracker):
    """A Tracker with all four rules, which remembers how the groups of every question came out."""

    def __init__(self, start, step, highest, rule=None, patience=None):
        super().__init__(start, step, highest)
        self.rule, self.patience = rule or GIVEN.args.t_rule, patience or GIVEN.args.t_patience
        self.streaks = {}  # all-right visits in a row, by question
        self.again = []  # of visits after an all-right one: (temperature, mixed now?)
        self.drawn = {}  # temperatures that were asked for, by question: it may come up twice in one draw

    def temperature(self, question):
        temperature = super().temperature(question)
        self.drawn.setdefault(question, []).append(temperature)
        return temperature

    def update(self, question, rewards):
        temperature, streak = super().temperature(question), self.streaks.get(question, 0)
        sampled_at = (self.drawn.get(question) or [temperature]).pop(0)
        all_right, mixed = bool((rewards == 1).all()), bool((rewards != rewards[0]).any())
        if streak:
            self.again.append((round(sampled_at, 1), mixed))
        self.streaks[question] = streak + 1 if all_right else 0
        if all_right and (self.rule != "consecutive" or self.streaks[question] >= self.patience):
            temperature = min(temperature + self.step, self.highest)
        elif not all_right and self.rule == "reset":
            temperature = self.start
        elif not all_right and self.rule == "updown":
            temperature = max(temperature - self.step, self.start)
        self.temperatures[question] = temperature

    def metrics(self):
        """As Tracker.metrics, with deciles, and what became of the solved questions that were visited since
        the last call."""
        metrics, temperatures = super().metrics(), sorted(self.temperatures.values())
        metrics["temperature/revived"] = sum(mixed for _, mixed in self.again) / max(1, len(self.again))
        for at in sorted({temperature for temperature, _ in self.again}):
            metrics[f"temperature/visits@{at}"] = sum(t == at for t, _ in self.again)
            metrics[f"temperature/revived@{at}"] = sum(t == at and mixed for t, mixed in self.again)
        for decile in (1, 5, 9):
            metrics[f"temperature/decile_{decile}"] = temperatures[int(decile / 10 * (len(temperatures) - 1))]
        self.again = []
        return metrics

    def state_dict(self):
        return super().state_dict() | {"streaks": self.streaks}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.streaks = state["streaks"]


def made_of(batches, ra, start):
    """Shares of the trained tokens that are of all-right groups (ra), and of mixed groups that were sampled
    hotter (heated) -> dict of metrics. pull: the same with each token weighed by the size of its advantage.

    ra: the advantage in all-right groups, which no response of a mixed one has; start: the first temperature.
    """
    if not batches:
        return {}
    tokens = torch.cat([batch["completion_mask"].sum(1) for batch in batches]).double()
    advantages = torch.cat([batch["advantages"] for batch in batches]).double()
    of_ra = (advantages - ra).abs() < 1e-6
    heated = ~of_ra & (torch.cat([batch["temperatures"] for batch in batches]) > start)
    return {
        f"batch/{kind}_{what}": (weights[rows].sum() / weights.sum()).item()
        for kind, rows in (("ra", of_ra), ("heated", heated))
        for what, weights in (("tokens", tokens), ("pull", tokens * advantages.abs()))
    }


class Probing(erpo.Run):
    """A run that logs what its batches are made of, and that samples some training questions at three
    temperatures when it is evaluated."""

    def shared_metrics(self, rewards, rollouts, batches, *rest):
        metrics = super().shared_metrics(rewards, rollouts, batches, *rest)
        ra = erpo.ra_advantage(self.args.group_size)
        return metrics | made_of(batches, ra, self.args.temperature)

    def evaluate(self, final=False):
        metrics, args = super().evaluate(final), self.args
        problems = self.problems
        if args.questions:
            problems = Shuffled(problems, args.seed).draw(min(args.questions, len(problems)))
        probe = Shuffled(problems, derive_seed(args.seed, "probe")).draw(args.probe_questions)
        own = args.temperature
        for heat in (1.0, 1.2, 1.5) if probe else ():
            args.temperature = heat  # what draw() samples at
            groups = self.draw(probe, args.group_size, "probe", heat)
            solved = [float(all(r.right for r in group)) for group in groups]
            metrics[f"temperature/all_right@{heat}"] = torch.tensor(solved).mean().item()
        args.temperature = own
        return metrics


def ra_advantage(group_size):
    """RA's advantage by --ra."""
    size = GIVEN.args.ra_size
    return {"ra-1": (group_size + 1) ** -0.5, "ra-2": (1 + size) / (group_size + 1), "ra-3": size}[
        GIVEN.args.ra
    ]


def scoring(temperatures, mode, start):
    """As erpo.scoring; under score_T1, what is sampled hotter throughout is scored at 1 all the same."""
    return SCORING(temperatures, mode, 1.0 if mode == "score_T1" else start)


def scoring_weights(batch, cap):
    """As erpo.scoring_weights; under is_corrected p(T0) / p(T) up to --is-cap for heated responses."""
    if GIVEN.args.score != "is_corrected":
        return PLAIN_WEIGHTS(batch, cap)
    ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
    alike = ratio.clamp(max=cap) if cap else torch.ones_like(ratio)
    heated = (batch["temperatures"] != batch["scored_at"])[:, None]
    return torch.where(heated, ratio.clamp(max=GIVEN.args.is_cap), alike)


PLAIN_WEIGHTS, SCORING = erpo.scoring_weights, erpo.scoring

if __name__ == "__main__":
    erpo.Tracker, erpo.Run = History, Probing
    erpo.ra_advantage, erpo.scoring, erpo.scoring_weights = ra_advantage, scoring, scoring_weights
    variants.extend(erpo, SETTINGS, GIVEN)
    erpo.main(sys.argv[1:])
