"""Is this answer right? Compares the last \\boxed{...} of a response with a known answer.

Most answers are decided by their characters. The rest go to math-verify, which parses LaTeX and may hang, run
out of memory or crash on what a model writes, so it runs in worker processes (this file, run as a script)
that are killed and replaced when they do.
"""

import atexit
import contextlib
import faulthandler
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

MEMORY_LIMIT = 4 << 30  # bytes for one worker: a tower of powers must not eat the machine's memory


def last_boxed(text):
    """Content of the last complete \\boxed{...}, or None. An unfinished box does not count.

    >>> last_boxed(r"\\boxed{1}, no, \\boxed{\\frac{1}{2}} and \\boxed{3")
    '\\\\frac{1}{2}'
    """
    stack, found = [], None
    for piece in re.finditer(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", text, re.DOTALL):
        if piece[0][-1] == "{" and piece[0] != "\\{":
            stack.append(piece.end() if piece[0] != "{" else None)
        elif piece[0] == "}" and stack:
            start = stack.pop()
            if start is not None:  # an outer box closes last, and it is the one meant
                found = (start, piece.start())
    return None if found is None else text[slice(*found)].strip()


def close_up(text):
    """Join the thousands of a number written with spaces, 14\\,400 or 14 400; 1 1/2 is not 11/2."""
    text = re.sub(r"(?<!\\)\\!", "", text)
    text = re.sub(r"(?<=\d)(?:\\[,; ]|\s|~)+(?=\d{3}(?!\d))", "", text)
    return re.sub(r"(?<!\\)\\[,; ]|\s|~", " ", text)  # a double backslash ends a row of a matrix


def exact_match(gold, answer):
    """True or False where the characters alone decide it (same text; two plain integers), else None."""
    texts = []
    for text in (gold, answer):
        text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\$", "", close_up(text))
        text = re.sub(r"(?<!\d) +| +(?!\d)", "", text)  # only a space between two digits means something
        texts.append(re.sub(r"\\[dt]frac", r"\\frac", text).rstrip("."))
    integers = [re.fullmatch(r"([-+]?)(\d+)", text, re.ASCII) for text in texts]
    if all(integers):
        a, b = ((m[2].lstrip("0"), m[1] == "-" and m[2].strip("0") != "") for m in integers)
        return a == b
    return True if texts[0] == texts[1] != "" else None


# ---- what kind of text an answer is ------------------------------------------------------------------------

NEGATION = re.compile(r"\\(?:ne|neq|neg|lnot|not|notin|nexists)(?![A-Za-z])|[≠¬]")
DOES = re.compile(  # a sign, a name, or any command but these: it makes another number of a number
    r"[-+*/^_!|'<>]|(?<![A-Za-z\\])(?:arc|a)?(?:sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|abs|floor|ceil|round)"
    r"h?(?![A-Za-z])|\\(?!(?:text\w*|math(?:rm|bf|it|sf|tt)|operatorname|boldsymbol|bm|mbox|hbox|rm|bf|it"
    r"|boxed|fbox|underline|overline|bar|dot|displaystyle|left|right|quad|qquad|circ|degree|mu|Omega|ohm"
    r"|pounds|euro|yen|pi|infty)(?![A-Za-z]))[A-Za-z]+")
NAME = re.compile(  # of a quantity
    r"(?<![A-Za-z\\])[A-Za-z]|\\(?:text|mathrm|mathbf|angle|triangle|gcd|lcm|max|min|det|deg|dim|Pr|alpha"
    r"|beta|gamma|delta|epsilon|theta|lambda|mu|phi|rho|sigma|omega|Delta|Omega|therefore)(?![A-Za-z])")
RELATION = re.compile(
    r"\\(?:ldots|dots|cdots|l|g|le|ge|leq|geq|lt|gt|ll|gg|in|ni|mid|pm|mp|lor|land|subset|cup|cap|forall"
    r"|exists|equiv|cong)(?![A-Za-z])|[<>≤≥∈±;]")
QUALIFIED = re.compile(  # words that make another number of a number, or more than one, or none
    r"\b(?:not?|or|nor|and|except|than|more|less|least|most|over|under|about|approx\w*|around|nearly|almost"
    r"|roughly|between|maybe|hundred|thousand|million|billion|trillion|dozen|score|plus|minus|mod|wrong|false"
    r"|incorrect)s?\b", re.IGNORECASE)
CHANGED = re.compile(  # the same, beside a number; elsewhere they may be part of a name, as in half-life
    r"\b(?:squared|cubed|halved|doubled|tripled|factorial|negative|negated|half|halves|quarter|twice|thirds"
    r"|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths|lakh|crore|gross|(?-i:k)|bn|binary|octal|hex"
    r"|hexadecimal|reciprocal|inverse)s?\b", re.IGNORECASE)
BEFORE = re.compile(  # words that may stand before a number; single letters are names
    r"(?:(?:the|final|answer|result|value|area|volume|length|width|height|radius|perimeter|distance|time|cost"
    r"|price|total|sum|product|number|count|probability|minimum|maximum|smallest|largest|average|of|is|are"
    r"|equals|so|thus|hence|therefore|[a-z])\s+)*+(?<!\bof\s)", re.IGNORECASE)
WORDS = r"\\(?:text|textrm|textbf|textit|mathrm|rm|mbox|operatorname)\s*\{([^{}\d]*)\}"
LEADING = re.compile(rf"\s*{WORDS}\s*:?\s*(?=[-+\d\\.])")
UNIT = rf"(?:{WORDS}|\^\s*+\\circ|[A-Za-z]++)\s*+(?:\^\s*+\{{?-?\d\}}?)?\s*+[/.]?\s*+"
TOKEN = re.compile(
    r"\s*(\d+(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+|\\[A-Za-z]+|\\%|[-+*/^!%(){}|\[\]])", re.ASCII)


class _Number:
    """A number that an answer spells out, and how.

    value: a Fraction, or a float where that is not exact. plain: written as a number (2, -0.5, 1/2, 3\\times
    10^8, 2^{10}, \\frac{\\sqrt{2}}{2}), not as a calculation that is still to be done (2+3, 2\\cdot 3, 3!).
    """

    def __init__(self, value, plain=True, digits=False, ratio=False, percent=False, unit=""):
        if isinstance(value, float) and not math.isfinite(value):
            raise _TooLarge
        self.value, self.plain, self.digits, self.ratio = value, plain, digits, ratio
        self.percent, self.unit = percent, unit

    @property
    def exact(self):
        return isinstance(self.value, Fraction)


class _NoNumber(Exception):
    """The text is no arithmetic on numbers."""


class _TooLarge(_NoNumber):
    """It may be, but of numbers that take too long to write out."""


class _Arithmetic:
    """Reads + - * / ^ ! % fractions, roots, pi and brackets into a _Number. Raises _NoNumber.

    Text that follows the number stays in `rest`.
    """

    def __init__(self, text):
        self.tokens, self.at, end = [], 0, 0
        while token := TOKEN.match(text, end):
            self.tokens.append((token[1], end))
            end = token.end()
        self.text, self.end = text, end

    def peek(self):
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def next(self):
        return self.tokens[self.at + 1][0] if self.at + 1 < len(self.tokens) else ""

    def take(self, *wanted):
        token = self.peek()
        if wanted and token not in wanted:
            raise _NoNumber
        self.at += 1
        return token

    @property
    def rest(self):
        start = self.tokens[self.at][1] if self.at < len(self.tokens) else self.end
        return self.text[start:]

    def sum(self):
        total = self.product()
        while self.peek() in ("+", "-") and self.peek():
            sign = 1 if self.take() == "+" else -1
            total = _Number(total.value + sign * self.product().value, plain=False)
        return total

    def product(self):
        signed, sign = self.peek() in ("-", "+"), 1
        if signed:
            sign = -1 if self.take() == "-" else 1
        bracket = self.peek() in ("(", "{")
        made = self.power()
        made.plain &= not (signed and bracket)  # -(-3)
        while token := self.peek():
            if token in ("\\times", "\\cdot", "*"):
                self.take()
                tens = self.peek() == "10" and self.next() == "^"
                other = self.power()
                plain = made.plain and other.plain and (made.digits and tens or not other.exact)
                made = _Number(made.value * other.value, plain)
            elif token in ("/", "\\div"):
                self.take()
                other = self.power()
                plain = token == "/" and made.plain and other.plain and not made.ratio
                made = _Number(self.ratio(made, other), plain, ratio=True)
            elif token == "\\frac" and made.digits and made.value.denominator == 1:  # 2\frac{1}{3}
                other = self.power()
                made = _Number(made.value + other.value, other.plain)
            elif token in ("\\sqrt", "\\pi", "("):
                other = self.power()
                made = _Number(made.value * other.value, made.plain and other.plain and token != "(")
            else:
                break
        made.value *= sign
        return made

    @staticmethod
    def ratio(above, below):
        if not below.value:
            raise _NoNumber
        return above.value / below.value

    def power(self):
        base = self.atom()
        while self.peek() in ("^", "!", "%", "\\%") and self.next() != "\\circ":  # degrees are a unit
            token = self.take()
            if token == "^":
                base = self.raised(base)
            elif token == "!":
                if not base.exact or base.value.denominator != 1 or not 0 <= base.value <= 500:
                    raise _TooLarge
                base = _Number(Fraction(math.factorial(int(base.value))), plain=False)
            else:
                base = _Number(base.value / 100, base.plain, percent=True)
        return base

    def raised(self, base):
        sign = -1 if self.peek() in ("-", "+") and self.take() == "-" else 1
        exponent = self.atom()
        plain = base.plain and exponent.plain and not base.ratio
        if not exponent.exact or exponent.value.denominator != 1:
            if base.value <= 0 or abs(exponent.value) > 100:
                raise _TooLarge
            return _Number(float(base.value) ** (sign * float(exponent.value)), plain)
        exponent = sign * int(exponent.value)
        if not base.exact or base.value == 0 and exponent < 0:
            raise _NoNumber
        size = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
        if abs(exponent) * size > 10_000:
            raise _TooLarge
        return _Number(base.value**exponent, plain)

    def atom(self):
        token = self.take()
        if token[:1].isdigit() or token[:1] == "." and len(token) > 1:
            if len(token) > 4000:
                raise _TooLarge
            return _Number(Fraction(token.replace(",", "").rstrip(".")), digits=True)
        if token in ("(", "{", "|"):
            inner = self.sum()
            self.take({"(": ")", "{": "}", "|": "|"}[token])
            return _Number(abs(inner.value), plain=False) if token == "|" else inner
        if token == "\\frac":
            above, below = self.argument(), self.argument()
            return _Number(self.ratio(above, below), above.plain and below.plain)
        if token == "\\sqrt":
            degree = 2
            if self.peek() == "[":
                self.take()
                degree = self.atom().value
                self.take("]")
            inner = self.argument()
            if inner.value < 0 or not 1 < degree < 100 or degree != int(degree):
                raise _NoNumber
            return _Number(float(inner.value) ** (1 / int(degree)), inner.plain)
        if token == "\\binom":
            n, k = self.argument().value, self.argument().value
            if not n == int(n) <= 1000 or not 0 <= k == int(k) <= n:
                raise _NoNumber
            return _Number(Fraction(math.comb(int(n), int(k))), plain=False)
        if token == "\\pi":
            return _Number(math.pi)
        raise _NoNumber

    def argument(self):
        """Of \\frac and \\sqrt: a group, or one digit."""
        token = self.peek()
        if token[:1].isdigit():
            start = self.tokens[self.at][1]
            self.take()
            if len(token) > 1:  # \frac12: the other digits are not read yet
                where = self.text.index(token, start)
                self.tokens.insert(self.at, (token[1:], where + 1))
            return _Number(Fraction(token[0]), digits=True)
        return self.atom()


def tidy(text):
    """An answer without layout: sizes, spaces, fonts and the signs of typography."""
    text = close_up(text).replace("{,}", ",").translate(str.maketrans("−–·×÷π≈", "--*×÷π≈"))
    for sign, command in (("×", r"\times "), ("÷", r"\div "), ("π", r"\pi "), ("≈", r"\approx ")):
        text = text.replace(sign, command)
    layout = r"\\(?:left|right|displaystyle|big|Big|quad|qquad)(?![A-Za-z])|\\[()]|\\?\$|[€£]|\\textdollar"
    text = re.sub(layout, "", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\\degree(?![A-Za-z])|°", r"^\\circ ", text)
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{\s*(\d[\d.,]*)(\s[^{}\d]+)\}", r"\1\\text{\2}", text)
    for _ in range(3):
        text = re.sub(
            r"\\(?:boxed|fbox|mathbf|boldsymbol|bm|textbf|mathrm|text|mbox|underline)\s*\{"
            r"\s*([-+.,\d\s]*\d[.\d]*)\s*\}", r"\1", text, flags=re.ASCII)
        text = re.sub(r"^\s*(?:\\boxed|\\fbox|\\mathbf|\\boldsymbol)\s*\{(.*)\}\s*$", r"\1", text)
    text = re.sub(r"^\s*\\\{\s*([^,{}]*)\s*\\\}\s*$", r"\1", text)  # a set of one
    text = re.sub(r"(?<=\d)_(?:10|\{10\})\s*$", "", text)  # base ten
    return re.sub(r"[\s.,]+$", "", text).strip()


def known_before(text):
    """Whether the words before the first digit leave a number what it is.

    >>> known_before(r"\\text{The answer is } 3"), known_before(r"\\text{half of } 3")
    (True, False)
    """
    words = re.findall("[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", re.split(r"\d", text)[0]))
    return bool(BEFORE.fullmatch("".join(word + " " for word in words)))


@functools.lru_cache(1024)
def read_number(text):
    """The _Number that a text is, or None. Raises _TooLarge where that would take too long to know."""
    if mixed := re.fullmatch(r"([-+]?)(\d{1,9}) +(\d{1,9})/(\d{1,9})", text, re.ASCII):  # 2 1/3
        whole, above, below = (Fraction(int(mixed[i])) for i in (2, 3, 4))
        if not below:
            return None
        return _Number((whole + above / below) * (-1 if mixed[1] == "-" else 1))
    if (leading := LEADING.match(text)) and known_before(text):
        text = text[leading.end() :]
    reader = _Arithmetic(text)
    try:
        number = reader.sum()
    except _TooLarge:
        raise
    except (_NoNumber, ValueError, OverflowError, ZeroDivisionError, RecursionError):
        return None
    rest = reader.rest
    is_unit = len(rest) <= 200 and re.fullmatch(rf"\s*+(?:{UNIT})*+", rest)
    if not is_unit or QUALIFIED.search(rest) or CHANGED.search(rest):
        return None
    if re.search(r"\{\s*per ?cent\s*\}", rest):
        number.value, number.percent = number.value / 100, True
    number.unit = "letters" if re.search(r"[A-Za-z]", re.sub(rf"{WORDS}|\\[A-Za-z]+", "", rest)) else ""
    return number


def equal_parts(text):
    """What stands between the equals signs of a tidy text; with each, whether an "about equal" is before it.

    >>> equal_parts(r"x = \\sum_{i=1}^2 i \\approx 3")
    [('x', False), ('\\\\sum_{i=1}^2 i', False), ('3', True)]
    """
    parts, depth, start, about = [], 0, 0, False
    for piece in re.finditer(r"\\approx(?![A-Za-z])|\\simeq(?![A-Za-z])|\\[A-Za-z]+|\\.|[={}()\[\]]", text):
        if piece[0] in ("{", "(", "["):
            depth += 1
        elif piece[0] in ("}", ")", "]"):
            depth -= 1
        elif depth == 0 and piece[0] in ("=", "\\approx", "\\simeq"):
            parts.append((text[start : piece.start()].strip(), about))
            start, about = piece.end(), piece[0] != "="
    return [(part, near) for part, near in [*parts, (text[start:].strip(), about)] if part]


def alike(a, b):
    """Whether a number is worth the gold's, a: exactly, or to 6 digits and 6 decimals."""
    if a == b:
        return True
    difference = abs(Fraction(a) - Fraction(b))
    return round(Fraction(a), 6) == round(Fraction(b), 6) and difference <= abs(Fraction(a)) / 10**6


def decide(gold, answer):
    """True or False where one can tell without math-verify, else None.

    A negation is never right, nor is a chain of equations that is false. For a gold that is a plain number
    the answer has to be one as well, bare or after a name and an equals sign: whoever writes 17+26 for 43 has
    copied the question. Percent, units and equal spellings of the number are right.
    """
    if gold.isascii() and answer.isascii() and gold.isdigit() and answer.isdigit():
        return gold.lstrip("0") == answer.lstrip("0")
    if (same := exact_match(gold, answer)) is not None:
        return same
    if NEGATION.search(answer) and not NEGATION.search(gold):
        return False
    if len(gold) + len(answer) > 2000:
        return None
    try:
        tidy_gold, answer = tidy(gold), tidy(answer)
        wanted = read_number(tidy_gold)
        if wanted and not (wanted.plain and wanted.exact and not wanted.unit):
            wanted = None
        if wanted:
            answer = re.split(r"\\(?:Rightarrow|implies|therefore|Longrightarrow)(?![A-Za-z])", answer)[-1]
        parts = [(part, about, read_number(part)) for part, about in equal_parts(answer)]
    except _TooLarge:
        return None
    numbers = [(number, about) for _, about, number in parts if number and not number.unit]
    first = next((number for number, _ in numbers), None)
    for number, about in numbers:
        near = Fraction(1, 100 if about or any(near for _, near in numbers) else 10**6)
        if abs(Fraction(number.value) - Fraction(first.value)) > near * abs(Fraction(first.value)):
            return False  # 4 = 3
    if not wanted:
        return None
    others = [part for part, _, number in parts if not number]
    if any(RELATION.search(part) or QUALIFIED.search(part) for part in others):
        return False
    beside = [part for part in others if len(parts) == 1 or LEADING.match(part)]  # and not P(exactly 2) = 3
    if any(CHANGED.search(part) or not known_before(part) for part in beside):
        return False
    plain = [number for _, _, number in parts if number and number.plain]
    plain = [number for number in plain if not (number.ratio and number.value == int(number.value))]
    if not plain:
        decorated = len(parts) < 2 and len(re.findall(r"\d[\d.,]*", answer)) <= 1
        return None if decorated and not DOES.search(re.sub(r"^[-+](?!\s*[({])", "", answer)) else False
    if not all(number.exact and not number.unit for number in plain):
        return None
    if not any(same_number(wanted, number) for number in plain):
        return False
    return None if any(not NAME.search(part) for part in others) else True


def same_number(gold, number):
    """Whether an exact number is the gold's. A gold in percent may be met without the sign."""
    values = [gold.value] + [gold.value * 100] * (gold.percent and not number.percent)
    return any(alike(value, number.value) for value in values)


@functools.cache
def grader():
    """math_verify, with numbers compared to 6 digits: its own 6 decimals make all equal that is tiny."""
    import math_verify  # here, because only workers compare: the scripts need not wait half a second for it
    from math_verify import grader as module

    own = module.sympy_numeric_eq

    def numeric_eq(a, b, float_rounding, numeric_precision):
        same = own(a, b, float_rounding, numeric_precision)
        percents = [module.is_atomic_or_pct_atomic(x, module.Number) and not x.is_Number for x in (a, b)]
        if any(percents) or not (a.is_number and b.is_number) or not (same or a.is_Float or b.is_Float):
            return same
        a, b = a.evalf(20), b.evalf(20)  # floats of sympy do not end at 1e-308
        return bool(abs(a - b) <= (1.0000001e-6 if same else 1e-12) * max(abs(a), abs(b)))

    module.sympy_numeric_eq = numeric_eq
    return math_verify


def compare(gold, answer):
    """math-verify's verdict: "right", "wrong", "unparsed" (the answer) or "gold" (unparsed). May hang."""
    math_verify = grader()
    if not gold.strip() or last_boxed(f"\\boxed{{{gold}}}") != gold.strip():
        return "gold"  # empty, or its braces do not match
    parts = equal_parts(tidy(answer))
    values = [part for part, about in parts if not about and not NAME.search(part)]
    if len(parts) == 1 or "=" in gold:
        values = []
    # Outside a box, half of LaTeX is not recognised as mathematics.
    boxes = ["\\boxed{" + close_up(text) + "}" for text in (gold, answer, *values)]
    wanted, *found = [math_verify.parse(box, parsing_timeout=None) for box in boxes]
    if not wanted or not all(found):
        return "unparsed" if wanted else "gold"
    # Gold first: the comparison is not symmetric. An interval may be written as an inequality and the other
    # way round.
    how = {"timeout_seconds": None, "allow_set_relation_comp": True}
    return "right" if all(math_verify.verify(wanted, one, **how) for one in found) else "wrong"


class _Worker:
    """A process that compares, one pair at a time."""

    process = None

    def ask(self, pair, seconds):
        """The verdict on a (gold, answer) pair. After "timeout" or "crash" the next call starts a process."""
        if self.process is None:
            command = [sys.executable, os.path.abspath(__file__)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if self._exchange(None, 120) != "ready":
                raise RuntimeError(f"the verifier process does not start; try: {' '.join(command)}")
        return self._exchange(pair, seconds)

    def _exchange(self, pair, seconds):
        process, late = self.process, threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
        timer.start()
        try:
            if pair is not None:
                process.stdin.write(json.dumps([*pair, 2 * seconds]) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline().strip()
        except OSError:  # it died before it could read
            answer = ""
        timer.cancel()
        timer.join()  # it may be killing the process just as the answer comes
        if late.is_set() or not answer:
            self.close()
        return answer or ("timeout" if late.is_set() else "crash")

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):  # what was not sent cannot be flushed any more
                    pipe.close()
            self.process = None


_WORKERS = [_Worker() for _ in range(min(16, os.cpu_count() or 1))]  # a process starts when first asked
_ONE_AT_A_TIME = threading.Lock()  # callers on several threads take turns with the workers
atexit.register(lambda: [worker.close() for worker in _WORKERS])


def compare_in_workers(pairs, seconds=5.0):
    """Verdicts on (gold, answer) pairs -> list of "right", "wrong", "unparsed", "gold", "error", ...

    seconds: limit for each pair; beyond it the verdict is "timeout". "crash": it killed its process.
    """
    todo, verdicts = deque(dict.fromkeys(pairs)), {}  # a pair that recurs is compared once

    def work(worker):
        with contextlib.suppress(IndexError):
            while True:
                pair = todo.popleft()
                verdicts[pair] = worker.ask(pair, seconds)

    hands = _WORKERS[: len(todo)]
    if hands:
        with _ONE_AT_A_TIME, ThreadPoolExecutor(len(hands)) as threads:
            try:
                list(threads.map(work, hands))
            finally:
                todo.clear()  # after Ctrl-C the threads end with the pair they are at
    return [verdicts[pair] for pair in pairs]


def readable(golds):
    """Which gold answers math-verify can read -> list of bool. Without that no reward is fair."""
    plain = [gold.isascii() and gold.isdigit() for gold in golds]
    verdicts = iter(compare_in_workers([(gold, gold) for gold, easy in zip(golds, plain) if not easy]))
    return [easy or next(verdicts) == "right" for easy in plain]


def verify(responses, golds, counts=None, seconds=5.0):
    """Rewards of responses -> list of float: 1.0 where the last complete box is worth the gold, else 0.0.

    responses, golds: texts, one gold for each response. seconds: wall-clock limit for one answer; one that
    exceeds it, or kills its worker, scores 0. counts: a Counter to which verify/no_answer, /unparsed_pred,
    /timeouts, /crashes and /errors are added. Raises ValueError if the two lists differ in length.
    """
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses but {len(golds)} gold answers")
    answers = [last_boxed(response) for response in responses]
    asked = [i for i, answer in enumerate(answers) if answer]
    exact = [decide(golds[i], answers[i]) for i in asked]
    undecided = [(golds[i], answers[i]) for i, known in zip(asked, exact) if known is None]
    compared = iter(compare_in_workers(undecided, seconds))
    verdicts = [next(compared) if known is None else "right" if known else "wrong" for known in exact]
    rewards = [0.0] * len(answers)
    for i, verdict in zip(asked, verdicts):
        rewards[i] = float(verdict == "right")
    if counts is not None:
        counts["verify/no_answer"] += len(answers) - len(asked)
        names = {"unparsed": "unparsed_pred", "timeout": "timeouts", "crash": "crashes", "error": "errors"}
        for verdict, name in names.items():
            counts["verify/" + name] += verdicts.count(verdict)
    return rewards


def serve():
    """Body of a worker: answer (gold, answer, seconds) lines from standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    compare("1", "1.0")  # imports and warms up before the clock of the first answer runs
    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer, seconds = json.loads(line)
        # If the parent is gone, nobody else ends a comparison that hangs.
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            verdict = compare(gold, answer)
        except Exception:  # odd input makes the parser raise nearly anything
            verdict = "error"
        faulthandler.cancel_dump_traceback_later()
        print(verdict, flush=True)


if __name__ == "__main__":
    serve()
