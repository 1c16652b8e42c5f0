"""Measure whether the tiny task is what it has to be, before any method is run in it.

    python tiny/probe.py                              # the shipped task; some 20 minutes on two cores
    python tiny/make.py --seed 1 --out /tmp/task && python tiny/probe.py --task /tmp/task
    python tiny/probe.py --stability                  # what the baseline's runs in results/grpo.json.xz say

Each of the five papers presumes something about its model and its problems: that solved problems still fail now and then, that right
openings help, that heat breaks what looked solved. Where such a precondition is missing, a method cannot show its effect, and a
failure of it says nothing. This script samples the starting model, trains it once with plain GRPO, samples that one too, and
prints a Markdown table: what is needed, what was measured, whether it held. The rows of --stability are those of
results/claims_grpo.py: do seeds agree, does the baseline stall, how many facts does it find.

Intervals are 95 %: Wilson's for a share of problems, otherwise from 2,000 bootstrap draws over problems.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tiny")]

import torch  # noqa: E402

import make  # noqa: E402
from common import (  # noqa: E402
    TransformersSampler,  # noqa: E402
    build_prompt,  # noqa: E402
    load_model,
    score_rollouts,
)
from grpo import SETTINGS  # noqa: E402
from plumbing import derive_seed  # noqa: E402
from plumbing.data import load_problems  # noqa: E402
from plumbing.settings import MACHINE  # noqa: E402
from plumbing.verifier import last_boxed  # noqa: E402

MAX_TOKENS, EVAL_MAX_TOKENS = SETTINGS["max_tokens"][1], MACHINE["eval_max_tokens"][1]
SCREEN = 128  # samples of every problem
DEEP = 2_872  # further samples of problems that were right at most once: 3,000 in all, in which .001 is three
NEVER = 10_000  # samples without a success that make a problem hopeless
GROUP = 8


# ---- statistics ----------------------------------------------------------------------------------------------------------


def mean(values):
    """nan, for which nothing holds, if there is nothing to average."""
    values = list(values)
    return statistics.fmean(values) if values else float("nan")


def wilson(hits, n):
    """A share and its 95 % interval, as text."""
    if n == 0:
        return "no case"
    share, z = hits / n, 1.96
    centre, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return f"{share:.2f} [{max(0, (centre - half) / (1 + z * z / n)):.2f}, {(centre + half) / (1 + z * z / n):.2f}]"


def bootstrap(values, draws=2000):
    """Mean of one number a problem, and its 95 % interval."""
    if not values:
        return mean(values), mean(values), mean(values)
    rng = random.Random(0)
    means = sorted(mean(rng.choices(values, k=len(values))) for _ in range(draws))
    return mean(values), means[int(0.025 * draws)], means[int(0.975 * draws)]


def show(interval):
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def rank_correlation(x, y):
    """Spearman's, ties at their mean rank."""
    ranks = [torch.tensor([sum(b < a for b in v) + (v.count(a) - 1) / 2 for a in v]) for v in (x, y)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


# ---- sampling ------------------------------------------------------------------------------------------------------------


class Pupil:
    """A model and the seed of everything sampled from it."""

    def __init__(self, folder):
        self.folder = folder
        self.model, self.tokenizer = load_model(str(folder))
        self.sampler = TransformersSampler(self.model, self.tokenizer, 256)
        self.numbers = self.tokenizer.convert_tokens_to_ids([str(n) for n in range(make.LARGEST + 1)])

    def sample(self, contexts, golds, n, purpose, temperature=1.0, max_tokens=MAX_TOKENS):
        """n scored samples of each context -> list of lists of Rollout."""
        groups = []
        for start in range(0, len(contexts), 64):  # a few thousand at a time, so that little memory is held
            part = contexts[start : start + 64]
            rollouts = self.sampler.generate(part, n, temperature, max_tokens, derive_seed("probe", purpose, start))
            score_rollouts(rollouts, [gold for gold in golds[start : start + 64] for _ in range(n)], self.tokenizer)
            groups += [rollouts[i * n : (i + 1) * n] for i in range(len(part))]
        return groups

    def rates(self, contexts, golds, n, purpose, temperature=1.0):
        """Success of each context -> list of float."""
        return [mean(r.reward for r in group) for group in self.sample(contexts, golds, n, purpose, temperature)]

    def text(self, rollout):
        return self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)

    @torch.inference_mode()
    def readings(self, labels, contexts=8):
        """Probability of each number behind `NAME=`, in problems of two signs that end in the name -> (names, LARGEST + 1).

        Exact, not sampled: the mean over some contexts in which all lines before are right.
        """
        rng, rows = random.Random(0), []
        for label in labels:
            for _ in range(contexts):
                a, b, sign = rng.randint(22, 30), rng.randint(1, 9), rng.choice("+-")
                prompt = build_prompt(self.tokenizer, f"({a}+{b}){sign}{label}", "")
                rows.append(prompt + self.tokenizer(f"{a}+{b}={a + b}; {label}=").input_ids)
        logits = self.model(torch.tensor(rows)).logits[:, -1]
        return logits.softmax(-1)[:, self.numbers].view(len(labels), contexts, -1).mean(1)

    def known(self, names):
        """Probability with which each name of names.json is read rightly -> {label: float}."""
        chances = self.readings(list(names))
        return {label: row[about["worth"]].item() for row, (label, about) in zip(chances, names.items(), strict=True)}


def prompts(problems):
    return [p["prompt_ids"] for p in problems]


def golds(problems):
    return [p["answer"] for p in problems]


def screen(pupil, problems):
    """Success of every problem: SCREEN samples, and DEEP more where there was at most one success. Adds "p", "n", "group" and "right"."""
    for problem, group in zip(problems, pupil.sample(prompts(problems), golds(problems), SCREEN, "screen"), strict=True):
        problem |= {"group": group, "n": SCREEN, "right": [r for r in group if r.reward][:1], "p": sum(r.reward for r in group) / SCREEN}
    rare = [p for p in problems if p["p"] <= 1 / SCREEN]
    deepen(pupil, rare, DEEP)
    return rare


def deepen(pupil, problems, more):
    """Samples some problems further, in two processes side by side: most of the probe's time goes here."""
    tasks = [{name: p[name] for name in ("prompt_ids", "answer", "id", "n")} | {"more": more} for p in problems]
    with ProcessPoolExecutor(2, get_context("spawn"), start_worker, (pupil.folder,)) as pool:
        for problem, (hits, right) in zip(problems, pool.map(sample_more, tasks), strict=True):
            problem["p"] = (problem["p"] * problem["n"] + hits) / (problem["n"] + more)
            problem["n"] += more
            problem["right"] = problem["right"] or right


def start_worker(folder):
    global worker_pupil
    torch.set_num_threads(1)
    worker_pupil = Pupil(folder)


def sample_more(task):
    """-> the number of right ones, and the first of them in a list, if there is one."""
    hits, right = 0, []
    for part in range(0, task["more"], DEEP):
        purpose = ("deep", task["id"], task["n"] + part)
        group = worker_pupil.sample([task["prompt_ids"]], [task["answer"]], min(DEEP, task["more"] - part), purpose)[0]
        hits += sum(r.reward for r in group)
        right = right or [r for r in group if r.reward][:1]
    return hits, right


# ---- the preconditions: each yields rows (what, needed, measured, held) --------------------------------------------------


def by_length(problems):
    levels = sorted({p["level"] for p in problems})
    means = [mean(p["p"] for p in problems if p["level"] == level) for level in levels]
    steps = [a - b for a, b in zip(means, means[1:])]
    yield ("success by number of operators", "about .8 to below .05, no cliff (no step above .3)", " ".join(f"{m:.2f}" for m in means),
           0.7 <= means[0] <= 0.92 and means[-1] < 0.05 and max(steps) <= 0.3)


def bands(problems, hopeless_found, hopeless_tried):
    count = len(problems)
    share = lambda low, high: sum(low <= p["p"] <= high for p in problems)  # noqa: E731
    for name, low, high in (("saturated but breakable", 0.95, 0.995), ("medium", 0.4, 0.6), ("hard but solvable", 3e-4, 5e-3)):
        hits = share(low, high)
        yield f"{name} problems", f"success {low:g} to {high:g}: 5 % or more of the pool", wilson(hits, count), hits >= 0.05 * count
    yield ("hopeless problems", f"some, never right in {NEVER:,}", f"{hopeless_found} of {hopeless_tried} of family odd, sampled so often",
           hopeless_found > 0)
    guesses = [p["p"] for p in problems if p["family"] == "guess"]
    yield ("guessable problems", "some: the answer hangs on a coin that the problem does not show", f"{wilson(len(guesses), count)} of the pool, "
           f"success {show(bootstrap(guesses))}", len(guesses) > 0 and 0.2 <= mean(guesses) <= 0.8)
    none = [p for p in problems if not any(r.reward for r in p["group"][:GROUP])]
    solvable = [p for p in none if 1e-3 <= p["p"] <= 0.05]
    yield (f"none of {GROUP} right, yet solvable", "success .001 to .05: 30 to 65 % of the pool", wilson(len(solvable), count),
           0.3 <= len(solvable) / count <= 0.65)
    cut = [mean(not r.finished for r in p["group"]) for p in problems]
    yield ("the length limit binds", f"some responses of some problems exceed {MAX_TOKENS} tokens",
           f"{wilson(sum(c > 0 for c in cut), count)} of the problems, {mean(cut):.3f} of the responses", mean(cut) > 0.005)
    hard, easy = share(1 / 8, 2 / 8), share(6 / 8, 7 / 8)
    yield ("pairs of questions", "success 1/8 to 2/8, and 6/8 to 7/8: 2 % of the pool each", f"{wilson(hard, count)} and {wilson(easy, count)}",
           min(hard, easy) >= 0.02 * count)


def failure_prefixes(pupil, problems):
    saturated = [(p, next(r for r in p["group"] if r.finished and not r.reward)) for p in problems
                 if 0.95 <= p["p"] <= 0.995 and any(r.finished and not r.reward for r in p["group"])]
    cuts = [c / 10 for c in range(1, 10)]
    gold = [p["answer"] for p, _ in saturated]
    after = lambda cut, p, r: p["prompt_ids"] + r.completion_ids[: int(cut * len(r.completion_ids))]  # noqa: E731
    table = [pupil.rates([after(cut, p, r) for p, r in saturated], gold, 32, ("failure", cut)) for cut in cuts]
    means = [mean(row) for row in table]
    chosen = [min(range(9), key=lambda i: (abs(table[i][q] - 0.5), i)) for q in range(len(saturated))]
    again = pupil.rates([after(cuts[c], p, r) for (p, r), c in zip(saturated, chosen)], gold, 64, "failure again")
    yield ("failure prefixes: success falls along the failure", "rank correlation with the cut below -.8",
           f"{rank_correlation(cuts, means):.2f}; " + " ".join(f"{m:.2f}" for m in means) + f" at .1 to .9, {len(saturated)} problems",
           rank_correlation(cuts, means) < -0.8)
    usable = sum(0.25 <= value <= 0.75 for value in again)
    yield ("failure prefixes: a usable cut", "for 70 % of saturated problems one cut of nine re-measures at .25 to .75", wilson(usable, len(again)),
           len(again) > 0 and usable >= 0.7 * len(again))
    broken = [(p, ids) for p, r in saturated if (ids := through_first_wrong_line(pupil, r))]
    rates = pupil.rates([p["prompt_ids"] + ids for p, ids in broken], [p["answer"] for p, _ in broken], 32, "recovery")
    found = bootstrap(rates)
    yield "recovery after the first wrong line", "success .1 to .9", f"{show(found)}, {len(broken)} failures", 0.1 <= found[0] <= 0.9


def through_first_wrong_line(pupil, rollout):
    """Ids of a solution up to and with its first line that is false; None if every line is true."""
    end = pupil.tokenizer("; ").input_ids[0]
    stops = [i + 1 for i, token in enumerate(rollout.completion_ids) if token == end]
    for line, stop in zip(pupil.text(rollout).split("; "), stops):
        match = re.fullmatch(r"(?:no )?(\d+)(\D)(\d+)=(\d+)", line)
        if match and make.clip(make.SIGNS[match[2]].right(int(match[1]), int(match[3]))) != int(match[4]):
            return rollout.completion_ids[:stop]
    return None


def correct_prefixes(pupil, problems):
    cuts = [0, 0.2, 0.4, 0.6, 0.8]
    for family in ("hard", "relay"):
        found = [(p, p["right"][0]) for p in problems if p["family"] == family and p["right"]]
        rows = [pupil.rates([p["prompt_ids"] + r.completion_ids[: int(cut * len(r.completion_ids))] for p, r in found],
                            [p["answer"] for p, _ in found], 64, ("right", family, cut)) for cut in cuts]
        means = [mean(row) for row in rows]
        jumps = [max(b - a for a, b in zip(curve, curve[1:])) / (max(curve) - curve[0]) for curve in zip(*rows) if max(curve) > curve[0]]
        yield (f"right prefixes, family {family}", "success rises with the cut; on single problems half of the rise or more is one jump",
               " ".join(f"{m:.3f}" for m in means) + f" at 0 to .8, {len(found)} problems; one jump: {show(bootstrap(jumps))} of the rise",
               all(a < b for a, b in zip(means, means[1:])) and mean(jumps) >= 0.5)
    named = {f: [re.findall(r"[A-Za-z]\d", p["problem"]) for p in problems if p["family"] == f] for f in ("hard", "relay")}
    late = {last for family in named.values() for *_, last in family}
    again = {f: sum(first in late for first, _ in some) for f, some in named.items()}
    yield ("facts of early and late steps", "the same in one family, others in a second",
           f"early name comes late as well: {again['hard']} of {len(named['hard'])} hard, {again['relay']} of {len(named['relay'])} relay",
           again["hard"] == len(named["hard"]) and not again["relay"])


def heat(pupil, problems, when):
    groups = {t: pupil.sample(prompts(problems), golds(problems), 4 * GROUP, ("heat", t), t) for t in (1.0, 1.2, 1.5)}
    shares = [[mean(all(r.reward for r in samples[i : i + GROUP]) for i in range(0, len(samples), GROUP)) for samples in groups[t]] for t in groups]
    means = [mean(s) for s in shares]
    fall = bootstrap([a - b for a, b in zip(shares[0], shares[2])])
    yield (f"heat breaks solved groups, {when}", "all-correct share of groups of 8 falls from T 1.0 to 1.2 to 1.5, by .1 or more",
           " ".join(f"{m:.3f}" for m in means) + f"; falls by {show(fall)}", means[0] > means[1] > means[2] and fall[0] >= 0.1)
    rates = [mean(r.reward for r in g) for p, g in zip(problems, groups[1.0], strict=True) if p["family"] in ("hard", "relay")]
    yield f"hard and relay, {when}", "unsolved: success below .1", f"{show(bootstrap(rates))}, {len(rates)} problems", mean(rates) < 0.1


def precision(pupil, problems, when):
    """problems: those of harder.jsonl."""
    groups = pupil.sample(prompts(problems), golds(problems), 4, "harder", max_tokens=EVAL_MAX_TOKENS)
    rates = [mean(r.reward for r in group) for group in groups]
    needed = "success .3 to .7" if when == "at the start" else "success below .95"
    low, high = (0.3, 0.7) if when == "at the start" else (0, 0.95)
    yield f"longer problems, {when}", needed, f"{show(bootstrap(rates))}, {len(rates)} problems", low <= mean(rates) <= high
    wrong = [(p, r) for p, group in zip(problems, groups) for r in group if r.finished and not r.reward]
    slips = sum(failed_by_slips(p["problem"], pupil.text(r)) for p, r in wrong)
    yield f"longer problems fail by slips, {when}", "nine failures in ten or more", wilson(slips, len(wrong)), slips >= 0.9 * len(wrong)


def failed_by_slips(problem, solution):
    """Whether a wrong solution has every line in its place, so that only results can be wrong."""
    parts = make.parts_of(problem)
    steps = [f"{sign}{b}" for sign, b in zip(parts[1::2], parts[2::2], strict=True)]
    values = [str(parts[0])]  # before each line
    for line in solution.split("; ")[:-1]:
        left, _, said = line.removeprefix("no ").partition("=")
        if line.startswith("no ") and len(values) > 1:
            values.pop()
        place = len(values) - 1
        if place == len(steps) or left != values[place] + steps[place]:
            return False
        values.append(said)
    return len(values) == len(steps) + 1 and solution.endswith(f"\\boxed{{{values[-1]}}}")


def facts(start, trained, names):
    """What the baseline found out, and that a name that was never trained on is read as before. start, trained: {label: chance}."""
    rates = sorted({about["rate"] for about in names.values() if about["group"] == "trap"}, reverse=True)
    trap = {rate: [label for label, about in names.items() if about["group"] == "trap" and about["rate"] == rate] for rate in rates}
    wrong = [label for some in trap.values() for label in some if start[label] < 0.5]
    yield "facts to find", "200 names or more that it reads wrongly", str(len(wrong)), len(wrong) >= 200
    means = [mean(start[label] for label in some) for some in trap.values()]
    yield ("how likely they are at the start", "graded, from about .3 to .003 and below", " ".join(f"{m:.4f}" for m in means),
           means[0] > 0.2 and means[-1] <= 0.004 and all(a > b for a, b in zip(means, means[1:])))
    found = [mean(trained[label] > 0.5 for label in some) for some in trap.values()]
    count = sum(trained[label] > 0.5 for label in wrong)
    yield ("found by plain GRPO, by how likely they were", "many, the likelier the more, and not all", f"{count} of {len(wrong)}: "
           + " ".join(f"{share:.2f}" for share in found), 20 <= count <= 0.75 * len(wrong) and found[0] > found[-1])
    untold = [label for label, about in names.items() if about["group"] == "untold"]
    moved = bootstrap([trained[label] - start[label] for label in untold])
    yield ("names that were never trained on", "read rightly as often as before, give or take 2 points", f"{mean(start[x] for x in untold):.3f} "
           f"to {mean(trained[x] for x in untold):.3f}: {show(moved)}", abs(moved[0]) <= 0.02)


def hints(pupil, problems):
    cases = []
    for problem in problems:
        group = problem["group"][:GROUP]
        wrong = [box for r in group if r.finished and (box := last_boxed(pupil.text(r))) and box.isdigit()]
        if wrong and not any(r.reward for r in group):
            cases.append((problem, list(dict.fromkeys(wrong))))
    others = [[w for w in wrong if w != p["answer"]] or ["0"] for (p, _), (_, wrong) in zip(cases, cases[7:] + cases[:7])]
    gold = [p["answer"] for p, _ in cases]
    asked = lambda extra: [build_prompt(pupil.tokenizer, p["problem"] + e, "") for (p, _), e in zip(cases, extra)]  # noqa: E731
    listing = lambda lists: ["".join(f" not {answer}" for answer in wrong) for wrong in lists]  # noqa: E731
    plain = pupil.rates(asked([""] * len(cases)), gold, 64, "plain")
    own = pupil.rates(asked(listing([w for _, w in cases])), gold, 64, "hint")
    other = pupil.rates(asked(listing(others)), gold, 64, "placebo")
    for name, arm in (("as many plain tries", plain), ("another problem's answers", other)):
        gap = bootstrap([a - b for a, b in zip(own, arm)])
        yield (f"own wrong answers against {name}", "on problems with none of 8 right: success is higher, interval above 0",
               f"{mean(own):.3f} against {mean(arm):.3f}: {gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}], "
               f"{len(cases)} problems",
               gap[1] > 0)
    brief = [p for p in problems if any(not r.finished for r in p["group"])]
    if brief:
        length = [mean(len(r.completion_ids) for r in g) for g in pupil.sample(
            [build_prompt(pupil.tokenizer, p["problem"] + " brief", "") for p in brief], golds(brief), 32, "brief")]
        before = [mean(len(r.completion_ids) for r in p["group"]) for p in brief]
        gap = bootstrap([a - b for a, b in zip(length, before)])
        yield ("the word `brief`", "responses of problems that hit the limit get shorter", f"{mean(before):.1f} to "
               f"{mean(length):.1f} tokens", gap[2] < 0)


def stall(folder):
    """Rows of plain GRPO's log. All wrong = zero variance, but not all right."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    late = rows[1:][-10:]
    same = mean(r["frac_reward_zero_std"] for r in late)
    wrong = mean(r["frac_reward_zero_std"] - r["frac_all_right"] for r in late)
    yield ("plain GRPO stalls", "zero-variance groups above .6 in the last 10 steps, .2 or more of all groups all wrong",
           f"zero variance {same:.2f}, all wrong {wrong:.2f}", same > 0.6 and wrong >= 0.2)


def flags_for(task):
    """Flags of grpo.py for the model and the problems of any task."""
    if task == ROOT / "tiny":
        return []
    sets = [str(task / name) for name in ("test.jsonl", "harder.jsonl")]
    return ["--model", str(task / "model"), "--tiny", "--data", str(task / "train.jsonl"), "--eval-sets", *sets]


def load(task, name, tokenizer):
    """The problems of one file of a task, each with its family."""
    rows = [json.loads(line) for line in (task / f"{name}.jsonl").read_text().splitlines()]
    problems = load_problems(str(task / f"{name}.jsonl"), tokenizer)
    return [problem | {"family": row["family"]} for problem, row in zip(problems, rows, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=lambda name: Path(name).resolve(), default=ROOT / "tiny", help="folder of a task that make.py wrote")
    parser.add_argument("--stability", action="store_true", help="the baseline's seeds instead: nothing is sampled")
    parser.add_argument("--per-length", type=int, default=60, help="problems of each length that are probed")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args, flags = parser.parse_known_args()  # what is not known here goes to grpo.py
    if args.stability:
        sys.path.insert(0, str(ROOT / "results"))
        import claims_grpo

        return print(claims_grpo.table())
    torch.set_num_threads(1)
    start = time.time()
    pupil = Pupil(args.task / "model")
    names = json.loads((args.task / "names.json").read_text())
    pool, harder = (load(args.task, name, pupil.tokenizer) for name in ("train", "harder"))
    problems = []
    for level in sorted({p["level"] for p in pool}):
        problems += [p for p in pool if p["level"] == level][: args.per_length]

    rows = []

    def say(found):
        for row in found:
            rows.append(row)
            print(f"{time.time() - start:5.0f} s  {'held    ' if row[3] else 'NOT HELD'}  {row[0]}: {row[2]}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "GRPO on the spot"
        command = [sys.executable, str(ROOT / "grpo.py"), *flags_for(args.task), *flags, "--out", str(trained)]
        grpo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        rare = screen(pupil, problems)
        say(by_length(problems))
        odd = [p for p in rare if p["family"] == "odd" and not p["p"]][:4]
        deepen(pupil, odd, NEVER - odd[0]["n"] if odd else 0)
        say(bands(problems, sum(not p["p"] for p in odd), len(odd)))
        say(failure_prefixes(pupil, problems))
        say(correct_prefixes(pupil, problems))
        say(heat(pupil, problems, "at the start"))
        say(hints(pupil, problems))
        say(precision(pupil, harder, "at the start"))
        if grpo.wait():
            raise SystemExit(f"error: the GRPO run failed: {grpo.stderr.read().strip().splitlines()[-1]}")
        taught = Pupil(max(trained.glob("checkpoint-??????")))
        say(heat(taught, problems, "after plain GRPO"))
        say(precision(taught, harder, "after plain GRPO"))
        say(facts(pupil.known(names), taught.known(names), names))
        say(stall(trained))
    table = "\n".join(["| | needed | measured | |", "|---|---|---|---|"] + [
        f"| {what} | {needed} | {measured} | {'held' if held else '**not held**'} |" for what, needed, measured, held in rows])
    table += f"\n\n{sum(row[3] for row in rows)} of {len(rows)} held; {(time.time() - start) / 60:.0f} minutes."
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
