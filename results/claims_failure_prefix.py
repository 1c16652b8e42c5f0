"""What Failure-Prefix Conditioning claims, as statements that can fail in the tiny task. For run.py.

    python results/run.py failure_prefix                          # all arms -> results/failure_prefix.md
    python results/claims_failure_prefix.py RUN                   # measures any finished run's model
    python results/claims_failure_prefix.py RUN --checkpoint 30   # the same for an earlier checkpoint

S1 to S10: statements about solved problems of the paper's size, with our thresholds, where the paper gives a
number in its neighbourhood.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from statistics import mean

import torch
from analysis import (
    ROOT,
    Analyst,
    above,
    bands,
    final,
    last_checkpoint,
    longer,
    points,
    settings_of,
    student,
    verdict,
)
from failure_prefix_variants import behind_right

sys.path.insert(0, str(ROOT / "tiny"))

import make  # noqa: E402

from common import group_advantages
from failure_prefix import first_failure, prefix_of, training_items
from plumbing.records import read_record, write_aside

SWEPT, ONCE = ["--compare"], ["--bank", "FIRST/bank.jsonl"]
BANK = [*SWEPT, *ONCE]
ENDS = ["--eval-every", "60", "--eval-samples", "1"]  # arms that are in no figure
QUIET = [*BANK, *ENDS]
ARMS = {
    "failure": ["--compare"],
    "plain": [*BANK, "--arm", "plain"],
    "medium": [*BANK, "--behind", "medium"],
    "correct": [*QUIET, "--behind", "correct"],
    "tau-.25": [*QUIET, "--tau", "0.25"],
    "tau-.75": [*QUIET, "--tau", "0.75"],
    "cut-.25": [*QUIET, "--fixed-cut", "0.25"],
    "cut-.5": [*QUIET, "--fixed-cut", "0.5"],
    "cut-.75": [*QUIET, "--fixed-cut", "0.75"],
    "refreshed": [*QUIET, "--refresh-every", "30"],
    "swapped": [*SWEPT, "--bank", "FIRST/swapped.jsonl", *ENDS],
    "scored": QUIET[1:],
    "entropy": [*QUIET, "--arm", "plain", "--entropy-coef", "0.003"],  # a rival of any method here
    # about as many tokens as failure: screening is owed by both, so these are for the tries of cuts (the row
    # on costs says how many)
    "plain-long": [*BANK, "--arm", "plain", "--steps", "150", "--eval-every", "150"],
}
COMMANDS = {arm: ["results/failure_prefix_variants.py"] for arm in ("failure", "medium", "correct")}
COMMANDS["scored"] = ["results/failure_prefix_scored.py"]
SEEDS = range(8)
FEW = {"entropy": 4}  # no verdict rests on it
METRICS = ("num_tokens", "reward", r"time/(sample|verify|train)")
PANELS = {
    r"eval/test/avg@\d+": "test (avg@4)",
    r"eval/harder/avg@\d+": "harder, longer problems (avg@4)",
    "frac_reward_zero_std": "share of zero-variance groups",
}
ZOOMED, LEGEND = tuple(PANELS.values())[:2], 2
SHOWN = ("failure", "plain", "medium")  # in the figure
DRAW = bands(SHOWN)
BEHIND = ("failure", "plain", "scored")  # arms that are asked behind openings, which S5 and S6 are about
HELD_OUT = 16  # samples of each held-out problem, with an opening and without
GROUP = 8  # samples of a training group
LINES = {  # what proofreading counts
    "first": "right at first",
    "last": "right at last",
    "wrong": "wrong ones taken back",
    "right": "right ones taken back",
    "line": "responses wrong with a wrong line",
    "place": "though all are right",
    "cut": "cut off",
}
AGAIN = 64  # samples of a question that is screened again
LINE = re.compile(r"(no )?(?:(\d+)([-+*/])(\d+)|([A-Za-z]\d))=(\d+);")  # a sum or a name's reading; no: again


def openings_of(base):
    """A failing and a right solution of the starting model for every held-out problem that has both.

    -> {problem id: {"failing": token ids, "right": token ids}}: the one source of openings for all models.
    """
    problems = base.problems(base.settings["eval_sets"][0])
    found = {}
    for problem, group in zip(
        problems,
        base.groups([p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "source"),
    ):
        wrong, right = first_failure(group), next((r for r in group if r.reward), None)
        if wrong and right:
            found[problem["id"]] = {"failing": wrong.completion_ids, "right": right.completion_ids}
    return found


def held_out(model, openings):
    """Success on every held-out problem (plain), and on those with openings: behind 30 % of a failing and
    of a right solution, and without. One number a problem, from HELD_OUT samples."""
    problems = model.problems(model.settings["eval_sets"][0])
    groups = model.groups(
        [p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "held out"
    )
    rollouts = [r for group in groups for r in group]
    result = {
        "plain": [mean(r.reward for r in group) for group in groups],
        "families": [p.get("family") for p in problems],
        # a wrong line that was noticed is written again behind "no "
        "noticed": mean("no " in model.tokenizer.decode(r.completion_ids) for r in rollouts),
        "lines": proofreading(model, problems, groups),
        "length": mean(len(r.completion_ids) for r in rollouts),
    }
    some = [p for p in problems if p["id"] in openings]
    for kind in ("failing", "right"):
        contexts = [p["prompt_ids"] + prefix_of(openings[p["id"]][kind], 0.3) for p in some]
        result[kind] = model.rates(contexts, [p["answer"] for p in some], HELD_OUT, kind)
    by_id = dict(zip((p["id"] for p in problems), result["plain"], strict=True))
    result["without"] = [by_id[p["id"]] for p in some]
    return result


def proofread(text, worths):
    """How a solution of the tiny model treats its own lines; those with ~, which has no truth, are left out.

    -> Counter of: "lines", those written first; of those "right" and "right at last", in their latest form;
    "taken back", forms that are written again, and "rightly", of those the wrong ones; "wrong", wrong forms.
    worths: {name: number}.
    """
    said, count = {}, Counter()  # said: what stands at the left of a line -> whether its latest form is right
    for no, a, sign, b, name, number in LINE.findall(text):
        left = name or a + sign + b
        truth = worths.get(name) if name else make.clip(make.SIGNS[sign].right(int(a), int(b)))
        right = int(number) == truth
        if no and left in said:
            count.update({"taken back": 1, "rightly": not said[left], "right at last": right - said[left]})
        else:
            count.update({"lines": 1, "right": right, "right at last": right})
        count["wrong"] += not right
        said[left] = right
    return count


def proofreading(model, problems, groups):
    """Shares, in %: of lines that are right when first written and at last; of wrong forms, and of right
    ones, that are taken back; of responses to problems without ~ that are wrong with a line that is wrong at
    last, though all lines are right, and as they were cut off."""
    worths = {
        name: fact["worth"] for name, fact in json.loads((ROOT / "tiny/names.json").read_text()).items()
    }
    all_lines, ends = Counter(), Counter()
    for problem, group in zip(problems, groups, strict=True):
        sums = "~" not in model.tokenizer.decode(problem["prompt_ids"])
        for r in group:
            lines = proofread(model.tokenizer.decode(r.completion_ids), worths)
            all_lines.update(lines)
            if sums:
                whole = lines["right at last"] == lines["lines"]
                end = "right" if r.right else "cut" if not r.finished else "place" if whole else "line"
                ends.update(["responses", end])
    n, responses = all_lines, max(1, ends["responses"])
    forms, wrong, rightly = n["lines"] + n["taken back"], n["wrong"], n["rightly"]
    return {
        "first": 100 * n["right"] / max(1, n["lines"]),
        "last": 100 * n["right at last"] / max(1, n["lines"]),
        "wrong": 100 * rightly / max(1, wrong),
        "right": 100 * (n["taken back"] - rightly) / max(1, forms - wrong),
        **{end: 100 * ends[end] / responses for end in ("line", "place", "cut")},
    }


def first_go(model):
    """Success on each held-out set if no line can be written again: what opens one is not sampled."""
    (no,) = model.tokenizer("no ").input_ids
    head = model.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, o: o.index_fill(-1, torch.tensor([no]), -torch.inf))
    try:
        return {
            Path(source).stem: mean(model.asked(model.problems(source), GROUP, "first go"))
            for source in model.settings["eval_sets"]
        }
    finally:
        hook.remove()


def signal(model, lines, arm):
    """Over an arm's items: the share of zero-variance groups, the share that success rates predict, the
    mean size of an advantage, and the share of items at a success of .25 to .75."""
    problems = {p["id"]: p for p in model.problems(model.settings["data"])}
    how = {"tau": model.settings["tau"], "fixed_cut": model.settings["fixed_cut"]}
    items = training_items(lines, problems, arm="plain" if arm == "plain" else "failure", **how)
    if arm == "correct":
        items = behind_right(items, [line for line in lines if "failure" in line], problems)
    contexts, golds = [item["prompt_ids"] for item in items], [item["answer"] for item in items]
    rewards = torch.tensor(
        [[r.reward for r in group] for group in model.groups(contexts, golds, GROUP, ("signal", arm))]
    )
    rates = model.rates(contexts, golds, AGAIN, ("rates", arm))
    return {
        "silent": ((rewards == rewards[:, :1]).all(1)).float().mean().item(),
        "predicted": mean(p**GROUP + (1 - p) ** GROUP for p in rates),
        "advantage": group_advantages(rewards).abs().mean().item(),
        "usable": mean(0.25 <= p <= 0.75 for p in rates),
    }


def main(folder, first, checkpoint=None):
    """Writes FOLDER/analysis.json, and into `first`, the folder with the bank, what is the same for all arms.

    Returns both: of the starting model, of the trained one.
    """
    settings = settings_of(folder)
    torch.set_num_threads(settings["threads"] or torch.get_num_threads())
    trained = Analyst(
        Path(folder) / f"checkpoint-{checkpoint:06}" if checkpoint else last_checkpoint(folder), settings
    )
    lines = [line for line in read_record(Path(first) / "bank.jsonl") if line["generation"] == 0]
    source, start = Path(first) / "openings.json", Path(first) / "start.json"
    if not (Path(first) / "swapped.jsonl").exists():
        leave_swapped(first, lines)
    if not source.exists():
        write_aside(source, json.dumps(openings_of(Analyst(settings["model"], settings))))
    openings = {int(key): value for key, value in json.loads(source.read_text()).items()}
    if not start.exists():
        base = Analyst(settings["model"], settings)
        begin = {
            "held_out": held_out(base, openings),
            "failing_again": again(base, lines),
            "first_go": first_go(base),
        }
        arms = ["failure", "plain"] + ["correct"] * any("correct" in line for line in lines)
        begin |= {arm: signal(base, lines, arm) for arm in arms}
        start.write_text(json.dumps(begin))
    arm = Path(folder).parent.name  # of the table's, or another folder of a user's
    result = {"held_out": held_out(trained, openings if arm not in ARMS or arm in BEHIND else {})}
    if arm in ("failure", "plain"):
        result["first_go"] = first_go(trained)
    if Path(folder) == Path(first):
        result |= {"old_openings": signal(trained, lines, "failure"), "failing_again": again(trained, lines)}
    (Path(folder) / "analysis.json").write_text(json.dumps(result))
    return json.loads(start.read_text()), result


def report(start, found):
    """What main measured, for a reader."""

    def share(values):
        return f"{100 * mean(values):.1f}" if values else "none"

    lines = [f"{'held-out success, % of samples':34} {'start':>7} {'now':>7}"]
    for name, kind in (
        ("of all questions", "plain"),
        ("of those with openings", "without"),
        ("  behind 30 % of a failure", "failing"),
        ("  behind 30 % of a right answer", "right"),
    ):
        lines.append(f"{name:34} {share(start['held_out'][kind]):>7} {share(found['held_out'][kind]):>7}")
    lines.append(
        f"{'tokens of a held-out response':34} {start['held_out']['length']:7.1f} "
        f"{found['held_out']['length']:7.1f}"
    )
    now = {"openings, by the trained model": found["old_openings"]} if "old_openings" in found else {}
    for name, one in {
        "openings, at the start": start["failure"],
        "plain, at the start": start["plain"],
        **now,
    }.items():
        lines.append(
            f"zero-variance groups of {GROUP}, {name}: {one['silent']:.3f}; p^G + (1-p)^G says "
            f"{one['predicted']:.3f}"
        )
    return "\n".join(lines)


def leave_swapped(first, lines):
    """The bank in which every question has another one's failure: the control of the arm swapped."""
    usable = [line for line in lines if "failure" in line]
    swapped = {
        line["id"]: line | {"failure": other["failure"], "rates": other["rates"]}
        for line, other in zip(usable, usable[1:] + usable[:1])
    }
    bank = [swapped.get(line["id"], line) for line in lines]  # the others count: they were screened as well
    write_aside(Path(first) / "swapped.jsonl", "".join(json.dumps(line) + "\n" for line in bank))


def again(model, lines):
    """Of the questions of a bank, the share that fails at least once in AGAIN samples."""
    problems = {p["id"]: p for p in model.problems(model.settings["data"])}
    questions = [problems[line["id"]] for line in lines if "failure" in line]
    groups = model.groups(
        [q["prompt_ids"] for q in questions], [q["answer"] for q in questions], AGAIN, "again"
    )
    return mean(first_failure(group) is not None for group in groups)


# ---- the statements ----


class Measured:
    """What the statements are about, of all runs. logs: packed.Logs. held: of an arm or of "start"."""

    def __init__(self, logs):
        self.logs, self.start = logs, logs.measured("failure", "start")
        self.found = {arm: logs.measured(arm) for arm in logs.arms}
        self.rows = {arm: logs.rows(arm) for arm in logs.arms}
        some = {"start": self.start} | self.found
        self.held = {arm: [run["held_out"] for run in runs] for arm, runs in some.items()}
        self.silent = {arm: mean(s[arm]["silent"] for s in self.start) for arm in ("failure", "plain")}
        self.gains = {arm: self.ahead(arm, "start") for arm in logs.arms}

    def leads(self, arm, other):
        """Held-out success of an arm minus another's, for each seed that both have."""
        return [mean(a["plain"]) - mean(b["plain"]) for a, b in zip(self.held[arm], self.held[other])]

    def ahead(self, arm, other):
        return student(self.leads(arm, other))

    def behind(self, arm, kind):
        """What an opening of this kind adds to success on the same problems, a mean over runs."""
        return mean(mean(b - a for a, b in zip(one["without"], one[kind])) for one in self.held[arm])

    def of_arms(self, *arms):
        return ", ".join(points(self.gains[arm]) for arm in arms)


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    measured = Measured(logs)
    for part in (headline, signal_of_openings, robustness, choices, controls, mending, reported):
        yield from part(measured)


def headline(m):
    """Against the same questions without openings; S4."""
    for other, why in (
        ("plain", "as many updates"),
        ("plain-long", "about as many tokens, mining included"),
    ):
        yield above(f"failure above {other}: {why}, held-out points", m.leads("failure", other))
        ends = [final(m.rows[arm], "harder") for arm in ("failure", other)]
        yield above(
            f"failure above {other}: {why}, longer problems (harder), points",
            [a - b for a, b in zip(*ends)],
        )
    medium = m.ahead("failure", "medium")
    yield (
        "S4 held-out gain, points",
        "above 0; plain at most a third of it, for as many tokens as well; not below the arm medium",
        f"failure {m.of_arms('failure')}, plain {m.of_arms('plain')}, for as many tokens "
        f"{m.of_arms('plain-long')}, medium {m.of_arms('medium')}; failure - medium {points(medium)}",
        verdict(
            m.gains["failure"][1] > 0
            and max(m.gains["plain"][0], m.gains["plain-long"][0]) <= m.gains["failure"][0] / 3
            and medium[2] >= 0
        ),
    )


def signal_of_openings(m):
    """P3, S1 to S3."""
    usable = mean(s["failure"]["usable"] for s in m.start)
    yield (
        "P3 usable cuts",
        "70 % of the chosen cuts re-measure at .25 to .75",
        f"{usable:.2f}",
        verdict(usable >= 0.7),
    )
    off = max(abs(s[arm]["silent"] - s[arm]["predicted"]) for s in m.start for arm in ("failure", "plain"))
    yield (
        "S1 signal",
        "zero-variance groups of 8 at the start: plain .6 or more, openings a third of that or less; as "
        "p^8 + (1-p)^8 predicts, within .1",
        f"plain {m.silent['plain']:.2f}, openings {m.silent['failure']:.2f}; largest difference to the "
        f"prediction {off:.2f}",
        verdict(m.silent["plain"] >= 0.6 and m.silent["failure"] <= m.silent["plain"] / 3 and off <= 0.1),
    )
    size = [mean(s[arm]["advantage"] for s in m.start) for arm in ("failure", "plain")]
    yield (
        "S2 size of advantages",
        "mean size of A at least twice that of plain",
        "{:.2f} against {:.2f}".format(*size),
        verdict(size[0] >= 2 * size[1]),
    )
    rise = [
        mean(
            mean(r["reward"] for r in rows[-10:]) - mean(r["reward"] for r in rows[1:6])
            for rows in m.rows[arm]
        )
        for arm in ("failure", "plain")
    ]
    yield (
        "S3 training reward",
        "rises by .15 on openings, by less than .03 on plain (last ten steps against the first five)",
        "{:+.2f}, {:+.2f}".format(*rise),
        verdict(rise[0] >= 0.15 and abs(rise[1]) < 0.03),
    )


def robustness(m):
    """S5, S6, and S5 with a loss on the opening."""
    drops = {arm: -m.behind(arm, "failing") for arm in ("start", "failure", "plain", "scored")}
    yield (
        "S5 robustness",
        "behind 30 % of a failing solution the trained model loses at most .75 of what the starting "
        "model does, plain more",
        "start {start:.1f} points, failure {failure:.1f}, plain {plain:.1f}".format(
            **{arm: 100 * drop for arm, drop in drops.items()}
        ),
        verdict(drops["failure"] <= 0.75 * drops["start"] < drops["plain"]),
    )
    lifts = [m.behind(arm, "right") for arm in ("start", "failure")]
    level = [mean(mean(one["right"]) for one in m.held[arm]) for arm in ("start", "failure")]
    yield (
        "S6 right openings",
        "bring the trained model no more than the starting model; success behind them falls by at most 2 "
        "points",
        "{:+.1f} points before, {:+.1f} after; success {:.1f} to {:.1f}".format(
            *(100 * x for x in lifts + level)
        ),
        verdict(lifts[1] <= lifts[0] and level[1] >= level[0] - 0.02),
    )
    lost = {arm: [mean(one["without"]) - mean(one["failing"]) for one in m.held[arm]] for arm in drops}
    worse = student([a - b for a, b in zip(lost["scored"], lost["failure"])])
    yield (
        "control: loss on the opening as well",
        "S5 gets worse, interval above 0",
        f"behind a failing opening it loses {100 * drops['scored']:.1f} points, {points(worse)} more; gain "
        f"{m.of_arms('scored')}",
        verdict(worse[1] > 0),
    )


def choices(m):
    """S7 to S10."""
    taus, cuts = (("tau-.25", "failure", "tau-.75"), ("cut-.25", "cut-.5", "cut-.75"))
    heights, fixed = ([m.gains[arm][0] for arm in arms] for arms in (taus, cuts))
    yield (
        "S7 tau .25, .5, .75",
        "all above plain; spread below half of their mean gain",
        m.of_arms(*taus),
        verdict(min(heights) > m.gains["plain"][0] and max(heights) - min(heights) < 0.5 * mean(heights)),
    )
    yield (
        "S8 fixed cuts .25, .5, .75",
        "above plain",
        m.of_arms(*cuts),
        verdict(min(fixed) > m.gains["plain"][0]),
    )
    fails = [mean(one["failing_again"] for one in some) for some in (m.start, m.found["failure"])]
    old = [m.silent["failure"], mean(run["old_openings"]["silent"] for run in m.found["failure"])]
    fresh = m.ahead("refreshed", "failure")
    yield (
        "S9 refreshing",
        "fewer questions fail after training; old openings are more often silent; fresh ones after half "
        "of the steps bring more",
        f"failing within {AGAIN}: {fails[0]:.2f} to {fails[1]:.2f}; silent {old[0]:.2f} to {old[1]:.2f}; "
        f"refreshed - failure {points(fresh)}",
        verdict(fails[1] < fails[0] and old[1] > old[0] and fresh[1] > 0),
    )
    arms = ("start", "failure", "plain", "medium")
    lengths = {arm: mean(one["length"] for one in m.held[arm]) for arm in arms}
    yield (
        "S10 length",
        "held-out responses change by less than 15 %",
        ", ".join(f"{arm} {length:.1f}" for arm, length in lengths.items()) + " tokens",
        verdict(abs(lengths["failure"] / lengths["start"] - 1) < 0.15),
    )


def controls(m):
    """Other openings, and an entropy bonus in place of any."""
    hushed = mean(s["correct"]["silent"] for s in m.start)
    yield (
        "control: right openings of the same length",
        "as silent as plain, and no gain",
        f"silent {hushed:.2f}; {m.of_arms('correct')}",
        verdict(hushed >= m.silent["plain"] - 0.05 and m.gains["correct"][1] <= 0),
    )
    yield (
        "control: another question's openings",
        "smaller gain than with one's own",
        f"{m.of_arms('swapped')} against {m.of_arms('failure')}",
        verdict(m.gains["swapped"][0] < m.gains["failure"][0]),
    )
    yield (
        "plain questions with an entropy bonus of .003",
        "",
        f"minus plain {points(m.ahead('entropy', 'plain'))}; failure minus it "
        f"{points(m.ahead('failure', 'entropy'))}",
        "reported",
    )


def mending(m):
    """Why: what becomes of lines, and of responses if none is taken back. All reported."""
    yield (
        "held-out responses in which a line is written again, %",
        "",
        ", ".join(f"{arm} {100 * mean(one['noticed'] for one in some):.0f}" for arm, some in m.held.items()),
        "reported",
    )
    goes = {"start": [one["first_go"] for one in m.start]}
    goes |= {arm: [one["first_go"] for one in m.found[arm]] for arm in ("failure", "plain")}
    for name in ("test", "harder"):
        each = {arm: [one[name] for one in some] for arm, some in goes.items()}
        less = [
            points(student([a - b for a, b in zip(each["failure"], each[other])]))
            for other in ("plain", "start")
        ]
        yield (
            f"if no line can be written again: {name}",
            "",
            ", ".join(f"{arm} {100 * mean(some):.1f}" for arm, some in each.items())
            + "; failure minus plain {}, minus start {}".format(*less),
            "reported",
        )
    for arm in ("start", "failure", "plain", "medium"):
        share = {what: mean(one["lines"][what] for one in m.held[arm]) for what in m.held[arm][0]["lines"]}
        yield (
            f"lines of held-out responses, {arm}",
            "",
            "right when first written {first:.1f} %, at last {last:.1f}; taken back {wrong:.1f} % of the "
            "wrong ones and {right:.1f} of the right ones; responses that are wrong with a wrong line "
            "{line:.1f} %, though all lines are right {place:.1f}, cut off {cut:.1f}".format(**share),
            "reported",
        )
    pairs = list(zip(*([one["lines"] for one in m.held[arm]] for arm in ("failure", "plain"))))
    apart = {text: student([a[what] - b[what] for a, b in pairs]) for what, text in LINES.items()}
    yield (
        "lines and responses, failure minus plain, points",
        "",
        ", ".join("{} {:+.1f} [{:+.1f}, {:+.1f}]".format(text, *gap) for text, gap in apart.items()),
        "reported",
    )


def reported(m):
    """Families, longer problems, cost."""
    for arm in ("start", "failure", "plain", "medium"):
        families = sorted(set(m.held[arm][0]["families"]))
        success = {
            family: mean(
                mean(p for p, kind in zip(one["plain"], one["families"]) if kind == family)
                for one in m.held[arm]
            )
            for family in families
        }
        yield (
            f"held-out success by family, {arm}",
            "",
            ", ".join(f"{family} {100 * p:.1f}" for family, p in success.items()),
            "reported",
        )
    yield longer(m.logs, ("failure", "plain", "medium", "plain-long"), "failure", "plain")
    million = {arm: mean(rows[-1]["num_tokens"] for rows in some) / 1e6 for arm, some in m.rows.items()}
    mining = [mean(rows[0]["num_tokens"] for rows in m.rows[arm]) / 1e6 for arm in ("failure", "plain")]
    phases = ("sample", "verify", "train")
    seconds = {
        arm: mean(
            sum(row.get(f"time/{phase}", 0) for row in rows for phase in phases) for rows in m.rows[arm]
        )
        for arm in ("failure", "plain")
    }
    yield (
        "control: cost",
        "",
        "million tokens "
        + ", ".join(f"{arm} {million[arm]:.2f}" for arm in ("failure", "plain", "plain-long"))
        + "; of failure's {:.2f} were spent before step 1, of plain's {:.2f}; ".format(*mining)
        + "seconds of training "
        + ", ".join(f"{arm} {s:.0f}" for arm, s in seconds.items()),
        "reported",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "first", nargs="?", help="folder with the bank, default: that of the run's --bank, or the run itself"
    )
    parser.add_argument("--checkpoint", type=int, help="step, default: the last")
    args = parser.parse_args()
    bank = settings_of(args.run)["bank"]
    print(
        report(*main(args.run, args.first or (str(Path(bank).parent) if bank else args.run), args.checkpoint))
    )
