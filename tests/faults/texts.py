"""The verifier under hostile text, and the two tables of answers."""

import random

import answers as table
from small import ROOT  # noqa: F401  (finds the project)

from plumbing.verifier import verify

NESTED = ["{", "(", "[", r"\frac{", r"\sqrt{", r"\boxed{", "|", r"\left(", "^{", "_{", "-", "!", "=", ",", "1,", r"\text{"]
TEXTS = [
    *(piece * n for piece in NESTED for n in (50, 20_000)),
    *(piece * n + "5" + "}" * n for piece in (r"\frac{", r"\sqrt{", r"\boxed{", "{") for n in (30, 5_000)),
    *("9" * n + end for n in (4_299, 4_301, 40_000) for end in ("", ".", "!", "x", "^9", r"\%")),
    "10^{10^{10}}", "9^{9^{9^{9}}}", "2003^{2002^{2001}}", "(10^9)!", "5!!!!!!!", r"\binom{10^9}{10^8}", r"\sum_{k=1}^{10^{12}} k",
    r"\prod_{k=1}^{10^9} k", r"\int_0^\infty e^{-x^2} dx", r"\lim_{x\to0}\frac{\sin x}{x}", "1/0", r"\frac{5}{0}", r"\frac{0}{0}", "0^{-1}",
    "0^0", r"\log 0", r"\sqrt{-1}", r"\pi\cdot10^{300}\cdot10^{300}", r"\pi\cdot10^{300}\cdot10^{300}-\pi\cdot10^{300}\cdot10^{300}",
    r"\cdot".join([r"\sqrt{10^{300}}"] * 3), "1e999", "1e-999", "nan", "inf", "-inf", "None", "True", "[]", "{}",
    "__import__('os').system('touch x')",
    "exec('1')", "lambda: 5", "S(5)", "5;import os", "\x00", "5\x00", "\ud800", "5\ud800", "\u202e5", "５", "٥", "五", "Ⅴ", "\U0001d7d3x", "5\u0301",
    "\n" * 10_000, " " * 40_000, "5" + " " * 40_000 + "6", "\\", "\\\\", r"\end{", r"\begin{matrix}", r"\begin{pmatrix}" + "1&" * 3_000, "%", "5%6",
    "$" * 9_999, "&", "#", "~" * 9_999, r"\input{/etc/passwd}", r"\write18{ls}", r"\def\x{\x\x}\x", r"\newcommand", "<script>", "' or 1=1 --",
]  # fmt: skip


def hostile(scale=1.0, seed=0):
    """Texts against golds of several kinds. Sound: a verdict for each, no reward, and no exception."""
    rng = random.Random(seed)
    pieces = [*NESTED, *"})]12x+*/ <&$%", r"\times", r"\cdot", r"\pi", r"\infty", r"\le", r"\{", r"\}"]
    texts = TEXTS[:: max(1, round(1 / scale))]
    texts = texts + ["".join(rng.choices(pieces, k=rng.randrange(1, 40))) for _ in range(round(200 * scale))]
    cases = [(text, gold) for text in texts for gold in ("77771", r"\frac{77}{713}", r"\{77771, 3\}")]
    wrong = []
    for text, gold in cases:
        try:
            rewards = verify([f"so \\boxed{{{text}}}", f"\\boxed{{{gold}}}"], [gold, gold], seconds=1)
        except Exception as problem:
            wrong.append(f"{text[:60]!r}: {type(problem).__name__}: {problem}"[:200])
            continue
        if rewards != [0.0, 1.0]:
            wrong.append(f"{text[:60]!r} for {gold}: {rewards}")
    return len(cases), wrong


def answers():
    """The two tables."""
    refused, paid = table.errors(lambda *given: verify(*given, seconds=60))
    return len(table.rows()), [f"refused: {row[1:3]}" for row in refused] + [f"paid: {row[1:3]}" for row in paid]
