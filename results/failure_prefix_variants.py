"""What else failure prefixes are compared with: prefixes of right answers, and questions of medium
difficulty.

    python results/failure_prefix_variants.py --behind correct    right answers to the same questions
    python results/failure_prefix_variants.py --behind medium     questions of medium difficulty, plain

Other flags go to failure_prefix.py. A --bank has to be one that this script mined: it keeps a right answer to
each question, up to its box. Prints a histogram of the success measured behind the chosen cuts.
"""

import sys
from bisect import bisect_left
from collections import Counter

import variants

import failure_prefix

GIVEN = variants.Given()
SETTINGS = {
    "behind": ("failure", "failure", "what to train behind", ("failure", "correct", "medium")),
    "medium_low": (13, 13, "fewest right ones of a medium question"),
    "medium_high": (19, 19, "most right ones of a medium question"),
}


def mine(questions, draw, **how):
    """As failure_prefix.mine; usable lines have "correct" as well, the ids of a right answer up to its box.

    Of several, the first that is as long as the failure's longest prefix, else the longest.
    """
    drawn = []

    def watched(items, n):
        drawn.append(draw(items, n))
        return drawn[-1]

    lines = MINE(questions, watched, **how)
    for line, group in zip(lines, drawn[0], strict=True):
        if "failure" in line:
            unfinished = [before_box(r.completion_ids, GIVEN.run.tokenizer) for r in group if r.right]
            needed = len(failure_prefix.prefix_of(line["failure"], line["cuts"][-1]))
            enough = [ids for ids in unfinished if len(ids) >= needed]
            line["correct"] = enough[0] if enough else max(unfinished, key=len, default=[])
    return lines


def before_box(ids, tokenizer):
    """The tokens of a response before its first box: what is cut from them holds no answer and no end."""
    has_box = lambda i: "\\boxed" in tokenizer.decode(ids[: i + 1])  # noqa: E731
    return ids[: bisect_left(range(len(ids)), True, key=has_box)]


def training_items(lines, problems, *, arm, tau, fixed_cut):
    """As failure_prefix.training_items, by --behind. Of medium questions as many are taken as were mined."""
    items = ITEMS(lines, problems, arm=arm, tau=tau, fixed_cut=fixed_cut)
    saturated = [line for line in lines if "failure" in line]
    show_histogram([failure_prefix.choose_cut(line, tau, fixed_cut)[1] for line in saturated])
    if GIVEN.args.behind == "medium":
        low, high = GIVEN.args.medium_low, GIVEN.args.medium_high
        return [problems[line["id"]] | {"prefix": 0} for line in lines if low <= line["right"] <= high][
            : len(saturated)
        ]
    return behind_right(items, saturated, problems) if GIVEN.args.behind == "correct" else items


def behind_right(items, saturated, problems):
    """Items with as long a prefix of the right answer in the place of the failure's. saturated: their lines.

    A question whose right answer comes to its box before that is left out: it would be an answer, no start.
    """
    changed = []
    for item, line in zip(items, saturated, strict=True):
        if len(line["correct"]) >= item["prefix"]:
            context = problems[line["id"]]["prompt_ids"] + line["correct"][: item["prefix"]]
            changed.append(item | {"prompt_ids": context, "rate": None})
    return changed


def show_histogram(rates):
    """Print how often which success was measured. rates: shares, None where none was."""
    rates = [rate for rate in rates if rate is not None]
    bins = Counter(min(9, int(10 * rate)) for rate in rates)
    for low in range(10) if rates else ():
        print(
            f"  success behind the cut .{low} and up {bins[low]:4}  "
            + "#" * round(50 * bins[low] / len(rates))
        )


MINE, ITEMS = failure_prefix.mine, failure_prefix.training_items

if __name__ == "__main__":
    failure_prefix.mine, failure_prefix.training_items = mine, training_items
    variants.extend(failure_prefix, SETTINGS, GIVEN)
    failure_prefix.main(sys.argv[1:])
