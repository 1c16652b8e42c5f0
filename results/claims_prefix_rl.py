"""What PrefixRL claims, as statements that can fail, measured in the tiny task. Used by run.py.

    python results/run.py prefix_rl                          # all arms -> results/prefix_rl.md
    python results/claims_prefix_rl.py RUN FIRST_ARM_RUN     # measures one model -> RUN/analysis.json

S1 to S12: statements about unsolved questions of the paper's size, with our thresholds. All arms end at the
same number of floating point operations, of which every arm that uses the traces is charged their
collection. Accuracies are without an opening unless said otherwise.
"""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean as mean

import numpy
import torch
from analysis import (
    ROOT,
    Analyst,
    above,
    bands,
    final,
    last_checkpoint,
    leads,
    points,
    settings_of,
    student,
    verdict,
)

sys.path.insert(0, str(ROOT / "tiny"))

import make  # noqa: E402

from common import Rollout, collate, completion_logps, group_advantages, verify
from plumbing.data import Shuffled
from plumbing.records import read_record, write_aside
from prefix_rl import reinforce_loss, score_joined, training_set

# of the script's 6e12 the traces take two thirds, of this .4 (eight seeds; the paper's .18 to .28, derived);
# one held-out set: it is evaluated often, and what is claimed is about unsolved questions
SWEPT = ["--compare", "--max-flops", "1e13", "--eval-sets", "tiny/test.jsonl"]
ONCE = ["--traces", "FIRST/traces.jsonl"]
TRACES = [*SWEPT, *ONCE]
QUIET = [*TRACES, "--eval-every", "400", "--eval-samples", "1"]  # arms without a curve in figure or rows
ARMS = {
    "mixture": SWEPT,
    "prefix-only": [*TRACES, "--arm", "prefix-only"],
    "plain": [*TRACES, "--arm", "plain"],
    "plain-64": [*QUIET, "--arm", "plain", "--group-size", "64", "--prompts-per-step", "2"],
    "entropy": [*QUIET, "--arm", "plain", "--entropy-coef", "0.003"],  # a rival of any method here
    "plain-early": [*QUIET, "--arm", "plain", "--steps", "80"],  # what the first right answers change
    "mixture-early": [*QUIET, "--steps", "80"],
    "true": [*SWEPT, "--traces", "FIRST/true.jsonl"],  # openings of true solutions in place of traces
    "sft": TRACES[1:],
    "weighted": QUIET[1:],
    "band-.2": [*QUIET, "--arm", "prefix-only", "--cut-from", "0.2", "--cut-to", "0.4"],
    "band-.4": [*QUIET, "--arm", "prefix-only", "--cut-from", "0.4", "--cut-to", "0.6"],
    "band-.6": [*QUIET, "--arm", "prefix-only", "--cut-from", "0.6", "--cut-to", "0.8"],
}
COMMANDS = {
    "mixture": ["results/prefix_rl_variants.py"],
    "plain": ["results/prefix_rl_variants.py"],
    "plain-64": ["results/prefix_rl_variants.py"],
    "entropy": ["results/prefix_rl_variants.py"],
    "sft": ["results/prefix_rl_baselines.py", "sft"],
    "weighted": ["results/prefix_rl_baselines.py", "weighted"],
}
SEEDS = range(8)
FEW = {arm: 4 for arm in ("entropy", "weighted", "band-.2", "band-.4", "band-.6")}  # no verdict rests on them
METRICS = ("num_tokens", r"time/(sample|verify|train)", "prefix/zero_std_without", "prefix/has_answer")
SHOWN = ("mixture", "prefix-only", "plain", "sft")  # in the figure
DRAW = bands(SHOWN)
PANELS = {
    r"eval/unsolved/avg@\d+": "success on the unsolved questions",
    r"eval/test/avg@\d+": "held-out score (avg@n)",
    "reward": "training reward",
}
ZOOMED = ("held-out score (avg@n)",)
AGAINST = ("flops", "floating point operations")  # the figure's x-axis
FRACTIONS = (0, 0.2, 0.4, 0.6, 0.8)
SAMPLES, BATCHES = 32, 16  # of each question and opening; of the gradient
ELSEWHERE = 200, 16  # questions that share no name with those that are trained on, and samples of each
NAME, READING = re.compile(r"[A-Za-z]\d"), re.compile(r"([A-Za-z]\d)=(\d+);")


def questions_of(model, first):
    """The unsolved questions with their traces, and whether they are trained on: the last block of the
    search may find more than that."""
    traces = {
        line["id"]: line["trace"] for line in read_record(Path(first) / "traces.jsonl") if "trace" in line
    }
    trained = list(traces)[: model.settings["questions"]]
    return [
        p | {"trace": traces[p["id"]], "trained": p["id"] in trained}
        for p in model.problems("tiny/train.jsonl")
        if p["id"] in traces
    ]


def true_solution(problem, worths):
    """A solution that reads every name rightly and slips nowhere, as the tiny model writes one."""
    value, *steps = make.parts_of(problem)
    lines = []
    for sign, part in zip(steps[::2], steps[1::2], strict=True):
        number = worths.get(part, part)
        lines += [f"{part}={number}; "] * (part in worths)
        result = make.clip(make.SIGNS[sign].right(value, number))
        lines.append(f"{value}{sign}{number}={result}; ")
        value = result
    return "".join(lines) + f"\\boxed{{{value}}}"


def leave_true(model, first):
    """true.jsonl: the traces with true solutions in their place, for the arm `true`. Returns which questions
    have a trace that reads every name rightly, by id: verified was its answer alone."""
    names = json.loads((ROOT / "tiny/names.json").read_text())
    worths = {name: fact["worth"] for name, fact in names.items()}
    texts = [json.loads(line)["problem"] for line in (ROOT / "tiny/train.jsonl").read_text().splitlines()]
    lines, sound = read_record(Path(first) / "traces.jsonl"), {}
    for line in (line for line in lines if "trace" in line):
        problem = texts[line["id"]]
        written = dict(READING.findall(model.tokenizer.decode(line["trace"])))  # the last time counts
        sound[line["id"]] = written == {n: str(worths[n]) for n in NAME.findall(problem)}
        ids = model.tokenizer(true_solution(problem, worths)).input_ids
        line["trace"] = [*ids, model.tokenizer.eos_token_id]
    write_aside(Path(first) / "true.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return sound


def collected(first):
    """How many questions were asked, had no right answer when they were screened, and got a trace; how many
    attempts that took, and the share of their tokens that went to questions that got none."""
    lines = read_record(Path(first) / "traces.jsonl")
    return {
        "questions": len(lines),
        "unsolved": sum(not line["right"] for line in lines),
        "traces": sum("trace" in line for line in lines),
        "attempts": sum(line["attempts"] for line in lines),
        "in_vain": sum(line["tokens"] for line in lines if "trace" not in line)
        / sum(line["tokens"] for line in lines),
    }


def by_fraction(model, questions):
    """Success behind openings of each length, {fraction: one number a question}, the questions' families,
    which are trained on, and the mean -log p of what is sampled without an opening, in nats a token."""
    table, surprise = {}, []
    for fraction in FRACTIONS:
        openings = [q["trace"][: int(fraction * len(q["trace"]))] for q in questions]
        groups = model.groups(
            [q["prompt_ids"] + o for q, o in zip(questions, openings)],
            [q["answer"] for q in questions],
            SAMPLES,
            ("by fraction", fraction),
        )
        rollouts = [r for group in groups for r in group]
        before = [opening for opening in openings for _ in range(SAMPLES)]
        golds = [q["answer"] for q in questions for _ in range(SAMPLES)]
        score_joined(rollouts, before, golds, model.tokenizer, verify, None)
        table[str(fraction)] = [mean(r.reward for r in group) for group in groups]
        if not fraction:
            surprise = [-logp for r in rollouts for logp in r.logps]
    return {
        "by_fraction": table,
        "families": [q["family"] for q in questions],
        "trained": [q["trained"] for q in questions],
        "entropy": mean(surprise),
    }


def elsewhere(model, questions):
    """Success on hard and relay questions without a name of those that are trained on, and mean -log p of
    what is sampled there, in nats a token."""
    texts = [json.loads(line)["problem"] for line in (ROOT / "tiny/train.jsonl").read_text().splitlines()]
    trained = {name for q in questions for name in NAME.findall(texts[q["id"]])}
    others = [
        p
        for p in model.problems("tiny/train.jsonl")
        if p["family"] in ("hard", "relay") and trained.isdisjoint(NAME.findall(texts[p["id"]]))
    ]
    count, samples = ELSEWHERE
    others = Shuffled(others, 0).draw(count)
    golds = [p["answer"] for p in others]
    groups = model.groups([p["prompt_ids"] for p in others], golds, samples, "elsewhere")
    rollouts = [r for group in groups for r in group]
    return {
        "success": mean(r.reward for r in rollouts),
        "entropy": mean(-logp for r in rollouts for logp in r.logps),
    }


def gradients(model, items, settings, purpose, traces=None):
    """Over BATCHES batches the norm of the mean gradient, less what noise adds, and the spread around it.

    traces: {prompt ids: Rollout} of right answers that take the last place in the group of their question,
    with weights p / p of their model, which are 1 for the model that wrote them.
    """
    order, found, size = Shuffled(items, 0), [], settings["group_size"]
    for place in range(BATCHES):
        part = order.draw(settings["prompts_per_step"])
        contexts, golds = [q["prompt_ids"] for q in part], [q["answer"] for q in part]
        groups = model.groups(contexts, golds, size, (purpose, place))
        rollouts = [r for group in groups for r in group]
        for i in range(size - 1, len(rollouts), size) if traces else ():
            rollouts[i] = replace(traces[tuple(rollouts[i].prompt_ids)])  # may be drawn twice
        prefixes, golds = ([q[name] for q in part for _ in range(size)] for name in ("prefix", "answer"))
        score_joined(rollouts, prefixes, golds, model.tokenizer, verify, None)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, size)
        advantages = group_advantages(rewards, scale_by_std=False).flatten().tolist()
        for rollout, advantage in zip(rollouts, advantages, strict=True):
            rollout.advantage = advantage
        batch = collate(rollouts, "cpu")
        logps, _ = completion_logps(model.model, batch, batch["temperatures"])
        loss, _ = reinforce_loss(
            logps,
            batch["advantages"],
            batch["completion_mask"],
            loss_type="sequence-sum",
            num_sequences=len(rollouts),
        )
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.model.parameters()))])
        )
    middle = torch.stack(found).mean(0)
    noise = torch.stack([(g - middle).square().sum() for g in found]).sum() / (BATCHES - 1)
    return {
        "signal": max(0.0, (middle.square().sum() - noise / BATCHES).item()) ** 0.5,
        "noise": noise.item() ** 0.5,
    }


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)
    trained = Analyst(last_checkpoint(folder), settings)
    questions = questions_of(trained, first)
    after = by_fraction(trained, questions)
    if Path(folder).parent.name.endswith("-early"):
        base = Analyst(settings["model"], settings)
        after |= {"elsewhere": elsewhere(trained, questions), "elsewhere_before": elsewhere(base, questions)}
    (Path(folder) / "analysis.json").write_text(json.dumps(after))
    if folder == first:
        base = Analyst(settings["model"], settings)
        start = by_fraction(base, questions) | {"collected": collected(first)}
        sound = leave_true(base, first)
        start["sound"] = [sound[q["id"]] for q in questions]
        questions = [q for q in questions if q["trained"]]
        ids, traces = {q["id"]: q for q in questions}, {q["id"]: q["trace"] for q in questions}
        how = {
            "cuts": settings["cuts"],
            "low": settings["cut_from"],
            "high": settings["cut_to"],
            "seed": settings["seed"],
        }
        sets = {arm: training_set(ids, traces, arm=arm, **how) for arm in ("mixture", "plain")}
        start["gradients"] = {arm: gradients(base, items, settings, arm) for arm, items in sets.items()}
        whole = {
            tuple(q["prompt_ids"]): Rollout(q["prompt_ids"], q["trace"], [0.0] * len(q["trace"]), True)
            for q in questions
        }
        start["gradients"]["weighted"] = gradients(base, sets["plain"], settings, "weighted", whole)
        (Path(first) / "start.json").write_text(json.dumps(start))
    taught = Path(f"{folder}-taught")
    if taught.exists():  # where RL began after supervised training
        (Path(folder) / "taught.json").write_text(
            json.dumps(by_fraction(Analyst(taught, settings), questions))
        )


# ---- the statements ----


def trained_on(some, yes=True):
    """What by_fraction says of the questions that are trained on, or of the others."""

    def part(one, values):
        return [value for value, trained in zip(values, one["trained"], strict=True) if trained == yes]

    return [
        one
        | {
            "by_fraction": {f: part(one, rates) for f, rates in one["by_fraction"].items()},
            **{name: part(one, one[name]) for name in ("families", "sound") if name in one},
        }
        for one in some
    ]


class Measured:
    """What the statements are about, of all runs. logs: packed.Logs. Success is on the questions that are
    trained on; entropy, which is not kept by question, on all that have a trace."""

    def __init__(self, logs):
        self.raw = {arm: logs.measured(arm) for arm in logs.arms}
        self.found = {arm: trained_on(some) for arm, some in self.raw.items()}
        self.rows = {arm: logs.rows(arm) for arm in logs.arms}
        self.start = trained_on(logs.measured("mixture", "start"))
        self.taught = trained_on(logs.measured("sft", "taught"))
        self.begin, self.end = unsolved(self.start), {arm: unsolved(self.found[arm]) for arm in logs.arms}

    def ahead(self, arm, other):
        """Points on the unsolved questions between two arms at the end, and the interval."""
        return student(leads(self.end[arm], self.end[other]))

    def tests(self, arm, row=-1):
        """The score on tiny/test.jsonl of each run, at the end."""
        return final(self.rows[arm], "test", row)

    def curves(self, arm):
        """Of each run, operations and success on the unsolved questions at every evaluation."""
        name = re.compile(r"eval/unsolved/avg@\d+")
        return [
            [(row["flops"], row[n]) for row in rows for n in row if name.fullmatch(n)]
            for rows in self.rows[arm]
        ]

    def by_opening(self, some):
        """Success behind openings of FRACTIONS, a mean over questions and runs each."""
        return [mean(mean(one["by_fraction"][str(f)]) for one in some) for f in FRACTIONS]


def unsolved(some, family=None):
    """Success on each unsolved question without an opening, of one family or of all."""
    return [
        [p for p, kind in zip(one["by_fraction"]["0"], one["families"]) if family in (None, kind)]
        for one in some
    ]


def level(some):
    return 100 * mean(map(mean, some))


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    measured = Measured(logs)
    for part in (headline, stall_and_signal, transfer, mechanism, cost):
        yield from part(measured)


def headline(m):
    """Against plain RL and supervised training; S3 and S4."""
    for arm, what in {"plain": "plain RL", "sft": "supervised training and RL"}.items():
        yield above(
            f"PrefixRL above {what}: as many operations, collection charged, unsolved questions, points",
            leads(m.end["mixture"], m.end[arm]),
        )
    gaps = {arm: m.ahead("mixture", arm) for arm in ("plain", "sft", "weighted", "prefix-only")}
    yield (
        "S3 PrefixRL against the others, points",
        "above plain RL, and above supervised training and RL, at equal operations, collection charged",
        ", ".join(f"{arm} {points(gap)}" for arm, gap in gaps.items()),
        verdict(gaps["plain"][1] > 0 and gaps["sft"][1] > 0),
    )
    ratios = []
    for ours, theirs in zip(m.curves("mixture"), m.curves("sft"), strict=True):
        best = max(score for _, score in theirs)
        reached = next((spent for spent, score in ours if score >= best), None)
        ratios.append(min(spent for spent, score in theirs if score == best) / reached if reached else 0.0)
    yield (
        "S4 operations to reach the best of supervised training and RL",
        "PrefixRL needs fewer (paper: half)",
        "ratio " + " ".join(f"{ratio:.2f}" for ratio in sorted(ratios)) + " by seed (0: never reached)",
        verdict(sorted(ratios)[len(ratios) // 2] > 1),
    )
    half_way = []
    for ours, theirs in zip(m.curves("mixture"), m.curves("plain"), strict=True):
        half = theirs[-1][1] / 2
        if half > max(ours[0][1], theirs[0][1]):  # plain RL has got somewhere
            spent = [
                next((cost - line[0][0] for cost, score in line if score >= half), float("inf"))
                for line in (theirs, ours)
            ]
            half_way.append(spent[0] / spent[1])
    yield (
        "collection left out: operations to reach half of what plain RL ends at, plain RL's over PrefixRL's",
        "",
        "ratio " + " ".join(f"{ratio:.2f}" for ratio in sorted(half_way)) + " by seed that plain RL moved",
        "reported",
    )
    net = {arm: [] for arm in ("mixture", "true")}
    for arm, gaps in net.items():
        for ours, theirs in zip(m.curves(arm), m.curves("plain"), strict=True):
            trained = ours[-1][0] - ours[0][0]
            gaps.append(ours[-1][1] - float(numpy.interp(trained, *zip(*theirs))))
    yield (
        "collection left out: minus plain RL at as many operations of training, points",
        "",
        f"PrefixRL {points(student(net['mixture']))}; with openings of true solutions "
        f"{points(student(net['true']))}",
        "reported",
    )
    yield (
        "plain RL with an entropy bonus of .003",
        "",
        f"{level(m.end['entropy']):.1f}; minus plain RL {points(m.ahead('entropy', 'plain'))}; PrefixRL "
        f"minus it {points(m.ahead('mixture', 'entropy'))}",
        "reported",
    )


def stall_and_signal(m):
    """S1, S2, S7 to S9."""
    name = "prefix/zero_std_without"
    silent, early = (
        mean(mean(row[name] for row in rows[:last] if name in row) for rows in m.rows["plain"])
        for last in (None, 21)
    )
    ends = {arm: level(m.end[arm]) for arm in ("plain", "plain-64", "mixture")}
    yield (
        "S1 plain RL stalls",
        "95 % of its groups of zero variance over the run, and less than half of PrefixRL's success at the "
        "end, also with 64 responses",
        f"silent {silent:.3f}, in the first 20 steps {early:.3f}; success {level(m.begin):.1f} before, at "
        "the end plain {plain:.1f}, with 64 {plain-64:.1f}, PrefixRL {mixture:.1f}".format(**ends),
        verdict(silent > 0.95 and max(ends["plain"], ends["plain-64"]) < ends["mixture"] / 2),
    )
    curve, jumps = m.by_opening(m.start), []
    for one in m.start:
        for rates in zip(*(one["by_fraction"][str(f)] for f in FRACTIONS)):
            if max(rates) > rates[0]:
                jumps.append(max(b - a for a, b in zip(rates, rates[1:])) / (max(rates) - rates[0]))
    yield (
        "S2 openings",
        "success of the starting model rises with the opening; half of a question's rise or more in one jump",
        " ".join(f"{rate:.3f}" for rate in curve) + f" at 0 to .8; one jump: {mean(jumps):.2f} of the rise",
        verdict(all(a < b for a, b in zip(curve, curve[1:])) and mean(jumps) >= 0.5),
    )
    yield (
        "S7 the loss ends at the seam",
        "no gradient through predictions of the opening",
        "a unit test (tests/test_prefix_rl.py)",
        "held",
    )
    entropies = [mean(one["entropy"] for one in some) for some in (m.start, m.taught)]
    yield (
        "S8 entropy",
        "supervised training lowers it, before any RL",
        "starting model {:.3f}, after supervised training {:.3f} nats a token".format(*entropies),
        verdict(entropies[1] < entropies[0]),
    )
    force = {
        arm: {what: mean(one["gradients"][arm][what] for one in m.start) for what in ("signal", "noise")}
        for arm in m.start[0]["gradients"]
    }
    ratio = {arm: f["signal"] / max(f["noise"], 1e-12) for arm, f in force.items()}
    yield (
        "S9 gradient of the starting model",
        "signal to noise above that of plain RL; noise below that of importance-weighted RL",
        "; ".join(
            f"{arm}: signal {f['signal']:.3f}, noise {f['noise']:.3f}, ratio {ratio[arm]:.2f}"
            for arm, f in force.items()
        ),
        verdict(ratio["mixture"] > ratio["plain"] and force["mixture"]["noise"] < force["weighted"]["noise"]),
    )


def transfer(m):
    """S5, S6, S10 to S12, and success behind openings after training."""
    gain = student(leads(m.end["prefix-only"], m.begin))
    yield (
        "S5 back-generalization",
        "trained on openings alone, success without them rises, interval above 0",
        f"{points(gain)} points",
        verdict(gain[1] > 0),
    )

    def rise(family, arm, base=m.start):
        """What the arm is above `base`, a number a seed; nan for one without such an unsolved question."""
        pairs = zip(unsolved(m.found[arm], family), unsolved(base, family), strict=True)
        return [mean(ours) - mean(theirs) if ours else math.nan for ours, theirs in pairs]

    def over_seeds(values):
        return student([value for value in values if not math.isnan(value)])

    arms = {"prefix-only": "openings", "mixture": "mixture"}
    gains = {(family, arm): over_seeds(rise(family, arm)) for family in ("hard", "relay") for arm in arms}
    less = [a - b for a, b in zip(*(rise(family, "prefix-only") for family in ("hard", "relay")))]
    yield (
        "S6 negative control: family relay, whose early name never comes late",
        "openings alone bring less there than on family hard; the mixture more",
        "; ".join(
            f"{family}: " + ", ".join(f"{what} {points(gains[family, arm])}" for arm, what in arms.items())
            for family in ("hard", "relay")
        )
        + f"; openings, hard minus relay {points(over_seeds(less))}; relay, mixture minus openings "
        + points(over_seeds(rise("relay", "mixture", m.found["prefix-only"]))),
        verdict(
            gains["relay", "prefix-only"][0] < gains["hard", "prefix-only"][0]
            and gains["relay", "mixture"][0] > gains["relay", "prefix-only"][0]
        ),
    )
    for what, needed, why in (
        ("S10 openings of another model", "they work, perhaps less well", "there is one tiny model"),
        ("S11 another strategy than the opening's", "can take over",
         "these problems have one way to the answer"),
        ("S12 relatedness", "an unrelated context does not help",
         "the tiny model cannot read a second problem in its context"),
    ):  # fmt: skip
        yield what, needed, why, "not tested"
    behind = {"PrefixRL": "mixture", "plain RL": "plain", "openings of .4 to .8 alone": "prefix-only"}
    behind |= {f"openings of .{n} to .{n + 2} alone": f"band-.{n}" for n in (2, 4, 6)}
    for what, some in {
        "no training": m.start,
        **{what: m.found[arm] for what, arm in behind.items()},
    }.items():
        text = " ".join(f"{100 * rate:.1f}" for rate in m.by_opening(some))
        yield f"success by opening, 0 to .8, after {what}", "", text, "reported"
    yield (
        "questions without an opening, after openings of .2 to .4 alone, points",
        "",
        f"minus .4 to .6 {points(m.ahead('band-.2', 'band-.4'))}, minus .6 to .8 "
        f"{points(m.ahead('band-.2', 'band-.6'))}",
        "reported",
    )


def mechanism(m):
    """Why: which traces are sound, what true ones bring, how plain RL gets past its stall. All reported."""
    arms = ("mixture", "prefix-only", "plain", "sft")

    def split(some, wanted):
        """Success on each question whose trace reads every name rightly, or does not: a list a run."""
        return [
            [p for p, good in zip(one, s["sound"], strict=True) if good == wanted]
            for one, s in zip(some, m.start)
        ]

    sound, other = ({arm: level(filter(None, split(m.end[arm], ok))) for arm in arms} for ok in (True, False))
    yield (
        "traces that are right by accident",
        "",
        f"{mean(1 - mean(one['sound']) for one in m.start):.2f} read a name wrongly; at the end, without an "
        "opening, on questions with a sound trace and on the others: "
        + ", ".join(f"{arm} {sound[arm]:.1f} and {other[arm]:.1f}" for arm in arms),
        "reported",
    )
    apart = [
        points(student(leads(*(filter(None, split(m.end[arm], ok)) for arm in ("true", "mixture")))))
        for ok in (True, False)
    ]
    yield (
        "openings of true solutions in place of traces, as many operations, points",
        "",
        f"{level(m.end['true']):.1f}; minus plain RL {points(m.ahead('true', 'plain'))}, minus supervised "
        f"training and RL {points(m.ahead('true', 'sft'))}, minus PrefixRL "
        f"{points(m.ahead('true', 'mixture'))} "
        "(on questions with a sound trace {}, on the others {})".format(*apart),
        "reported",
    )
    for arm in arms:
        families = ", ".join(
            f"{family} {100 * mean(mean(q) for q in unsolved(m.found[arm], family) if q):.1f}"
            for family in ("hard", "relay", "trap", "odd")
        )
        learned = mean(mean(p > 0.5 for p in one) for one in m.end[arm])
        yield (
            f"{arm} at the end",
            "",
            f"unsolved questions by family {families}; {100 * learned:.1f} % of them right more often than "
            f"not; held-out (test) {100 * mean(m.tests(arm)):.1f}",
            "reported",
        )
    others = {"the start": m.tests("mixture", 0)} | {arm: m.tests(arm) for arm in ("plain", "sft")}
    ahead = {
        what: points(student([a - b for a, b in zip(m.tests("mixture"), some)]))
        for what, some in others.items()
    }
    yield (
        "held-out (test) at the end, points",
        "",
        "PrefixRL minus the start {the start}, minus plain {plain}, minus sft {sft}".format(**ahead),
        "reported",
    )
    spare = {
        arm: [p for one in trained_on(m.raw[arm], yes=False) for p in one["by_fraction"]["0"]] for arm in arms
    }
    yield (
        "unsolved questions that the search found besides, not trained on",
        "",
        ", ".join(f"{arm} {100 * mean(rates):.1f}" for arm, rates in spare.items())
        + f" % at the end; {len(spare['plain'])} questions of all seeds",
        "reported",
    )
    drawn = [
        mean(sum(row["reward"] for row in rows[1 : last + 1]) for rows in m.rows["plain"])
        for last in (20, 40, 60, 80, 100)
    ]
    size = 16 * 8  # responses a step
    yield (
        "right answers that plain RL had drawn by step 20, 40, 60, 80, 100",
        "",
        " ".join(f"{size * total:.1f}" for total in drawn) + f"; it draws {size} responses a step",
        "reported",
    )
    for arm in ("plain-early", "mixture-early"):
        pairs = {
            what: [[one[when][what] for one in m.found[arm]] for when in ("elsewhere_before", "elsewhere")]
            for what in ("success", "entropy")
        }
        moved = {what: student([b - a for a, b in zip(*pair, strict=True)]) for what, pair in pairs.items()}
        yield (
            f"{arm}: after 80 steps, hard and relay questions that share no name with the trained ones",
            "",
            "success {:.2f} to {:.2f} %, ".format(*(100 * mean(some) for some in pairs["success"]))
            + f"{points(moved['success'])} points; "
            + "entropy {:.3f} to {:.3f} nats a token, ".format(*map(mean, pairs["entropy"]))
            + "{:+.3f} [{:+.3f}, {:+.3f}]; ".format(*moved["entropy"])
            + f"the trained ones are at {level(m.end[arm]):.1f} %",
            "reported",
        )


def cost(m):
    counts = {what: mean(one["collected"][what] for one in m.start) for what in m.start[0]["collected"]}
    spent = mean(rows[0]["flops"] / rows[-1]["flops"] for rows in m.rows["mixture"])
    leak = mean(rows[0]["prefix/has_answer"] for rows in m.rows["mixture"])
    yield (
        "cost and leaks",
        "",
        "{traces:.0f} traces of {unsolved:.0f} unsolved among {questions:.0f} questions in {attempts:.0f} "
        "attempts, {in_vain:.2f} of their tokens for questions that got none; ".format(**counts)
        + f"collection {spent:.2f} of all operations; {leak:.3f} of the openings hold the answer",
        "reported",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
