"""What LTE claims, as statements that can fail, measured in the tiny task. Used by run.py.

    python results/run.py lte                           # trains all arms and writes results/lte.md
    python results/claims_lte.py RUN FIRST_ARM_RUN      # measures one model -> RUN/analysis.json

Statements 1 to 10 carry the numbers of our list; thresholds are ours. None-pass, some-pass and all-pass are
counts of questions whose first group of G, before any hint, is all wrong, mixed, all right.
"""

import json
import sys
from pathlib import Path
from statistics import fmean as mean

import torch
from analysis import (
    OTHER_TASK,
    Analyst,
    above,
    bands,
    final,
    last_checkpoint,
    leads,
    longer,
    points,
    settings_of,
    student,
    verdict,
)

from common import build_prompt, pass_at_k
from lte import hinted_question, wrong_answers
from plumbing.data import Shuffled

SWEPT = ["--compare"]
ARMS = {
    "lte": ["--compare"],
    "grpo": ["--compare", "--arm", "grpo"],
    "extra": ["--compare", "--arm", "extra"],
    "placebo": ["--compare", "--placebo", "--eval-every", "100"],
    "entropy": ["--compare", "--entropy-coef", "0.003"],
    "grpo-entropy": ["--compare", "--arm", "grpo", "--entropy-coef", "0.003", "--eval-every", "100"],
    "matched": ["--compare", "--arm", "grpo", "--group-size", "11", "--eval-every", "100"],
    "lte, another task": ["--compare", "--eval-every", "100", *OTHER_TASK],
    "grpo, another task": ["--compare", "--arm", "grpo", "--eval-every", "100", *OTHER_TASK],
}
COMMANDS = {"placebo": ["results/lte_variants.py"]}
SEEDS = range(8)
METRICS = (
    "num_tokens", r"time/(sample|verify|train)", r"eval/harder/avg@\d+", r"hint/(none|some|all)_pass",
    r"hint/(log_ratio|refine_rate)",
)  # fmt: skip
SHOWN = ("grpo", "lte", "extra", "entropy")  # in the figure
DRAW = bands(SHOWN)
PANELS = {
    r"hint/none_pass": "questions with no right answer",
    r"eval/test/avg@\d+": "held-out pass@1",
    r"eval/test/pass@4": "held-out pass@4",
}
ZOOMED = ("held-out pass@1", "held-out pass@4")
HELD_OUT = 32  # samples of each held-out problem
TRIES = 64  # samples of a question under a hint
POOL = 400  # training questions that are asked
KS = (1, 8, 32)
EARLY, LATE = slice(0, 5), slice(-10, None)  # steps


def held_out(model):
    """Right ones among HELD_OUT samples of each held-out problem, and the problems' families; of what was
    sampled the mean length in tokens and the mean -log p in nats a token."""
    problems = model.problems(model.settings["eval_sets"][0])
    groups = model.groups(
        [p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "held out"
    )
    rollouts = [r for group in groups for r in group]
    return {
        "right": [int(sum(r.reward for r in group)) for group in groups],
        "families": [p["family"] for p in problems],
        "length": mean(len(r.completion_ids) for r in rollouts),
        "entropy": mean(-logp for r in rollouts for logp in r.logps),
    }


def hints(model):
    """Success on each all-wrong training question: asked again, with its own wrong answers, or another's."""
    settings = model.settings
    pool = Shuffled(model.problems(settings["data"]), 0).draw(POOL)
    groups = model.groups(
        [p["prompt_ids"] for p in pool], [p["answer"] for p in pool], settings["group_size"], "first"
    )
    cases = []
    for problem, group in zip(pool, groups, strict=True):
        wrong = wrong_answers(
            group, [model.tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in group]
        )
        if wrong and not any(r.reward for r in group):
            cases.append((problem, wrong))
    golds, texts = [p["answer"] for p, _ in cases], {"instruction": "", "concise": settings["concise"]}
    texts |= {"hint": settings["hint"], "separator": settings["hint_separator"]}
    others = [
        [a for a in wrong if a != p["answer"]]
        for (p, _), (_, wrong) in zip(cases, cases[1:] + cases[:1], strict=True)
    ]

    def asked(lists):
        return [
            build_prompt(
                model.tokenizer, hinted_question(p["problem"], some, False, **texts) or p["problem"], ""
            )
            for (p, _), some in zip(cases, lists, strict=True)
        ]

    return {
        "plain": model.rates([p["prompt_ids"] for p, _ in cases], golds, TRIES, "plain"),
        "own": model.rates(asked([wrong for _, wrong in cases]), golds, TRIES, "own"),
        "other": model.rates(asked(others), golds, TRIES, "other"),
    }


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)
    (Path(folder) / "analysis.json").write_text(
        json.dumps(held_out(Analyst(last_checkpoint(folder), settings)))
    )
    if folder == first:
        base = Analyst(settings["model"], settings)
        (Path(first) / "start.json").write_text(
            json.dumps({"held_out": held_out(base), "hints": hints(base)})
        )


# ---- the statements ----


class Measured:
    """What the statements are about, of all runs. logs: packed.Logs."""

    def __init__(self, logs):
        self.logs, self.arms = logs, [arm for arm in logs.arms if not arm.endswith("another task")]
        self.found = {arm: logs.measured(arm) for arm in logs.arms}
        self.start = logs.measured("lte", "start")
        self.steps = {arm: [rows[1:] for rows in logs.rows(arm)] for arm in self.arms}
        self.end = {arm: {k: passes(some, k) for k in KS} for arm, some in self.found.items()}
        self.begin = {k: passes([one["held_out"] for one in self.start], k) for k in KS}
        self.batch = sum(self.steps["grpo"][0][0][f"hint/{kind}_pass"] for kind in ("none", "some", "all"))

    def count(self, arm, kind, part):
        """Mean count of a kind of questions over some steps, for each seed."""
        return [mean(row[f"hint/{kind}_pass"] for row in rows[part]) for rows in self.steps[arm]]

    def fewer(self, kind, one, other):
        """What is counted at the end in one arm minus that in another, and the interval."""
        pairs = zip(self.count(one, kind, LATE), self.count(other, kind, LATE), strict=True)
        return student([a - b for a, b in pairs])

    def ahead(self, one, other, k):
        """Points of pass@k between two arms, and the interval."""
        return student(leads(self.end[one][k], self.end[other][k]))

    def each(self, name, arms=None):
        """Mean over seeds of a number that was measured on the models, of each arm."""
        return {arm: mean(one[name] for one in self.found[arm]) for arm in arms or self.arms}


def passes(some, k):
    return [[pass_at_k(HELD_OUT, right, k) for right in one["right"]] for one in some]


def level(some):
    return 100 * mean(map(mean, some))


def show(triple):
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*triple)


def listed(values, digits):
    return ", ".join(f"{arm} {value:.{digits}f}" for arm, value in values.items())


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    measured = Measured(logs)
    for part in (stagnation, before_learning, transfer, headline, more_samples, entropy, responses, reported):
        yield from part(measured)


def stagnation(m):
    """1."""
    third = len(m.steps["lte"][0]) // 3
    middle, late = (
        {kind: mean(m.count("grpo", kind, part)) for kind in ("none", "all")}
        for part in (slice(third, 2 * third), slice(-third, None))
    )
    yield (
        "1 GRPO stagnates",
        "none-pass falls by less than a tenth from middle to last third, stays above a tenth of the "
        "batch; all-pass rises",
        f"none-pass {middle['none']:.1f} to {late['none']:.1f} of {m.batch}, all-pass {middle['all']:.1f} to "
        f"{late['all']:.1f}",
        verdict(
            middle["none"] - late["none"] < 0.1 * middle["none"]
            and late["none"] > m.batch / 10
            and late["all"] > middle["all"]
        ),
    )


def before_learning(m):
    """2 and 3. The same in all seeds: intervals are over questions."""
    tried = m.start[0]["hints"]
    for kind, what, needed in (
        (
            "plain",
            "2 the hint works before any learning",
            "all-wrong questions: more success than with as many plain tries, points",
        ),
        ("other", "3 it is the content", "more success than with another question's answers"),
    ):
        better = student([a - b for a, b in zip(tried["own"], tried[kind])])
        yield (
            what,
            needed,
            f"{100 * mean(tried['own']):.1f} % against {100 * mean(tried[kind]):.1f} %: {points(better)} "
            f"over {len(tried['own'])} questions",
            verdict(better[1] > 0),
        )


def transfer(m):
    """4."""
    gaps = {arm: m.fewer("none", "lte", arm) for arm in ("grpo", "extra", "placebo", "matched")}
    early = mean(a - b for a, b in zip(*(m.count(arm, "none", EARLY) for arm in ("lte", "grpo"))))
    yield (
        "4 it transfers to the plain question",
        "none-pass of the last ten steps below GRPO's and GRPO-Extra's; not so in the first five",
        "LTE minus "
        + ", ".join(f"{arm} {show(gap)}" for arm, gap in gaps.items())
        + f"; in the first five steps, GRPO {early:+.2f}",
        verdict(gaps["grpo"][2] < 0 and gaps["extra"][2] < 0 and abs(early) < 0.5 * abs(gaps["grpo"][0])),
    )


def headline(m):
    """LTE above GRPO, here and in another task."""
    for other, why in (("grpo", "as many updates"), ("matched", "about as many tokens")):
        for k in (1, 8):
            what = f"LTE above GRPO ({other}): {why}, held-out pass@{k}"
            yield above(what, leads(m.end["lte"][k], m.end[other][k]))
    for k in (1, 8):
        ends = [m.end[f"{arm}, another task"][k] for arm in ("lte", "grpo")]
        what, needed, text, held = above(
            f"LTE above GRPO in another task: as many updates, held-out pass@{k}", leads(*ends)
        )
        yield what, needed, "{}; lte {:.1f}, grpo {:.1f}".format(text, *map(level, ends)), held
    runs = {arm: m.logs.rows(f"{arm}, another task") for arm in ("lte", "grpo")}
    lead = student([a - b for a, b in zip(*(final(some, "harder") for some in runs.values()))])
    tokens = {arm: mean(rows[-1]["num_tokens"] for rows in some) / 1e6 for arm, some in runs.items()}
    yield (
        "another task: longer problems, and tokens",
        "",
        f"lte minus grpo {points(lead)}; million tokens {listed(tokens, 1)}",
        "reported",
    )


def more_samples(m):
    """5 to 7."""

    def nearer(value, low, high):
        return abs(value - low) < abs(value - high)

    none = {arm: mean(m.count(arm, "none", LATE)) for arm in m.arms}
    eight = {arm: level(m.end[arm][8]) for arm in m.arms}
    yield (
        "5 more samples alone are not it",
        "GRPO-Extra nearer GRPO than LTE, in none-pass and held-out pass@8",
        ", ".join(
            f"{arm} {none[arm]:.1f} and {eight[arm]:.1f}"
            for arm in ("grpo", "extra", "matched", "placebo", "lte")
        )
        + f"; LTE minus extra, pass@8 {points(m.ahead('lte', 'extra', 8))}",
        verdict(
            nearer(none["extra"], none["grpo"], none["lte"])
            and nearer(eight["extra"], eight["grpo"], eight["lte"])
        ),
    )
    some, full = m.fewer("some", "lte", "grpo"), m.fewer("all", "lte", "grpo")
    yield (
        "6 more learnable, not more saturated questions",
        "some-pass above GRPO's, all-pass no higher, last ten steps",
        f"some-pass {show(some)}, all-pass {show(full)} of {m.batch}",
        verdict(some[1] > 0 and full[1] <= 0),
    )
    ends = {"start": m.begin} | {arm: m.end[arm] for arm in m.arms}
    table = "; ".join(f"{arm} " + " ".join(f"{level(v[k]):.1f}" for k in KS) for arm, v in ends.items())
    lead, most = {k: m.ahead("lte", "grpo", k) for k in KS}, KS[-1]
    yield (
        f"7 upper bound, held-out pass@{', '.join(map(str, KS))}",
        "GRPO at the largest k no better than the start; LTE ahead of it there by more than at 1",
        f"{table}; LTE minus GRPO " + ", ".join(map(points, lead.values())),
        verdict(level(m.end["grpo"][most]) <= level(m.begin[most]) and lead[most][0] > max(0, lead[1][0])),
    )


def entropy(m):
    """8, and the bonus alone."""
    pairs = zip(m.found["lte"], m.found["grpo"], strict=True)
    more = student([a["entropy"] - b["entropy"] for a, b in pairs])
    bonus = m.ahead("entropy", "lte", 1)
    yield (
        "8 entropy",
        "LTE's above GRPO's at the end, at no lower pass@1; a bonus adds to the lead",
        listed(m.each("entropy", ("lte", "grpo", "entropy")), 3)
        + f" nats a token on held-out problems; LTE minus GRPO {show(more)}; bonus {points(bonus)} points "
        f"of pass@1; with the bonus LTE minus GRPO {points(m.ahead('entropy', 'grpo-entropy', 1))}, "
        f"pass@8 {points(m.ahead('entropy', 'grpo-entropy', 8))}",
        verdict(more[1] > 0 and m.ahead("lte", "grpo", 1)[2] > 0 and bonus[0] > 0),
    )
    beside = {  # added after the look at what 8 says
        "GRPO with the bonus minus GRPO": ("grpo-entropy", "grpo"),
        "minus LTE": ("grpo-entropy", "lte"),
        "placebo minus extra": ("placebo", "extra"),
        "LTE minus placebo": ("lte", "placebo"),
    }
    yield (
        "the bonus alone, and any list, held-out pass@1 and 8",
        "",
        "; ".join(
            f"{what} " + " and ".join(points(m.ahead(*pair, k)) for k in (1, 8))
            for what, pair in beside.items()
        ),
        "reported",
    )


def responses(m):
    """9 and 10."""
    length = m.each("length")
    yield (
        "9 length",
        "LTE's held-out responses longer than GRPO's",
        f"LTE {length['lte']:.1f}, GRPO {length['grpo']:.1f} tokens",
        verdict(length["lte"] > length["grpo"]),
    )
    ratios = [
        [row["hint/log_ratio"] for row in rows if row["hint/log_ratio"]] or [0.0] for rows in m.steps["lte"]
    ]
    first = mean(r[0] for r in ratios)
    begun, ended = (mean(mean(r[part]) for r in ratios) for part in (slice(10), LATE))
    yield (
        "10 ratio",
        "mean log ratio of hinted tokens below 0, not 0 at the first update, and nearer 0 later",
        f"first {first:.3f}, first ten steps {begun:.3f}, last ten {ended:.3f}",
        verdict(first < 0 and begun < 0 and abs(ended) < abs(begun)),
    )


def reported(m):
    """Families, longer problems, and what a run costs."""
    held_out = [one["held_out"] for one in m.start]
    kinds = sorted(set(held_out[0]["families"]))

    def of(kind, one):
        return mean(c / HELD_OUT for c, family in zip(one["right"], one["families"]) if family == kind)

    def by_kind(some):
        return " ".join(f"{kind} {100 * mean(of(kind, one) for one in some):.1f}" for kind in kinds)

    models = {"start": held_out} | {arm: m.found[arm] for arm in ("grpo", "extra", "lte", "grpo-entropy")}
    yield (
        "held-out success by family",
        "",
        "; ".join(f"{name}: {by_kind(some)}" for name, some in models.items()),
        "reported",
    )
    yield longer(m.logs, m.arms, "lte", "grpo")
    phases = [f"time/{phase}" for phase in ("sample", "verify", "train")]
    seconds = {
        arm: mean(sum(row[phase] for row in rows for phase in phases) for rows in m.steps[arm])
        for arm in ("grpo", "extra", "lte")
    }
    cost = {arm: mean(rows[-1]["num_tokens"] for rows in m.steps[arm]) / 1e6 for arm in m.arms}
    rescued = {
        name: mean(row["hint/refine_rate"] for rows in m.steps[arm] for row in rows)
        for name, arm in {"LTE": "lte", "placebo": "placebo", "extra": "extra"}.items()
    }
    yield (
        "cost and rescues",
        "",
        f"million tokens {listed(cost, 1)}; seconds without evaluation {listed(seconds, 0)}; all-wrong "
        f"questions with a rescue: {listed(rescued, 3)}",
        "reported",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
