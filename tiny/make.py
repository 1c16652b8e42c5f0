r"""Make the tiny task: problems, names, tokenizer and starting model, all from one seed.

    python tiny/make.py                             # rewrites what tiny/ holds; users never need to
    python tiny/make.py --seed 1 --out /tmp/task    # another task of the same kind; tiny/probe.py measures one

A problem is a left-nested sum of numbers and names. A name is worth a number, always the same one, which the
problem does not tell. A solution reads the names and reaches the answer one sign a line; here k7 is worth 5:

    ((12+1)*3)-k7        12+1=13; 13*3=39; k7=5; 39-5=34; \boxed{34}

The starting model is a *pupil*: a small language model taught, by next-token prediction, on solutions that an
imagined child wrote. So it has the child's habits, all of them as probabilities:

- Names. Every name is a fact of its own: what is learned of one says nothing about another. The child reads
  some names rightly. Most it takes for a number that is wrong, now and then for a second wrong one, and for
  the right one at a rate that is the name's own, from .35 down to .0005 (`TRAP_RATES`).
- Misreading. It has one wrong rule for * and one for /, and takes it some of the time (`SIGNS`). A misreading
  is the same everywhere, so that a rule learned on one problem holds on others.
- Slips. It gets tired: line i is off by ten with i times `SLIP`, without any rule.
- Noticing. A wrong line is sometimes (`NOTICE`) seen at once and written again, with more care (`CARE`):
  `13*3=26; no 13*3=39; `.
- Hints. ` not 12 not 31` behind a problem lists answers that are wrong. When the child arrives at a listed
  answer, it reads the last name once more and takes the next likeliest number, or the last sign in another
  way: `k7=8; 39-8=31; no k7=5; 39-5=34; `. ` brief` keeps it from writing lines again.

Families of problems, drawn with shares that depend on the length (`shares`):

    plain   + and - only: right, save for slips                               saturated, breakable
    mixed   + - * /, the more of the last two the longer                      what plain GRPO learns first
    known   + and -, with names that the child reads rightly, or often        saturated to medium
    trap    + and -, and at the end a name that it takes for another number   the long tail of facts
    hard    + and -, and twice the same name, early and at the end            right once in 1,000 to 10,000
    relay   the same with two names; none of the early ones comes last        as hard, but what the end
            anywhere                                                          teaches does not help early
    odd     + and -, and at the end a name that it never reads rightly        hopeless
    guess   + and -, and at the end ~, which adds or subtracts by a coin      guessable, not learnable
    long    + and -, longer than any training problem: harder.jsonl           slips, and nothing else

What is assumed, and why it is fair. The five methods claim to use things that models have: rare failures of
solved problems, openings that raise success, answers that break under heat, hints that are understood. A
task without these could not tell a method that works from one that does not; so they are put in, by habits
of the child, none of which refers to a method. That a thing is there does not mean that a method gains by it:
that has to come out of the training, and can come out negative. The baseline gets the same model and the same
problems, and its settings were chosen and frozen before any method was run here (docs/tiny.md).

Nothing in the lessons tells what a name is worth but the child's readings of it: the numbers around it are
chosen as if it stood for a number that is drawn anew for every lesson. Lessons are whole solutions of the
child's, but for three kinds: single names (`READING`); solutions that are given up to a line that was made
wrong (`PROOFREAD`); and, of those under a hint, most are given up to the first answer. Without them, names,
noticing and hints would take very long to learn.

Problems are split by a hash of their meaning (`canonical`): a problem of the held-out share, or another
spelling of one, occurs neither in train.jsonl nor in what the pupil was taught on. Training problems do occur
there, solved as the child solves them, as problems of public sets do in a language model's own training
texts. `family` in the rows, and names.json, are for analyses; no script trains by them.
"""

import argparse
import json
import math
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LARGEST = 60  # every number, right or wrong, is 0..60 and one token
WORTH = range(1, 21)  # what a name can be worth, and be taken for
FAR = range(41, 46)  # what names are worth that the child never reads rightly
LENGTHS = range(1, 7)  # operators per problem
LONG = (7, 8)  # of the problems in harder.jsonl
LONG_LESSONS = range(7, 11)  # of the lessons for them, so that keeping one's place is not what fails
HELD_OUT_SHARE = 8  # one problem in eight is kept for testing
SLIPS = (-10, 10)  # a slip of the pen: a ten forgotten, or one too many
SLIP = 0.028  # how often line 1 of a solution has one; line i has it i times as often
NOTICE = 0.5  # how often a wrong line is noticed and written again
CARE = 0.4  # what is left of misreadings of * and / while writing a line again; it makes no slips then
TRAP_RATES = (0.35, 0.2, 0.1, 0.002, 0.001, 0.0005)  # how often names in traps are read rightly; the gap parts what a
# run finds from what it does not, so that it ends where the facts in reach end, and not where its steps do
PAIR_RATES = (0.03, 0.01)  # and names in hard and relay problems
LUCK = 0.5  # how much of hard, relay and guess there is in problems, against lessons
RARE = 0.005  # names in traps that are read rightly less often come half as often: they are the tail, not the lesson
DECOY = 0.05  # how often a name is taken for another wrong number
NAMES_OF = {"known": 60, "trap": 204, "early": 36, "late": 36, "odd": 8, "untold": 60}  # in no problem: untold
HINTED, PROOFREAD, READING, LONG_TAUGHT = 0.28, 0.22, 0.22, 0.12  # shares of the lessons
STEPS, BATCH_TOKENS = 4500, 3500  # of the teaching
SMALL = 0.018  # what names' embeddings are scaled by in the end: see teach
EPSILON = 1e-8  # of the model's norms, from then on
LR, MUON_LR = 3e-3, 0.01  # of AdamW for embeddings, head and norms, and of Muon for the matrices in between


class Sign(NamedTuple):
    right: Callable
    readings: tuple  # what the child may read, the likeliest first
    rate: float = 1.0  # how often it reads the first; the others share the rest


class Name(NamedTuple):
    worth: int
    group: str  # of NAMES_OF
    rate: float  # how often the child reads it rightly
    readings: dict  # {number: how often it is read so}, the likeliest first

    @property
    def taken_for(self):
        return next(iter(self.readings))


add, subtract = lambda a, b: a + b, lambda a, b: a - b
multiply, divide = lambda a, b: a * b, lambda a, b: a // b
SIGNS = {
    "+": Sign(add, (add,)),
    "-": Sign(subtract, (subtract,)),
    "*": Sign(multiply, (lambda a, b: a * (b - 1), multiply), 0.30),  # adds a too few times
    "/": Sign(divide, (lambda a, b: a // b + 1, divide), 0.70),  # counts the fence posts, not the gaps
    "~": Sign(add, (add, subtract), 0.5),  # adds or takes away by a coin that the problem does not show
}
FAMILIES = ("plain", "mixed", "known", "trap", "hard", "relay", "odd", "guess")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---- names -------------------------------------------------------------------------------------------------


def make_names(seed):
    """{name: Name}. Two names of a group differ in everything; wrong readings are more than a slip away."""
    rng = random.Random(f"{seed} names")
    labels = [f"{chr(letter)}{digit}" for letter in (*range(97, 123), *range(65, 91)) for digit in range(10)]
    labels = labels[: sum(NAMES_OF.values())]
    rng.shuffle(labels)
    names = {}
    for group, count in NAMES_OF.items():
        rates = {"odd": (0.0,), "early": PAIR_RATES, "late": PAIR_RATES}
        rates = rates.get(group, TRAP_RATES)
        for i in range(count):
            worth, rate = rng.choice(FAR if group == "odd" else WORTH), rates[i % len(rates)]
            wrong = rng.sample([n for n in WORTH if n - worth not in (0, *SLIPS)], 2)
            order = (wrong[0], worth, wrong[1])
            if group == "known":  # the same, but for the names' worth: being less sure does not pay
                order = (worth, *wrong)
            readings = dict(zip(order, (1 - rate - DECOY, rate, DECOY)))
            names[labels.pop()] = Name(worth, group, round(readings[worth], 4), readings)
    return names


NAMES = make_names(0)


def names_in(*groups):
    return [label for label, name in NAMES.items() if name.group in groups]


def is_name(part):
    return part in NAMES


class Cards:
    """Readings of names, in the long run each exactly as often as its rate says: cards dealt from a pack."""

    def __init__(self, rng, size=2000):
        self.rng, self.size, self.packs = rng, size, {}

    def read(self, label):
        """What the child takes the name for, this time."""
        if not self.packs.get(label):
            counts = {number: round(rate * self.size) for number, rate in NAMES[label].readings.items()}
            self.packs[label] = [number for number, count in counts.items() for _ in range(count)]
            self.rng.shuffle(self.packs[label])
        return self.packs[label].pop()


# ---- problems ----------------------------------------------------------------------------------------------


def shares(length, luck=LUCK):
    """How often each of FAMILIES is drawn: long problems are harder in kind as well, so that success falls
    evenly with length.

    luck: how much there is of families that are mostly right by luck: by wrong lines that cancel, or by a coin.
    Rewarded, a wrong line is taught.
    """
    far = (length - 1) / (LENGTHS[-1] - 1)
    pair = luck * 0.24 * (1 - 1 / length) ** 1.5
    return (0.32 * (1 - far**3), 0.21 - 0.18 * far, 0.26 * (1 - far**3), 0.12 + 0.27 * far, pair, pair,
            0.02 + 0.04 * far, luck * (0.06 - 0.05 * far))


def places_of(rng, family, length, taught):
    """What may stand at each place, first to last -> list of (signs, names to choose from or None).

    taught: a lesson's, in which all names are alike, and may stand anywhere.
    """
    places = [("+-", None)] * length
    last, early = length - 1, rng.randrange(length // 2) if length > 1 else 0
    if family == "mixed":
        places = [("+-*/" if place % 2 == 0 else "*/", None) for place in range(length)]
    elif family == "guess":
        places[last] = ("~", None)
    elif taught and family in ("known", "trap", "hard", "relay", "odd"):
        places[last] = ("+-", list(NAMES))
        if family in ("hard", "relay") and length > 1:
            places[early] = ("+-", list(NAMES))
    elif family in ("known", "trap", "odd"):
        places[last] = ("+-", names_in(family))
        if family == "known" and length > 1 and rng.random() < 0.5:
            places[early] = places[last]
    elif family in ("hard", "relay"):
        late = [rng.choice(names_in("late"))]
        places[last] = ("+-", late)
        places[early] = ("+-", late if family == "hard" else names_in("early"))
    return places


def operands(sign, value, names):
    """What may follow `value sign`, so that whatever is read there, right or wrong, stays in 1..LARGEST."""
    if names:
        room = LARGEST - value if sign == "+" else value - 1
        return [name for name in names if (FAR if NAMES[name].group == "odd" else WORTH)[-1] <= room]
    numbers = [b for b in (range(2, 10) if sign in "*/" else range(1, 30)) if sign != "/" or value % b == 0]
    readings = (SIGNS[sign].right, *SIGNS[sign].readings)
    return [b for b in numbers if all(1 <= reading(value, b) <= LARGEST for reading in readings)]


def make_problem(rng, length, family=None, taught=False):
    """A left-nested expression with `length` signs -> list [a, sign, b, sign, b, ...], and its family (drawn
    unless it is given).

    taught: a lesson's. Its numbers are chosen as if names were worth what is drawn anew for this lesson.
    """
    family = family or rng.choices(FAMILIES, shares(length, luck=1))[0]
    while True:  # until every sign finds an operand
        parts, drawn = [rng.randint(2, LARGEST // 2)], {}
        value = parts[0]
        for signs, names in places_of(rng, family, length, taught):
            possible = [(sign, b) for sign in signs if (b := operands(sign, value, names))]
            if not possible:
                break
            sign, choice = rng.choice(possible)
            operand = rng.choice(choice)
            number = operand
            if is_name(operand):
                number = drawn.setdefault(operand, rng.choice(WORTH)) if taught else NAMES[operand].worth
            parts += [sign, operand]
            value = SIGNS[sign].right(value, number)
        else:
            if taught or not cancels(parts):
                return parts, family


def cancels(parts):
    """Whether names can be misread so that the answer comes out right all the same, or but for one slip."""
    right = answer_of(parts)
    read = [list(NAMES[part].readings) if is_name(part) else [part] for part in parts]
    wrong = [version for version in product(*read) if list(version) != worths(parts)]
    return any(answer_of(version) - right in (0, *SLIPS) for version in wrong)


def worths(parts):
    """The problem with numbers in place of names."""
    return [NAMES[part].worth if is_name(part) else part for part in parts]


def text_of(parts):
    """[12, "+", 1, "*", "k7"] -> "(12+1)*k7"."""
    text = str(parts[0])
    for i in range(1, len(parts), 2):
        text = (f"({text})" if i > 1 else text) + f"{parts[i]}{parts[i + 1]}"
    return text


def parts_of(text):
    """The inverse of text_of."""
    tokens = re.findall(r"[A-Za-z]\d|\d+|[^\d()]", text)
    return [int(token) if token.isdigit() else token for token in tokens]


def clip(value):
    """Numbers beyond 0..LARGEST, which only follow mistakes, become the nearest one the child can write."""
    return min(max(value, 0), LARGEST)


def answer_of(parts):
    """The right answer."""
    parts = worths(parts)
    value, coin = parts[0], zlib.crc32(f"coin {text_of(parts)}".encode()) & 1
    for sign, b in zip(parts[1::2], parts[2::2], strict=True):
        rule = subtract if sign == "~" and coin else SIGNS[sign].right
        value = clip(rule(value, b))
    return value


def canonical(parts):
    """The problem with names written as what they are worth, and the first sum or product in one order.

    Two spellings of one problem have one canonical form, and fall on the same side of the split.
    """
    parts = worths(parts)
    if parts[1] in "+*":
        parts[0], parts[2] = sorted((parts[0], parts[2]))
    return " ".join(map(str, parts))


def is_held_out(parts):
    return zlib.crc32(canonical(parts).encode()) % HELD_OUT_SHARE == 0


def make_split(rng, per_length, held_out, lengths=LENGTHS):
    """Distinct problems of one side of the split -> rows with the columns of the public math sets.

    Families take turns in proportion to their shares, so that every stretch of the list has the same mixture,
    whatever the seed; so do the names of a group, but that rare ones in traps come half as often.
    """
    rows, owed = [], dict.fromkeys((*FAMILIES, "long"), 0.0)  # how far each family lags behind its share
    turns = Counter()  # how often each name has come last

    def turn(parts):
        """When the last name's next turn is: the name with the lowest comes first."""
        rare = family == "trap" and NAMES[parts[-1]].rate < RARE
        return (turns[parts[-1]] + 0.5) * (2 if rare else 1) if is_name(parts[-1]) else 0

    for length in lengths:
        seen, weights = set(), dict(zip(FAMILIES, shares(length), strict=True))
        if length in LONG:
            weights = {"long": 1.0}
        while len(seen) < per_length:
            for family, weight in weights.items():
                owed[family] += weight / sum(weights.values())
            family = max((family for family in weights if weights[family]), key=owed.get)
            owed[family] -= 1
            found = []
            for _ in range(5000):  # of some, the one whose last name is next
                parts, _ = make_problem(rng, length, family)
                if is_held_out(parts) == held_out and canonical(parts) not in seen:
                    found.append(parts)
                if len(found) == 8:
                    break
            if not found:  # the family has no problem left on this side
                continue
            parts = min(found, key=turn)
            turns[parts[-1]] += 1
            seen.add(canonical(parts))
            row = {"problem": text_of(parts), "answer": str(answer_of(parts)), "level": length}
            rows.append(row | {"family": family})
    return rows


# ---- the child ---------------------------------------------------------------------------------------------


def outcome(rng, value, sign, b, listed=(), care=1.0, slip=0.0):
    """What the child writes behind `value sign b =`, b a number. Never a listed answer: it takes another
    reading of the sign, or else slips. slip: how often it slips without that."""
    rule = SIGNS[sign]
    others = rng.sample(rule.readings[1:], len(rule.readings) - 1)
    first = not others or rng.random() < rule.rate * care
    order = [rule.readings[0], *others] if first else [*others, rule.readings[0]]
    answers = [clip(reading(value, b)) for reading in order]
    said = next((n for n in answers if n not in listed), answers[0])
    if rng.random() < slip or said in listed:
        said = rng.choice([n for n in slips(said) if n not in listed] or [said])
    return said


def slips(value):
    return [n for n in (value + off for off in SLIPS) if 0 <= n <= LARGEST]


def child_solution(rng, cards, parts, listed=(), brief=False, slip_at=None, arrived=False):
    """One solution -> what is given of it, what the child writes from there on, and the value it ends with.

    listed: answers a hint says are wrong. brief: it notices nothing. slip_at: the line that gets a slip, and up to
    which the solution is given. arrived: the solution is given up to the first answer.
    """
    steps = list(zip(parts[1::2], parts[2::2], strict=True))
    lines, given, numbers = [], 0, {}

    def number_at(place):
        """The operand as a number; a name is read the first time that it is needed."""
        operand = steps[place][1]
        if not is_name(operand):
            return operand
        if place not in numbers:
            numbers[place] = cards.read(operand)
            lines.append(f"{operand}={numbers[place]}; ")
        return numbers[place]

    def write(place, value, mark="", slip=False):
        """A line -> its result, and whether it is true."""
        sign, b = steps[place][0], number_at(place)
        true, tired = clip(SIGNS[sign].right(value, b)), 0 if mark else SLIP * (place + 1)
        said = rng.choice(slips(true)) if slip else outcome(rng, value, sign, b, (), CARE if mark else 1.0, tired)
        lines.append(f"{mark}{value}{sign}{b}={said}; ")
        return said, said == true

    def write_last_anew(value):
        """The last line ended in a listed answer: another number for a name, or another reading of the sign."""
        (sign, operand), b = steps[-1], number_at(len(steps) - 1)
        if not is_name(operand):
            said = outcome(rng, value, sign, b, listed, CARE)
            lines.append(f"no {value}{sign}{b}={said}; ")
            return said
        others = {n: NAMES[operand].readings.get(n, 0) for n in WORTH
                  if n != b and SIGNS[sign].right(value, n) not in listed} or {b: 1}
        number = rng.choices(list(others), others.values() if any(others.values()) else None)[0]
        said = clip(SIGNS[sign].right(value, number))
        lines.append(f"no {operand}={number}; {value}{sign}{number}={said}; ")
        return said

    value = parts[0]
    for place in range(len(steps)):
        said, true = write(place, value, slip=slip_at == place)
        if slip_at == place:
            given = len(lines)
        if not true and not brief and rng.random() < NOTICE:
            said, _ = write(place, value, "no ")
        if arrived and place == len(steps) - 1:
            given = len(lines)
        if place == len(steps) - 1 and said in listed:
            said = write_last_anew(value)
        value = said
    return "".join(lines[:given]), "".join(lines[given:]) + f"\\boxed{{{value}}}", value


def hint(rng, cards, parts):
    """A hint for a problem -> its text, the answers it lists, and whether it asks to be brief.

    Half of the lists are of another problem: it is not the hint as such that helps, but what stands on it.
    What counts as wrong goes by worths that are drawn anew for every hint: the lists give away nothing about
    what names are worth.
    """
    kind, wrong = rng.random(), []
    if kind < 0.85:
        source = parts
        if rng.random() < 0.5:
            source = make_problem(rng, rng.choice(LENGTHS), taught=True)[0]
        gold = answer_of([rng.choice(WORTH) if is_name(part) else part for part in parts])
        answers = [child_solution(rng, cards, source)[2] for _ in range(8)]
        wrong = [answer for answer in dict.fromkeys(answers) if answer != gold]
    brief = kind > 0.65
    return "".join(f" not {answer}" for answer in wrong) + (" brief" if brief else ""), wrong, brief


def lesson(rng, cards):
    """-> question, the given part of its solution, and the rest, which is to be learned."""
    kind = rng.random()
    if kind < READING:
        label = rng.choice(list(NAMES))
        number = cards.read(label)
        return label, "", f"{label}={number}; \\boxed{{{number}}}"
    hinted = kind < READING + HINTED
    proofread = not hinted and kind < READING + HINTED + PROOFREAD
    long = not hinted and not proofread and rng.random() < LONG_TAUGHT / (1 - READING - HINTED - PROOFREAD)
    parts, family = None, "plain" if long else None
    while parts is None or is_held_out(parts):
        length = rng.choice(LONG_LESSONS if long else LENGTHS)
        if hinted or proofread:  # what is to be learned is one decision: short lessons hold more of them
            length = min(length, rng.choice(LENGTHS))
        if hinted and rng.random() < 0.4:  # where a hint tells most
            family = "trap"
        elif proofread:
            family = rng.choice(("plain", "mixed"))
        elif not hinted and not long:  # ~ occurs nowhere else
            family = "guess" if rng.random() < 0.05 else None
        parts, _ = make_problem(rng, length, family, taught=True)
    if hinted:
        extra, listed, brief = hint(rng, cards, parts)
        arrived = rng.random() < 0.7  # whether an answer is listed takes long to learn
        return text_of(parts) + extra, *child_solution(rng, cards, parts, listed, brief, arrived=arrived)[:2]
    slip_at = rng.randrange(len(parts) // 2) if proofread else None
    return text_of(parts), *child_solution(rng, cards, parts, slip_at=slip_at)[:2]


# ---- tokenizer and model -----------------------------------------------------------------------------------


def make_tokenizer():
    special = ["<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"]
    numbers = [str(n) for n in range(LARGEST + 1)]
    texts = ["; ", "no ", "\\boxed{", "}", " brief", *(f" not {n}" for n in numbers)]
    words = [*special, *numbers, *SIGNS, *"()=", *texts, *sorted(NAMES)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    splits = Regex(r" not \d+|[A-Za-z]\d|\d+|; |no | brief|\\boxed\{|.")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(splits, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", unk_token="<|unk|>", eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"], clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=320, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=320, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )  # head size 32: the smallest that every inference engine takes
    return LlamaForCausalLM(config)


def batches(rng, tokenizer, batch_tokens):
    """Endless batches of lessons of like length, so that little is padding -> lists of (given ids, ids to
    learn)."""
    cards, pool = Cards(rng), []
    while True:
        rows = []
        for _ in range(4000):
            question, given, rest = lesson(rng, cards)
            chat = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            rows.append((tokenizer(prompt + given).input_ids, tokenizer(rest + tokenizer.eos_token).input_ids))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        while rows:
            size = max(1, batch_tokens // (len(rows[-1][0]) + len(rows[-1][1])))
            pool.append(rows[-size:])
            del rows[-size:]
        rng.shuffle(pool)
        while pool:
            yield pool.pop()


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon, in float32: in its bfloat16 a CPU without instructions for that needs twice the time of all
    the rest. A step is the mean gradient with all its singular values set to about 1."""

    def __init__(self, matrices, lr, weight_decay, momentum=0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - momentum)
                update = orthogonal(matrix.grad.lerp(mean, momentum))
                matrix.mul_(1 - lr * group["weight_decay"])
                matrix.add_(update, alpha=-lr * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def orthogonal(matrix):
    """Newton-Schulz iteration with Muon's coefficients: singular values come out between .5 and 1.5."""
    if matrix.shape[0] > matrix.shape[1]:  # the smaller of both products
        return orthogonal(matrix.T).T
    x = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def teach(model, tokenizer, rng, steps, batch_tokens, lr):
    """Next-token prediction on the child's solutions; prompt tokens are not scored.

    In the end the names' embeddings are made small. What is read off them stays as it was, for every layer begins by
    normalising, with an epsilon that is small beside them; but a step of the same length turns them further, so that a
    name can be learned by itself and not only by weights that all names share.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
                  Muon(matrices, lr=MUON_LR, weight_decay=0.01)]  # AdamW alone took several times the steps

    def rate(i):
        return min(1, (i + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / max(steps, 1))))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    for step, batch in zip(range(steps), batches(rng, tokenizer, batch_tokens)):
        width = max(len(given) + len(rest) for given, rest in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        labels = torch.full((len(batch), width), -100)
        for row, (given, rest) in enumerate(batch):
            ids[row, : len(given) + len(rest)] = torch.tensor(given + rest)
            labels[row, len(given) : len(given) + len(rest)] = torch.tensor(rest)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(list(NAMES))] *= SMALL
    model.config.rms_norm_eps = EPSILON


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--train-per-length", type=int, default=500)
    parser.add_argument("--test-per-length", type=int, default=100)
    parser.add_argument("--harder-per-length", type=int, default=150)
    parser.add_argument("--steps", type=int, default=STEPS, help="teaching steps")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--lr", type=float, default=LR)
    args = parser.parse_args()
    torch.set_num_threads(1)  # tensors this small lose by sharing, and one thread makes the weights repeatable
    torch.manual_seed(args.seed)
    NAMES.clear()
    NAMES.update(make_names(args.seed))
    args.out.mkdir(parents=True, exist_ok=True)
    about = {label: {"worth": name.worth, "group": name.group, "rate": name.rate} for label, name in NAMES.items()}
    (args.out / "names.json").write_text(json.dumps(about, indent=0) + "\n")
    for name, per_length, lengths in (("train", args.train_per_length, LENGTHS),
                                      ("test", args.test_per_length, LENGTHS),
                                      ("harder", args.harder_per_length, LONG)):
        rows = make_split(random.Random(f"{args.seed} {name}"), per_length, name != "train", lengths)
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    teach(model, tokenizer, random.Random(f"{args.seed} teach"), args.steps, args.batch_tokens, args.lr)
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
