"""Measure whether the tiny task is what it has to be, before any method is run in it.

    python tiny/probe.py                              # the shipped world; 20 minutes on two cores with other work on them
    python tiny/make.py --seed 1 --out /tmp/world && python tiny/probe.py --world /tmp/world

Each of the five papers presumes something about its model and its problems: that solved problems still fail now and then, that right
openings help, that heat breaks what looked solved. Where such a precondition is missing, a method cannot show its effect, and a
failure of it says nothing. This script samples the starting model, trains it once with plain GRPO, samples that one too, and
prints a Markdown table: what is needed, what was measured, whether it held.

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
from plumbing.verifier import last_boxed  # noqa: E402

MAX_TOKENS = SETTINGS["max_tokens"][1]
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

    def sample(self, contexts, golds, n, purpose, temperature=1.0):
        """n scored samples of each context -> list of lists of Rollout."""
        groups = []
        for start in range(0, len(contexts), 64):  # a few thousand at a time, so that little memory is held
            part = contexts[start : start + 64]
            rollouts = self.sampler.generate(part, n, temperature, MAX_TOKENS, derive_seed("probe", purpose, start))
            score_rollouts(rollouts, [gold for gold in golds[start : start + 64] for _ in range(n)], self.tokenizer)
            groups += [rollouts[i * n : (i + 1) * n] for i in range(len(part))]
        return groups

    def rates(self, contexts, golds, n, purpose, temperature=1.0):
        """Success of each context -> list of float."""
        return [mean(r.reward for r in group) for group in self.sample(contexts, golds, n, purpose, temperature)]

    def text(self, rollout):
        return self.tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)


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
    yield ("success by number of operators, 1 to 8", "about .8 to below .05, no cliff (no step above .3)", " ".join(f"{m:.2f}" for m in means),
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
        match = re.fullmatch(r"(?:no |check )?(\d+)(\D)(\d+)=(\d+)", line)
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
    same = {f: [set(s[: make.early_lines(len(s))]) - set("+-") <= set(s[make.early_lines(len(s)) :]) for s in
                (make.parts_of(p["problem"])[1::2] for p in problems if p["family"] == f)] for f in ("hard", "relay")}
    yield ("rules of early and late steps", "the same in one family, another one in a second",
           f"early sign comes again late: {sum(same['hard'])} of {len(same['hard'])} hard, {sum(same['relay'])} of {len(same['relay'])} relay",
           all(same["hard"]) and not any(same["relay"]))


def heat(pupil, problems, when):
    groups = {t: pupil.sample(prompts(problems), golds(problems), 4 * GROUP, ("heat", t), t) for t in (1.0, 1.2, 1.5)}
    shares = [[mean(all(r.reward for r in samples[i : i + GROUP]) for i in range(0, len(samples), GROUP)) for samples in groups[t]] for t in groups]
    means = [mean(s) for s in shares]
    fall = bootstrap([a - b for a, b in zip(shares[0], shares[2])])
    yield (f"heat breaks solved groups, {when}", "all-correct share of groups of 8 falls from T 1.0 to 1.2 to 1.5, by .1 or more",
           " ".join(f"{m:.3f}" for m in means) + f"; falls by {show(fall)}", means[0] > means[1] > means[2] and fall[0] >= 0.1)
    rates = [mean(r.reward for r in g) for p, g in zip(problems, groups[1.0], strict=True) if p["family"] in ("hard", "relay")]
    yield f"hard and relay, {when}", "unsolved: success below .1", f"{show(bootstrap(rates))}, {len(rates)} problems", mean(rates) < 0.1


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


def stall(folders):
    """Rows of plain GRPO's logs. All wrong = silent, but not all right."""
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        late = rows[1:][-10:]
        silent = mean(r["frac_reward_zero_std"] for r in late)
        wrong = mean(r["frac_reward_zero_std"] - r["frac_all_right"] for r in late)
        scores = [r["eval/test/avg@4"] for r in rows if "eval/test/avg@4" in r]
        yield (f"plain GRPO stalls, {folder.name}", "zero-variance groups above .6 in the last 10 steps, .2 or more of all groups all wrong, "
               "held-out gain over the last two evaluations below a fifth of the whole",
               f"silent {silent:.2f}, all wrong {wrong:.2f}; held out " + " ".join(f"{s:.2f}" for s in scores),
               silent > 0.6 and wrong >= 0.2 and scores[-1] - scores[-3] < 0.2 * (scores[-1] - scores[0]))


def grpo_flags(world):
    """The tiny settings of grpo.py, spelled out, for the model and the problems of any world."""
    tiny = {name: row[1] for name, row in SETTINGS.items()}
    tiny |= {"model": str(world / "model"), "data": str(world / "train.jsonl"), "eval_sets": [str(world / "test.jsonl")]}
    flags = []
    for name, value in tiny.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=lambda name: Path(name).resolve(), default=ROOT / "tiny", help="folder of a world that make.py wrote")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders of plain GRPO in this world whose stall is shown as well")
    parser.add_argument("--per-length", type=int, default=40, help="problems of each length that are probed")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    args, flags = parser.parse_known_args()  # what is not known here goes to grpo.py
    torch.set_num_threads(1)
    start = time.time()
    problems = []
    pupil = Pupil(args.world / "model")
    pool = load_problems(str(args.world / "train.jsonl"), pupil.tokenizer)
    families = [json.loads(line)["family"] for line in (args.world / "train.jsonl").read_text().splitlines()]
    for problem, family in zip(pool, families, strict=True):
        problem["family"] = family
    for level in sorted({p["level"] for p in pool}):
        problems += [p for p in pool if p["level"] == level][: args.per_length]

    rows = []

    def say(found):
        for row in found:
            rows.append(row)
            print(f"{time.time() - start:5.0f} s  {'held    ' if row[3] else 'NOT HELD'}  {row[0]}: {row[2]}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "GRPO on the spot"
        command = [sys.executable, str(ROOT / "grpo.py"), *grpo_flags(args.world), *flags, "--out", str(trained)]
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
        if grpo.wait():
            raise SystemExit(f"error: the GRPO run failed: {grpo.stderr.read().strip().splitlines()[-1]}")
        say(heat(Pupil(max(trained.glob("checkpoint-*"))), problems, "after plain GRPO"))
        say(stall([trained, *args.runs]))
    table = "\n".join(["| | needed | measured | |", "|---|---|---|---|"] + [
        f"| {what} | {needed} | {measured} | {'held' if held else '**not held**'} |" for what, needed, measured, held in rows])
    table += f"\n\n{sum(row[3] for row in rows)} of {len(rows)} held; {(time.time() - start) / 60:.0f} minutes."
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
