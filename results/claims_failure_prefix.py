"""What Failure-Prefix Conditioning claims, as statements that can fail in the tiny task. For run.py.

    python results/run.py failure_prefix                          # all arms -> results/failure_prefix.md
    python results/claims_failure_prefix.py RUN                   # measures any finished run's model
    python results/claims_failure_prefix.py RUN --checkpoint 30   # the same for an earlier checkpoint

S1 to S10: statements about solved problems of the paper's size, with our thresholds, where the paper gives a
number in its neighbourhood.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from analysis import (
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
METRICS = ("num_tokens", r"time/(sample|verify|train)", r"eval/harder/avg@\d+")
SHOWN = ("failure", "plain", "medium")  # in the figure
DRAW = bands(SHOWN)
BEHIND = ("failure", "plain", "scored")  # arms that are asked behind openings, which S5 and S6 are about
HELD_OUT = 16  # samples of each held-out problem, with an opening and without
GROUP = 8  # samples of a training group
AGAIN = 64  # samples of a question that is screened again


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
        "plain": [statistics.mean(r.reward for r in group) for group in groups],
        "families": [p.get("family") for p in problems],
        # a wrong line that was noticed is written again behind "no "
        "noticed": statistics.mean("no " in model.tokenizer.decode(r.completion_ids) for r in rollouts),
        "length": statistics.mean(len(r.completion_ids) for r in rollouts),
    }
    some = [p for p in problems if p["id"] in openings]
    for kind in ("failing", "right"):
        contexts = [p["prompt_ids"] + prefix_of(openings[p["id"]][kind], 0.3) for p in some]
        result[kind] = model.rates(contexts, [p["answer"] for p in some], HELD_OUT, kind)
    by_id = dict(zip((p["id"] for p in problems), result["plain"], strict=True))
    result["without"] = [by_id[p["id"]] for p in some]
    return result


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
        "predicted": statistics.mean(p**GROUP + (1 - p) ** GROUP for p in rates),
        "advantage": group_advantages(rewards).abs().mean().item(),
        "usable": statistics.mean(0.25 <= p <= 0.75 for p in rates),
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
        begin = {"held_out": held_out(base, openings), "failing_again": again(base, lines)}
        arms = ["failure", "plain"] + ["correct"] * any("correct" in line for line in lines)
        begin |= {arm: signal(base, lines, arm) for arm in arms}
        start.write_text(json.dumps(begin))
    arm = Path(folder).parent.name  # of the table's, or another folder of a user's
    result = {"held_out": held_out(trained, openings if arm not in ARMS or arm in BEHIND else {})}
    if Path(folder) == Path(first):
        result |= {"old_openings": signal(trained, lines, "failure"), "failing_again": again(trained, lines)}
    (Path(folder) / "analysis.json").write_text(json.dumps(result))
    return json.loads(start.read_text()), result


def report(start, found):
    """What main measured, for a reader."""

    def share(values):
        return f"{100 * statistics.mean(values):.1f}" if values else "none"

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
    swapped = [
        line | {"failure": other["failure"], "rates": other["rates"]}
        for line, other in zip(usable, usable[1:] + usable[:1])
    ]
    write_aside(Path(first) / "swapped.jsonl", "".join(json.dumps(line) + "\n" for line in swapped))


def again(model, lines):
    """Of the questions of a bank, the share that fails at least once in AGAIN samples."""
    problems = {p["id"]: p for p in model.problems(model.settings["data"])}
    questions = [problems[line["id"]] for line in lines if "failure" in line]
    groups = model.groups(
        [q["prompt_ids"] for q in questions], [q["answer"] for q in questions], AGAIN, "again"
    )
    return statistics.mean(first_failure(group) is not None for group in groups)


# ---- the statements ----


def statements(logs):
    """logs: packed.Logs of all arms -> rows (statement, needed, measured, verdict)."""
    mean = statistics.mean
    start, found = logs.measured("failure", "start"), {arm: logs.measured(arm) for arm in logs.arms}
    metrics = {arm: logs.rows(arm) for arm in logs.arms}

    def paired(arm, against=None):
        """Held-out success of an arm minus another's, or the starting model's, over the seeds both have."""
        ours, theirs = (
            [mean(run["held_out"]["plain"]) for run in some]
            for some in (found[arm], found[against] if against else start)
        )
        return [a - b for a, b in zip(ours, theirs)]

    def gain(arm, against=None):
        return student(paired(arm, against))

    for against, why in (
        ("plain", "as many updates"),
        ("plain-long", "about as many tokens, mining included"),
    ):
        yield above(f"failure above {against}: {why}, held-out points", paired("failure", against))
        ends = [final(logs.rows(arm), "harder") for arm in ("failure", against)]
        yield above(
            f"failure above {against}: {why}, longer problems (harder), points",
            [a - b for a, b in zip(*ends)],
        )

    silent = {arm: mean(s[arm]["silent"] for s in start) for arm in ("failure", "plain")}
    off = max(abs(s[arm]["silent"] - s[arm]["predicted"]) for s in start for arm in ("failure", "plain"))
    yield (
        "P3 usable cuts",
        "70 % of the chosen cuts re-measure at .25 to .75",
        f"{mean(s['failure']['usable'] for s in start):.2f}",
        verdict(mean(s["failure"]["usable"] for s in start) >= 0.7),
    )
    yield (
        "S1 signal",
        "zero-variance groups of 8 at the start: plain .6 or more, openings a third of that or less; as "
        "p^8 + "
        "(1-p)^8 predicts, within .1",
        f"plain {silent['plain']:.2f}, openings {silent['failure']:.2f}; largest difference to the "
        f"prediction {off:.2f}",
        verdict(silent["plain"] >= 0.6 and silent["failure"] <= silent["plain"] / 3 and off <= 0.1),
    )
    size = [mean(s[arm]["advantage"] for s in start) for arm in ("failure", "plain")]
    yield (
        "S2 size of advantages",
        "mean size of A at least twice that of plain",
        f"{size[0]:.2f} against {size[1]:.2f}",
        verdict(size[0] >= 2 * size[1]),
    )

    def seconds(rows):
        return sum(row.get(f"time/{phase}", 0) for row in rows for phase in ("sample", "verify", "train"))

    def climb(rows):
        return mean(r["reward"] for r in rows[-10:]) - mean(r["reward"] for r in rows[1:6])

    rise = {arm: mean(map(climb, metrics[arm])) for arm in ("failure", "plain")}
    yield (
        "S3 training reward",
        "rises by .15 on openings, by less than .03 on plain (last ten steps against the first five)",
        f"{rise['failure']:+.2f}, {rise['plain']:+.2f}",
        verdict(rise["failure"] >= 0.15 and abs(rise["plain"]) < 0.03),
    )
    gains = {arm: gain(arm) for arm in logs.arms}
    medium = gain("failure", "medium")
    yield (
        "S4 held-out gain, points",
        "above 0; plain at most a third of it, for as many tokens as well; not below the arm medium",
        f"failure {points(gains['failure'])}, plain {points(gains['plain'])}, for as many tokens "
        f"{points(gains['plain-long'])}, medium "
        f"{points(gains['medium'])}; failure - medium {points(medium)}",
        verdict(
            gains["failure"][1] > 0
            and max(gains["plain"][0], gains["plain-long"][0]) <= gains["failure"][0] / 3
            and medium[2] >= 0
        ),
    )

    def drop(held):
        return mean(a - b for a, b in zip(held["without"], held["failing"]))

    drops = {arm: mean(drop(run["held_out"]) for run in found[arm]) for arm in ("failure", "plain", "scored")}
    drops["start"] = mean(drop(s["held_out"]) for s in start)
    yield (
        "S5 robustness",
        "behind 30 % of a failing solution the trained model loses at most .75 of what the starting "
        "model does, plain more",
        f"start {100 * drops['start']:.1f} points, failure {100 * drops['failure']:.1f}, plain "
        f"{100 * drops['plain']:.1f}",
        verdict(drops["failure"] <= 0.75 * drops["start"] < drops["plain"]),
    )

    def lift(held):
        return mean(b - a for a, b in zip(held["without"], held["right"]))

    lifts = [
        mean(lift(s["held_out"]) for s in start),
        mean(lift(run["held_out"]) for run in found["failure"]),
    ]
    level = [
        mean(mean(s["held_out"]["right"]) for s in start),
        mean(mean(run["held_out"]["right"]) for run in found["failure"]),
    ]
    yield (
        "S6 right openings",
        "bring the trained model no more than the starting model; success behind them falls by at most 2 "
        "points",
        f"{100 * lifts[0]:+.1f} points before, {100 * lifts[1]:+.1f} after; success {100 * level[0]:.1f} "
        f"to {100 * level[1]:.1f}",
        verdict(lifts[1] <= lifts[0] and level[1] >= level[0] - 0.02),
    )
    taus = [gains[arm][0] for arm in ("tau-.25", "failure", "tau-.75")]
    yield (
        "S7 tau .25, .5, .75",
        "all above plain; spread below half of their mean gain",
        ", ".join(points(gains[arm]) for arm in ("tau-.25", "failure", "tau-.75")),
        verdict(min(taus) > gains["plain"][0] and max(taus) - min(taus) < 0.5 * mean(taus)),
    )
    fixed = [gains[arm][0] for arm in ("cut-.25", "cut-.5", "cut-.75")]
    yield (
        "S8 fixed cuts .25, .5, .75",
        "above plain",
        ", ".join(points(gains[arm]) for arm in ("cut-.25", "cut-.5", "cut-.75")),
        verdict(min(fixed) > gains["plain"][0]),
    )
    fails = [mean(s["failing_again"] for s in start), mean(run["failing_again"] for run in found["failure"])]
    old = [silent["failure"], mean(run["old_openings"]["silent"] for run in found["failure"])]
    fresh = gain("refreshed", "failure")
    yield (
        "S9 refreshing",
        "fewer questions fail after training; old openings are more often silent; fresh ones after half "
        "of the steps bring more",
        f"failing within {AGAIN}: {fails[0]:.2f} to {fails[1]:.2f}; silent {old[0]:.2f} to {old[1]:.2f}; "
        f"refreshed - failure {points(fresh)}",
        verdict(fails[1] < fails[0] and old[1] > old[0] and fresh[1] > 0),
    )
    held = {
        "start": [s["held_out"] for s in start],
        **{arm: [run["held_out"] for run in found[arm]] for arm in logs.arms},
    }
    lengths = {arm: mean(one["length"] for one in some) for arm, some in held.items()}
    yield (
        "S10 length",
        "held-out responses change by less than 15 %",
        ", ".join(f"{arm} {lengths[arm]:.1f}" for arm in ("start", "failure", "plain", "medium")) + " tokens",
        verdict(abs(lengths["failure"] / lengths["start"] - 1) < 0.15),
    )
    hushed = mean(s["correct"]["silent"] for s in start)
    yield (
        "control: right openings of the same length",
        "as silent as plain, and no gain",
        f"silent {hushed:.2f}; {points(gains['correct'])}",
        verdict(hushed >= silent["plain"] - 0.05 and gains["correct"][1] <= 0),
    )
    yield (
        "control: another question's openings",
        "smaller gain than with one's own",
        f"{points(gains['swapped'])} against {points(gains['failure'])}",
        verdict(gains["swapped"][0] < gains["failure"][0]),
    )
    rival = points(gain("entropy", "plain")), points(gain("failure", "entropy"))
    yield (
        "plain questions with an entropy bonus of .003",
        "",
        "minus plain {}; failure minus it {}".format(*rival),
        "reported",
    )
    yield (
        "control: loss on the opening as well",
        "S5 gets worse",
        f"behind a failing opening it loses {100 * drops['scored']:.1f} points; gain "
        f"{points(gains['scored'])}",
        verdict(drops["scored"] > drops["failure"]),
    )

    def of(one, kind):
        return mean(p for p, family in zip(one["plain"], one["families"]) if family == kind)

    for arm in ("start", "failure", "plain", "medium"):
        kinds = ", ".join(
            f"{kind} {100 * mean(of(one, kind) for one in held[arm]):.1f}"
            for kind in sorted(set(held[arm][0]["families"]))
        )
        yield (
            f"held-out success by family, {arm}",
            "",
            f"{kinds}; in {100 * mean(one['noticed'] for one in held[arm]):.0f} % a line was written again",
            "reported",
        )
    yield longer(logs, ("failure", "plain", "medium", "plain-long"), "failure", "plain")
    million = {arm: mean(rows[-1]["num_tokens"] for rows in metrics[arm]) / 1e6 for arm in logs.arms}
    mining = [mean(rows[0]["num_tokens"] for rows in metrics[arm]) / 1e6 for arm in ("failure", "plain")]
    yield (
        "control: cost",
        "",
        "million tokens "
        + ", ".join(f"{arm} {million[arm]:.2f}" for arm in ("failure", "plain", "plain-long", "medium"))
        + "; of failure's {:.2f} were spent before step 1, of plain's {:.2f}; ".format(*mining)
        + "seconds of training "
        + ", ".join(f"{arm} {mean(map(seconds, metrics[arm])):.0f}" for arm in ("failure", "plain")),
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
