"""What LTE claims, as statements that can fail, measured in the tiny task. Used by run.py.

    python results/run.py lte                           # trains all arms and writes results/lte.md
    python results/claims_lte.py RUN FIRST_ARM_RUN      # measures one model -> RUN/analysis.json

Statements 1 to 10 carry the numbers of our list; thresholds are ours. None-pass, some-pass and all-pass are
counts of questions whose first group of G, before any hint, is all wrong, mixed, all right.
"""

import json
import statistics
import sys
from pathlib import Path

import torch
from analysis import (
    OTHER_TASK,
    Analyst,
    above,
    bands,
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
        "length": statistics.fmean(len(r.completion_ids) for r in rollouts),
        "entropy": statistics.fmean(-logp for r in rollouts for logp in r.logps),
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


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    found, start = {arm: logs.measured(arm) for arm in logs.arms}, logs.measured("lte", "start")
    arms = [arm for arm in logs.arms if not arm.endswith("another task")]
    metrics = {arm: [rows[1:] for rows in logs.rows(arm)] for arm in arms}
    mean = statistics.fmean
    third = len(metrics["lte"][0]) // 3

    def count(arm, kind, last):
        """Mean count over the last steps, for each seed."""
        return [mean(row[f"hint/{kind}_pass"] for row in rows[-last:]) for rows in metrics[arm]]

    def passes(some, k):
        return [[pass_at_k(HELD_OUT, c, k) for c in one["right"]] for one in some]

    def gap(kind, one, other, last=10):
        return student([a - b for a, b in zip(count(one, kind, last), count(other, kind, last), strict=True)])

    batch = sum(metrics["grpo"][0][0][f"hint/{kind}_pass"] for kind in ("none", "some", "all"))

    def show(triple):
        return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*triple)

    middle = {
        kind: mean(
            mean(row[f"hint/{kind}_pass"] for row in rows[third : 2 * third]) for rows in metrics["grpo"]
        )
        for kind in ("none", "all")
    }
    late = {kind: mean(count("grpo", kind, third)) for kind in ("none", "all")}
    yield (
        "1 GRPO stagnates",
        "none-pass falls by less than a tenth from middle to last third, stays above a tenth of the "
        "batch; all-pass rises",
        f"none-pass {middle['none']:.1f} to {late['none']:.1f} of {batch}, all-pass {middle['all']:.1f} to "
        f"{late['all']:.1f}",
        verdict(
            middle["none"] - late["none"] < 0.1 * middle["none"]
            and late["none"] > batch / 10
            and late["all"] > middle["all"]
        ),
    )
    tried = start[0]["hints"]  # the same in all seeds: intervals are over questions
    better = {
        kind: student([a - b for a, b in zip(tried["own"], tried[kind])]) for kind in ("plain", "other")
    }
    yield (
        "2 the hint works before any learning",
        "all-wrong questions: more success than with as many plain tries, points",
        f"{100 * mean(tried['own']):.1f} % against {100 * mean(tried['plain']):.1f} %: "
        f"{points(better['plain'])} over {len(tried['own'])} questions",
        verdict(better["plain"][1] > 0),
    )
    yield (
        "3 it is the content",
        "more success than with another question's answers",
        f"{100 * mean(tried['own']):.1f} % against {100 * mean(tried['other']):.1f} %: "
        f"{points(better['other'])} over {len(tried['own'])} questions",
        verdict(better["other"][1] > 0),
    )
    gaps = {arm: gap("none", "lte", arm) for arm in ("grpo", "extra", "placebo", "matched")}
    early = mean(
        mean(row["hint/none_pass"] for row in a[:5]) - mean(row["hint/none_pass"] for row in b[:5])
        for a, b in zip(metrics["lte"], metrics["grpo"])
    )
    yield (
        "4 it transfers to the plain question",
        "none-pass of the last ten steps below GRPO's and GRPO-Extra's; not so in the first five",
        "LTE minus "
        + ", ".join(f"{arm} {show(g)}" for arm, g in gaps.items())
        + f"; in the first five steps, GRPO {early:+.2f}",
        verdict(gaps["grpo"][2] < 0 and gaps["extra"][2] < 0 and abs(early) < 0.5 * abs(gaps["grpo"][0])),
    )
    end = {arm: {k: passes(found[arm], k) for k in KS} for arm in arms}
    begin = {k: passes([one["held_out"] for one in start], k) for k in KS}

    for other, why in (("grpo", "as many updates"), ("matched", "about as many tokens")):
        for k in (1, 8):
            what = f"LTE above GRPO ({other}): {why}, held-out pass@{k}"
            yield above(what, leads(end["lte"][k], end[other][k]))
    for k in (1, 8):
        pair = (passes(found[f"{arm}, another task"], k) for arm in ("lte", "grpo"))
        yield above(f"LTE above GRPO in another task: as many updates, held-out pass@{k}", leads(*pair))

    def level(some):
        return 100 * mean(map(mean, some))

    def nearer(value, low, high):
        return abs(value - low) < abs(value - high)

    none = {arm: mean(count(arm, "none", 10)) for arm in arms}
    yield (
        "5 more samples alone are not it",
        "GRPO-Extra nearer GRPO than LTE, in none-pass and held-out pass@8",
        ", ".join(
            f"{arm} {none[arm]:.1f} and {level(end[arm][8]):.1f}"
            for arm in ("grpo", "extra", "matched", "placebo", "lte")
        )
        + f"; LTE minus extra, pass@8 {points(student(leads(end['lte'][8], end['extra'][8])))}",
        verdict(
            nearer(none["extra"], none["grpo"], none["lte"])
            and nearer(level(end["extra"][8]), level(end["grpo"][8]), level(end["lte"][8]))
        ),
    )
    some, full = gap("some", "lte", "grpo"), gap("all", "lte", "grpo")
    yield (
        "6 more learnable, not more saturated questions",
        "some-pass above GRPO's, all-pass no higher, last ten steps",
        f"some-pass {show(some)}, all-pass {show(full)} of {batch}",
        verdict(some[1] > 0 and full[1] <= 0),
    )
    table = "; ".join(
        f"{arm} " + " ".join(f"{level(v[k]):.1f}" for k in KS) for arm, v in {"start": begin, **end}.items()
    )
    lead = {k: student(leads(end["lte"][k], end["grpo"][k])) for k in KS}
    yield (
        f"7 upper bound, held-out pass@{', '.join(map(str, KS))}",
        "GRPO at the largest k no better than the start; LTE ahead of it there by more than at 1",
        f"{table}; LTE minus GRPO " + ", ".join(points(lead[k]) for k in KS),
        verdict(level(end["grpo"][KS[-1]]) <= level(begin[KS[-1]]) and lead[KS[-1]][0] > max(0, lead[1][0])),
    )
    heat = {arm: mean(one["entropy"] for one in found[arm]) for arm in arms}
    more = student([a["entropy"] - b["entropy"] for a, b in zip(found["lte"], found["grpo"], strict=True)])
    bonus = student(leads(end["entropy"][1], end["lte"][1]))
    yield (
        "8 entropy",
        "LTE's above GRPO's at the end, at no lower pass@1; a bonus adds to the lead",
        ", ".join(f"{arm} {heat[arm]:.3f}" for arm in ("lte", "grpo", "entropy"))
        + f" nats a token on held-out problems; LTE minus GRPO {show(more)}; bonus {points(bonus)} points "
        "of pass@1; "
        "with the bonus LTE minus GRPO "
        f"{points(student(leads(end['entropy'][1], end['grpo-entropy'][1])))}",
        verdict(more[1] > 0 and lead[1][2] > 0 and bonus[0] > 0),
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
            f"{what} " + " and ".join(points(student(leads(end[a][k], end[b][k]))) for k in (1, 8))
            for what, (a, b) in beside.items()
        ),
        "reported",
    )
    length = {arm: mean(one["length"] for one in found[arm]) for arm in arms}
    yield (
        "9 length",
        "LTE's held-out responses longer than GRPO's",
        f"LTE {length['lte']:.1f}, GRPO {length['grpo']:.1f} tokens",
        verdict(length["lte"] > length["grpo"]),
    )
    ratios = [
        [row["hint/log_ratio"] for row in rows if row["hint/log_ratio"]] or [0.0] for rows in metrics["lte"]
    ]
    first = mean(r[0] for r in ratios)
    begun, ended = (mean(mean(r[part]) for r in ratios) for part in (slice(10), slice(-10, None)))
    yield (
        "10 ratio",
        "mean log ratio of hinted tokens below 0, not 0 at the first update, and nearer 0 later",
        f"first {first:.3f}, first ten steps {begun:.3f}, last ten {ended:.3f}",
        verdict(first < 0 and begun < 0 and abs(ended) < abs(begun)),
    )
    kinds = sorted(set(start[0]["held_out"]["families"]))

    def of(one, kind):
        return mean(c / HELD_OUT for c, family in zip(one["right"], one["families"]) if family == kind)

    parts = {
        name: " ".join(f"{kind} {100 * mean(of(one, kind) for one in some):.1f}" for kind in kinds)
        for name, some in {
            "start": [one["held_out"] for one in start],
            **{arm: found[arm] for arm in ("grpo", "extra", "lte")},
        }.items()
    }
    yield (
        "held-out success by family",
        "",
        "; ".join(f"{name}: {text}" for name, text in parts.items()),
        "reported",
    )
    yield longer(logs, arms, "lte", "grpo")
    phases = [f"time/{phase}" for phase in ("sample", "verify", "train")]
    seconds = {
        arm: mean(sum(row[phase] for row in rows for phase in phases) for rows in metrics[arm])
        for arm in ("grpo", "extra", "lte")
    }
    cost = {arm: mean(rows[-1]["num_tokens"] for rows in metrics[arm]) / 1e6 for arm in arms}
    refine = [
        mean(row["hint/refine_rate"] for rows in metrics[arm] for row in rows)
        for arm in ("lte", "placebo", "extra")
    ]
    yield (
        "cost and rescues",
        "",
        "million tokens "
        + ", ".join(f"{arm} {value:.1f}" for arm, value in cost.items())
        + "; seconds without evaluation "
        + ", ".join(f"{arm} {value:.0f}" for arm, value in seconds.items())
        + f"; all-wrong questions with a rescue: LTE {refine[0]:.3f}, placebo {refine[1]:.3f}, extra "
        f"{refine[2]:.3f}",
        "reported",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
