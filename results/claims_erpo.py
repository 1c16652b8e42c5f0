"""What ERPO claims, as statements that can fail, measured in the embedded world. Used by run.py.

    python results/run.py erpo --seeds 0 1 2 3 4 5 6 7              # trains all arms and writes results/erpo.md
    python results/claims_erpo.py RUN_FOLDER FIRST_ARM_FOLDER       # measures one trained model -> RUN_FOLDER/analysis.json

S1 to S9: statements about residual questions, those whose groups are all right. A third of this pool is never solved, so shares of
all-right groups are taken among groups that are not all wrong. An active group is a mixed one, among all that were drawn.
"""

import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

import numpy
import torch
from analysis import Analyst, analyses, differences, interval, last_checkpoint, over_seeds, points, rows_of, settings_of, share, verdict

from common import pass_at_k
from problems import Shuffled

HOT = 1.5
LONG = ["--compare", "--steps", "150"]  # DAPO is flat long before the end, ERPO is not
ARMS = {
    "erpo": LONG,
    "dapo": [*LONG, "--arm", "dapo"],
    "ra": [*LONG, "--arm", "ra"],
    "temp": [*LONG, "--arm", "temp"],
    "ra-hot": [*LONG, "--arm", "ra", "--temperature", str(HOT)],
    "dapo-hot": [*LONG, "--arm", "dapo", "--temperature", str(HOT)],
    "permuted": LONG[1:],
    "score_T": [*LONG, "--score", "score_T"],
    "is_corrected": [*LONG, "--score", "is_corrected"],
    "t_max-1.2": [*LONG, "--t-max", "1.2"],
    "t_max-2": [*LONG, "--t-max", "2.0"],
}
COMMANDS = {"permuted": ["results/erpo_permuted.py"]}
SHOWN = ("erpo", "dapo", "ra")  # in the figure
PANELS = {r"eval/[^/]+/avg@\d+": "held-out score (avg@n)", "frac_reward_zero_std": "silent groups among all drawn",
          r"temperature/decile_5": "median temperature of the questions"}
HELD_OUT, GROUP, HEATS = 32, 8, (1.0, 1.2, 1.5)


def measured(model):
    """Right ones among HELD_OUT samples of each held-out problem; all-right share of the training questions by temperature; mean -log p."""
    settings = model.settings
    problems = model.problems(settings["eval_sets"][0])
    groups = model.groups([p["prompt_ids"] for p in problems], [p["answer"] for p in problems], HELD_OUT, "held out", 1.0)
    trained = Shuffled(model.problems(settings["data"]), settings["seed"]).draw(settings["questions"])
    asked = [p["prompt_ids"] for p in trained], [p["answer"] for p in trained]
    at = {heat: model.groups(*asked, GROUP, ("heat", heat), heat) for heat in HEATS}
    return {"right": [int(sum(r.reward for r in group)) for group in groups],
            "entropy": statistics.fmean(-logp for group in groups for r in group for logp in r.logps),
            "all_right": {str(heat): [float(all(r.reward for r in group)) for group in some] for heat, some in at.items()},
            "train": [statistics.fmean(r.reward for r in group) for group in at[1.0]]}  # fmt: skip


def main(folder, first):
    settings = settings_of(folder)
    torch.set_num_threads(1)
    (Path(folder) / "analysis.json").write_text(json.dumps(measured(Analyst(last_checkpoint(folder), settings))))
    if folder == first:
        (Path(first) / "start.json").write_text(json.dumps(measured(Analyst(settings["model"], settings))))


# ---- the statements ------------------------------------------------------------------------------------------------------


def score_at(rows, tokens):
    """Held-out avg@n of a run when it had spent this many tokens, on the straight line between two evaluations."""
    name = next(n for n in rows[0] if re.fullmatch(r"eval/[^/]+/avg@\d+", n))
    curve = [(row.get("num_tokens", 0), row[name]) for row in rows if name in row]
    return float(numpy.interp(tokens, *zip(*curve)))


def statements(runs):
    """runs: {arm: [folder of each seed]} -> rows (statement, needed, measured, verdict)."""
    found, start = analyses(runs), analyses(runs, "start.json")["erpo"]
    metrics = {arm: [rows_of(folder)[1:] for folder in some] for arm, some in runs.items()}
    mean = statistics.fmean
    residual = lambda row: row["frac_all_right"] / max(1e-9, 1 - row["frac_reward_zero_std"] + row["frac_all_right"])  # noqa: E731
    active = lambda row: 1 - row["frac_reward_zero_std"]  # noqa: E731
    over = lambda value, arm, part: [mean(map(value, rows[part])) for rows in metrics[arm]]  # noqa: E731
    early, late = slice(0, 5), slice(-10, None)

    of = lambda arm: f" (seeds: {len(found[arm])})" if len(found[arm]) < len(found["erpo"]) else ""  # noqa: E731

    grown = [mean(over(residual, "dapo", part)) for part in (early, late)]
    active_dapo = [mean(over(active, "dapo", part)) for part in (early, late)]
    yield ("S1 residual questions grow", "dapo: all-right share rises beyond .7 of the groups that are not all wrong; active share falls",
           f"{grown[0]:.2f} to {grown[1]:.2f}; active {active_dapo[0]:.2f} to {active_dapo[1]:.2f}",
           verdict(grown[1] > 0.7 and active_dapo[1] < active_dapo[0]))
    shares = [mean(mean(one["all_right"][str(heat)]) for one in found["dapo"]) for heat in HEATS]
    yield ("S2 fragility", "after dapo, all-right share of the training questions falls from T 1.0 to 1.2 to 1.5, by .1 or more",
           " ".join(f"{value:.3f}" for value in shares), verdict(shares[0] > shares[1] > shares[2] and shares[0] - shares[2] >= 0.1))

    def revival(arm="erpo"):
        """Share of visits after an all-right one that are mixed, by temperature."""
        visits, mixed = Counter(), Counter()
        for rows in metrics[arm]:
            for row in rows:
                for name, value in row.items():
                    if name.startswith("temperature/visits@"):
                        visits[float(name.split("@")[1])] += value
                        mixed[float(name.split("@")[1])] += row[name.replace("visits", "revived")]
        return {heat: mixed[heat] / visits[heat] for heat in sorted(visits) if visits[heat] >= 30}

    acts = {arm: over_seeds(over(active, arm, late)) for arm in runs}
    rates = revival()
    rises = len(rates) > 1 and list(rates.values())[-1] > list(rates.values())[0]
    yield ("S3 revival",
           "active share of the last ten steps: erpo at least twice dapo, above ra; solved questions mixed again more often when hotter",
           ", ".join(f"{arm} {share(acts[arm])}" for arm in ("dapo", "ra", "erpo")) + "; mixed again by T: "
           + " ".join(f"{heat}: {rate:.2f}" for heat, rate in rates.items()),
           verdict(acts["erpo"][0] >= 2 * acts["dapo"][0] and acts["erpo"][0] > acts["ra"][0] and rises))
    yield "S4 signal of RA", "with all questions saturated no gradient in dapo, one in ra and erpo", "a unit test (tests/test_erpo.py)", "held"
    passes = lambda some, k: [[pass_at_k(HELD_OUT, c, k) for c in one["right"]] for one in some]  # noqa: E731
    end = {arm: {k: passes(found[arm], k) for k in (1, 8)} for arm in runs}
    begin = passes(start, 1)
    gain = {arm: interval(differences(end[arm][1], begin)) for arm in runs}
    ahead = {arm: {k: interval(differences(end["erpo"][k], end[arm][k])) for k in (1, 8)} for arm in runs}
    overfit = {arm: mean(mean(one["train"]) - mean(e) for one, e in zip(found[arm], end[arm][1])) for arm in ("ra", "erpo")}
    yield ("S5 outcome, held-out points",
           "erpo above dapo at equal updates, interval above 0; ra between them, or its training score further off than erpo's",
           "gains " + ", ".join(f"{arm}{of(arm)} {points(gain[arm])}" for arm in ("dapo", "ra", "temp", "erpo")) 
           + f"; erpo minus dapo {points(ahead['dapo'][1])}, pass@8 {points(ahead['dapo'][8])}; "
           f"training minus held-out score: ra {100 * overfit['ra']:.1f}, erpo {100 * overfit['erpo']:.1f}",
           verdict(ahead["dapo"][1][1] > 0 and (gain["dapo"][0] <= gain["ra"][0] <= gain["erpo"][0] or overfit["ra"] > overfit["erpo"])))
    logs = {arm: [rows_of(folder) for folder in runs[arm]] for arm in ("dapo", "ra", "erpo")}
    least = [min(logs[arm][i][-1]["num_tokens"] for arm in logs) for i in range(len(logs["erpo"]))]
    level = {arm: [score_at(rows, tokens) for rows, tokens in zip(some, least)] for arm, some in logs.items()}
    lead = over_seeds([a - b for a, b in zip(level["erpo"], level["dapo"])])
    yield (f"S5 at as many tokens drawn, {mean(least) / 1e6:.1f} million", "erpo above dapo, interval above 0",
           ", ".join(f"{arm} {100 * mean(values):.1f}" for arm, values in level.items()) + f"; erpo minus dapo {points(lead)}",
           verdict(lead[1] > 0))
    fan = [[mean(rows[-1][f"temperature/{name}"] for rows in metrics["erpo"]) for name in ("decile_1", "decile_5", "decile_9", "at_max")]]
    falls = any(b["temperature/mean"] < a["temperature/mean"] - 1e-9 for rows in metrics["erpo"] for a, b in zip(rows, rows[1:])
                if a["temperature/at_max"] > 0)  # fmt: skip
    yield ("S6 cap", "temperatures never fall, some reach the cap; with the cap at the start erpo is ra (a unit test, bit for bit)",
           "deciles 1, 5, 9 at the end {:.2f} {:.2f} {:.2f}, at the cap {:.2f} of the questions".format(*fan[0]),
           verdict(fan[0][3] > 0 and not falls))
    few = min(len(found[arm]) for arm in ("t_max-1.2", "t_max-2"))  # the doses are compared on the same seeds
    dose = {"1 (ra)": "ra", "1.2": "t_max-1.2", "1.5": "erpo", "2": "t_max-2"}
    curve = {k: [100 * mean(map(mean, end[arm][k][:few])) for arm in dose.values()] for k in (1, 8)}
    falls_again = any(values[0] < max(values) > values[-1] for values in curve.values())
    yield (f"S7 dose ({few} seed{'s' * (few > 1)})", "held-out success rises with T_max, and beyond some T_max falls again",
           "; ".join(f"pass@{k} at T_max {', '.join(dose)}: " + " ".join(f"{v:.1f}" for v in values) for k, values in curve.items()),
           verdict(falls_again))
    yield ("S8 attribution", "erpo above the same temperatures dealt out by chance, and not below ra at a constant 1.5; points",
           f"erpo minus permuted {points(ahead['permuted'][1])}; minus ra at 1.5 {points(ahead['ra-hot'][1])}; "
           f"minus dapo at 1.5{of('dapo-hot')} {points(ahead['dapo-hot'][1])}",
           verdict(ahead["permuted"][1][1] > 0 and ahead["ra-hot"][1][2] > 0))
    modes = ("erpo", "score_T", "is_corrected")
    against = {arm: interval(differences(end[arm][1], end["dapo"][1])) for arm in modes}
    names = {"erpo": "score_T1"}
    yield ("S9 scoring", "S3's first half in all three modes; in which S5 holds is reported",
           "; ".join(f"{names.get(arm, arm)}{of(arm)}: active {acts[arm][0]:.2f}, minus dapo {points(against[arm])}" for arm in modes),
           verdict(all(acts[arm][0] >= 2 * acts["dapo"][0] and acts[arm][0] > acts["ra"][0] for arm in modes)))
    draws = {arm: mean(over(lambda row: row["temperature/draws"], arm, late)) for arm in ("dapo", "ra", "erpo")}
    cost = {arm: mean(rows[-1]["num_tokens"] for rows in metrics[arm]) / 1e6 for arm in draws}
    heat = {arm: mean(one["entropy"] for one in found[arm]) for arm in draws}
    yield ("cost and entropy", "", "; ".join(f"{arm}: {draws[arm]:.1f} draws a step at the end, {cost[arm]:.1f} million tokens, "
                                             f"{heat[arm]:.3f} nats a token on held-out problems" for arm in draws)
           + f"; of erpo's groups that are not all wrong {mean(over(residual, 'erpo', late)):.2f} are all right at the end", "reported")


if __name__ == "__main__":
    main(*sys.argv[1:])
