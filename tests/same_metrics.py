"""Do the scripts give the metrics that those of an earlier commit gave? Every script and every variant, for a few steps.

    python tests/same_metrics.py 690ddcc [--jobs 2]     # run by hand, about ten minutes

Runs the earlier commit in a temporary folder and this tree beside it, from the same seed on the same machine, and compares every value
of metrics.jsonl but times, to the last bit. Prints one row a run and exits with status 1 if a value differs. RUNS says what is run;
RENAMED which metrics have another name now.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RENAMED = {"hint/silent_after": "hint/zero_std_after", "prefix/silent_with": "prefix/zero_std_with",
           "prefix/silent_without": "prefix/zero_std_without"}  # fmt: skip
FEW = ["--compare", "--eval-every", "2", "--eval-samples", "2"]
ERPO = [*FEW, "--steps", "6"]
BANK = [*FEW, "--steps", "3", "--questions", "12", "--bank", "{bank}"]
LTE = [*FEW, "--steps", "3"]
PAIR = [*FEW, "--steps", "2", "--questions", "100"]
TRACES = [*FEW, "--steps", "3", "--traces", "{traces}"]
# name: (script before, its flags, script now, its flags where they differ)
RUNS = {
    "grpo": ("grpo.py", ["--steps", "4", *FEW[1:]], "grpo.py", None),
    "grpo kl entropy": ("grpo.py", ["--steps", "2", "--beta", "0.1", "--entropy-coef", "0.01", *FEW[1:]], "grpo.py", None),
    "grpo 3 updates": ("grpo.py", ["--steps", "2", "--updates-per-batch", "3", "--loss-type", "sequence-mean", *FEW[1:]], "grpo.py", None),
    "failure_prefix": ("failure_prefix.py", [*FEW, "--steps", "3", "--questions", "12"], "results/failure_prefix_variants.py", None),
    "prefix_rl": ("prefix_rl.py", [*FEW, "--steps", "3", "--questions", "2"], "results/prefix_rl_variants.py", None),
    "pairing pool": ("pos_neg_pairing.py", [*PAIR, "--arm", "pool", "--steps", "8"], "results/pos_neg_variants.py", None),
    "failure_prefix plain": ("failure_prefix.py", [*BANK, "--arm", "plain"], "failure_prefix.py", None),
    **{f"failure_prefix {arm}": ("failure_prefix.py", [*BANK, "--arm", arm], "results/failure_prefix_variants.py", [*BANK, "--behind", arm])
       for arm in ("correct", "medium")},
    "failure_prefix refreshed": ("failure_prefix.py", [*BANK, "--refresh-every", "2", "--refresh-samples", "16"], "failure_prefix.py", None),
    "failure_prefix scored": ("results/failure_prefix_scored.py", BANK[1:], "results/failure_prefix_scored.py", None),
    "prefix_rl plain": ("prefix_rl.py", [*TRACES, "--arm", "plain"], "results/prefix_rl_variants.py", None),
    "prefix_rl prefix-only": ("prefix_rl.py", [*TRACES, "--arm", "prefix-only"], "results/prefix_rl_variants.py", None),
    "prefix_rl sft": ("results/prefix_rl_baselines.py", ["sft", *TRACES[1:]], "results/prefix_rl_baselines.py", None),
    "prefix_rl weighted": ("results/prefix_rl_baselines.py", ["weighted", *TRACES[1:]], "results/prefix_rl_baselines.py", None),
    "erpo": ("erpo.py", ERPO, "results/erpo_variants.py", None),
    "erpo dapo": ("erpo.py", [*ERPO, "--arm", "dapo"], "results/erpo_variants.py", None),
    "erpo ra": ("erpo.py", [*ERPO, "--arm", "ra"], "erpo.py", None),
    "erpo temp": ("erpo.py", [*ERPO, "--arm", "temp"], "erpo.py", None),
    "erpo score_T": ("erpo.py", [*ERPO, "--score", "score_T"], "erpo.py", None),
    "erpo is_corrected": ("erpo.py", [*ERPO, "--score", "is_corrected"], "results/erpo_variants.py", None),
    "erpo ra-2": ("erpo.py", [*ERPO, "--ra", "ra-2"], "results/erpo_variants.py", None),
    "erpo ra-3": ("erpo.py", [*ERPO, "--ra", "ra-3", "--ra-size", "0.2"], "results/erpo_variants.py", None),
    "erpo reset": ("erpo.py", [*ERPO, "--t-rule", "reset", "--questions", "24"], "results/erpo_variants.py", None),
    "erpo updown": ("erpo.py", [*ERPO, "--t-rule", "updown", "--questions", "24"], "results/erpo_variants.py", None),
    "erpo consecutive": ("erpo.py", [*ERPO, "--t-rule", "consecutive", "--questions", "24"], "results/erpo_variants.py", None),
    "erpo permuted": ("results/erpo_permuted.py", [*ERPO[1:], "--questions", "24"], "results/erpo_permuted.py", None),
    "lte": ("lte.py", LTE, "results/lte_variants.py", None),
    "lte grpo": ("lte.py", [*LTE, "--arm", "grpo"], "lte.py", None),
    "lte extra": ("lte.py", [*LTE, "--arm", "extra", "--no-part-norms"], "lte.py", [*LTE, "--arm", "extra"]),
    "lte entropy 2 updates": ("lte.py", [*LTE, "--entropy-coef", "0.003", "--updates-per-batch", "2"], "results/lte_variants.py", None),
    "lte placebo": ("lte.py", [*LTE, "--arm", "placebo"], "results/lte_variants.py", [*LTE, "--placebo"]),
    "lte behaviour one": ("lte.py", [*LTE, "--behaviour", "one"], "results/lte_variants.py", None),
    "pairing": ("pos_neg_pairing.py", PAIR, "results/pos_neg_variants.py", None),
    "pairing role_pooled": ("pos_neg_pairing.py", [*PAIR, "--adv-mode", "role_pooled", "--lambda-neg", "4"], "pos_neg_pairing.py", None),
    **{f"pairing {arm}": ("pos_neg_pairing.py", [*PAIR, "--arm", arm], "results/pos_neg_variants.py", [*PAIR, "--choose", arm])
       for arm in ("hard", "easy", "positive", "negative", "mid")},
    "pairing random": ("pos_neg_pairing.py", [*PAIR, "--arm", "random"], "results/pos_neg_variants.py", [*PAIR, "--coin"]),
    "pairing variance": ("pos_neg_pairing.py", [*PAIR, "--arm", "variance", "--history", "{history}"], "results/pos_neg_variants.py",
                         [*PAIR, "--choose", "variance", "--history", "{history}"]),
    "pairing resampled": ("pos_neg_pairing.py", [*PAIR, "--resample-every", "1"], "results/pos_neg_variants.py", None),
    **{f"pairing {mode}": ("pos_neg_pairing.py", [*PAIR, "--adv-mode", mode, "--lambda-neg", "4"], "results/pos_neg_variants.py", None)
       for mode in ("pair_pooled", "post_weight", "center_only")},
}  # fmt: skip
FIRST = ("failure_prefix", "prefix_rl", "pairing pool")  # others start from what these leave


def run(tree, folder, name, script, flags):
    """One run in folder/NAME -> its rows. Raises RuntimeError."""
    left = {"bank": "failure_prefix/bank.jsonl", "traces": "prefix_rl/traces.jsonl", "history": "pairing pool/history.jsonl"}
    flags = [flag.format(**{key: folder / file for key, file in left.items()}) for flag in flags]
    kind = flags[:1] if flags[0] in ("sft", "weighted") else []
    command = [sys.executable, script, *kind, "--out", str(folder / name), *flags[len(kind) :]]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} in {tree}: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def compared(name, old, new):
    """The row of the table of one run, and how many values differ."""
    same, different, gone, added = 0, [], set(), set()
    for before, after in zip(old, new, strict=True):
        before = {RENAMED.get(key, key): value for key, value in before.items() if not key.startswith("time/")}
        after = {key: value for key, value in after.items() if not key.startswith("time/")}
        gone |= set(before) - set(after)
        added |= set(after) - set(before)
        for key in set(before) & set(after):
            if before[key] == after[key]:
                same += 1
            else:
                different.append(f"step {before['step']} {key} {before[key]!r} {after[key]!r}")
    cells = [name, str(len(new)), str(same), "; ".join(different[:3]) or "0", " ".join(sorted(gone)), " ".join(sorted(added))]
    return "| " + " | ".join(cells) + " |", len(different)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", default="", help="runs whose name holds this, and those they start from")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    before = folder / "before"
    before.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", args.commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(before)], input=archive, check=True)

    def both(name):
        script, flags, now, changed = RUNS[name]
        try:
            old = run(before, folder / "old", name, script, flags)
            return compared(name, old, run(ROOT, folder / "new", name, now, flags if changed is None else changed))
        except (RuntimeError, ValueError) as problem:
            return f"| {name} | {problem} | | | | |", 1

    print("| run | rows | values alike | different | not logged any more | logged as well |\n|---|---|---|---|---|---|", flush=True)
    failed = 0
    for some in (FIRST, [name for name in RUNS if name not in FIRST]):
        with ThreadPoolExecutor(args.jobs) as pool:
            for row, different in pool.map(both, [name for name in some if args.only in name or name in FIRST]):
                print(row, flush=True)
                failed += different
    shutil.rmtree(folder)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
