"""All groups of faults, with counts as a table: nice -n 15 python tests/faults/run.py [GROUP ...] [--scale 0.1]

`pip install hypothesis` first. Exit status 1 if anything failed; what it was goes to standard error.
"""

import argparse
import sys
import tempfile
import time

import damage
import kills
import properties
import small
import texts


def groups(reference, scale):
    """{name of the group: a call that returns how many cases were tried, and what went wrong}."""
    def times(count):
        return max(1, round(count * scale))

    return {
        "kills": lambda: kills.kills(reference, times(20)),
        "kills in every further arm": lambda: kills.kills_in_arms(reference, times(2)),
        "signals": lambda: kills.signals(reference, times(18)),
        "two at once": lambda: kills.two_at_once(reference, times(6)),
        "run folders": lambda: damage.run_folders(reference, scale),
        "full disk": lambda: damage.full_disk(reference, times(12)),
        "model folders": lambda: damage.model_folders(reference, scale),
        "data files": lambda: damage.data_files(scale),
        "settings": lambda: damage.settings(scale),
        "hostile texts": lambda: texts.hostile(scale),
        "answers": texts.answers,
        **{f"properties: {name}": lambda name=name: properties.check(name, times(10_000)) for name in properties.ALL},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help="only these")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the cases")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = small.Reference(folder)
        print("| group | tried | failed | minutes |\n|---|---|---|---|")
        for name, work in groups(reference, args.scale).items():
            if args.groups and name not in args.groups:
                continue
            began = time.monotonic()
            tried, wrong = work()
            if name == "kills" and tried < 100 * args.scale:
                wrong.append(f"{tried} kills are too few")
            print(f"| {name} | {tried:,} | {len(wrong)} | {(time.monotonic() - began) / 60:.1f} |", flush=True)
            failed += len(wrong)
            for what in wrong:
                print(f"{name}: {what}", file=sys.stderr, flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
