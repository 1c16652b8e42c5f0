r"""Make the tiny task: problems, tokenizer and starting model, all from one seed.

    python tiny/make.py                              # rewrites tiny/model, tiny/train.jsonl and tiny/test.jsonl; users never need to
    python tiny/make.py --seed 1 --out /tmp/world    # another world of the same kind; python tiny/probe.py measures one

A problem is a left-nested sum. Its answer is reached one sign a line:

    ((12+1)*3)-18        12+1=13; 13*3=39; 39-18=21; \boxed{21}

The starting model is a *pupil*: a small language model taught, by next-token prediction, on solutions that an imagined child wrote.
So it has the child's habits, all of them as probabilities:

- Misreading. The child has one wrong rule for * and one for /, and takes it some of the time (`SIGNS`). A misreading is the same
  everywhere, so that a rule learned on one problem holds on others.
- Strange signs. 64 letters and marks stand for + - * or /. The child takes each of them for one of these, of capitals it is nearly sure,
  of the others less so (`STRANGE`), and for most it is wrong. It does not know for which: no solution, hint or number in its lessons depends on it.
- Slips. Any line of a first pass is off by one or by ten now and then (`SLIP`), without any rule. Short sums of + and - fail by slips alone.
- Noticing. A wrong line is sometimes seen at once and written again: `13*3=26; no 13*3=39; `.
- Checking, which is noticing late. A finished solution is often (`CHECK`) gone through once more, or twice, with more care (`CARE`), and the
  last pass stands: `12+1=13; 13*3=26; check 12+1=13; 13*3=39; \boxed{39}`. Signs that it is not sure of put the child off: such problems are
  neither noticed nor checked.
- Hints. ` not 12 not 31` behind a problem lists answers that are wrong. When the child arrives at a listed answer, it says so, and reads the last
  sign in another way: `20K4=24; no 20K4=5; `. ` brief` keeps it from checking. Half of the lists in its lessons belonged to other problems.

Eight families of problems, drawn with shares that depend on the length (`shares`):

    plain   + and - only: right, save for slips                            saturated, breakable
    mixed   + - * /, the more of the last two the longer                   from medium to rarely right: what plain GRPO can learn
    fair    strange signs that mean what the child takes them for          saturated to medium
    trap    + and -, and at the end a capital that it takes for another    right once in 200, but a hint helps
    hard    + and -, and three times the same small letter, taken for      right once in 400, with three jumps along a right solution
            the opposite, the first time early
    relay   the same, but the early sign is a mark, the two late ones a    as hard, but what the end teaches does not help the beginning
            letter
    odd     + and -, and at the end ^, whose rule the child does not have  hopeless
    guess   + and -, and at the end ~, which adds or subtracts by a coin   guessable, not learnable

What is assumed, and why it is fair. The five methods claim to use things that models have: rare failures of solved problems, openings
that raise success, answers that break under heat, hints that are understood. A world without these could not tell a method that
works from one that does not; so they are put in, by habits of the child, none of which refers to a method. That a thing is there does
not mean that a method gains by it: whether recovering from openings that went wrong improves answers from scratch, whether
late steps learned from openings help the early ones, whether heat teaches anything, whether what a hint brought stays without the hint,
has to come out of the training, and can come out negative. The baseline gets the same model and the same problems, and its learning rate was
chosen on the held-out score before any result of a method that is published here (results/grpo-lr.md). Much of the world is for it: the
misreadings of * and / are rules that plain GRPO can unlearn, and it does.
Why it does not learn the strange signs: of each it sees a right answer once or twice in a
run, and what it learns of one says nothing about the next. That is so because the fair ones look the same to the pupil: a habit of
reading all strange signs the other way would cost more on those than it brings on the others. (In earlier worlds plain GRPO found such a habit
within 40 steps: in one that had no fair signs, and in one where the numbers in the lessons had given away which signs were fair.)
The only lessons that are not a whole solution of the child's are those on slips (`PROOFREAD`): the solution is given up to a line that was made
wrong, and what is learned is how the child goes on from there. Its own slips are too rare for the pupil to learn that from them in time.

Problems are split by a hash of their meaning (`canonical`): a problem of the test share, or another spelling of one, occurs neither in
train.jsonl nor in what the pupil was taught on. Training problems do occur there, solved as the child solves them, as the
problems of public sets do in a language model's own training texts. `family` in the rows is for analyses; no script trains by it.
"""

import argparse
import json
import math
import random
import re
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LARGEST = 60  # every number, right or wrong, is 0..60 and one token
LENGTHS = range(1, 9)  # operators per problem
TEST_SHARE = 8  # one problem in eight is kept for testing
SLIPS = (-10, -1, 1, 10)  # a slip of the pen: off by one in one of the digits
SLIP = 0.02  # how often a line of the first pass has one
NOTICE = 0.25  # how often a wrong line of the first pass is noticed at once and written again
CHECK, PASSES = 0.45, 3  # how often a solution is gone through once more before the box, and the passes at most, the first included
CARE = 0.4  # what is left of misreadings of * and / while checking, and while writing a line again
HINTED, PROOFREAD, CAPITALS = 0.32, 0.30, 0.05  # lessons with a hint, lessons that start behind a slip, lessons on capitals besides; shares
STEPS, BATCH_TOKENS = 4000, 3500  # of the teaching
LR, MUON_LR = 3e-3, 0.01  # of AdamW for embeddings, head and norms, and of Muon for the matrices in between


class Sign(NamedTuple):
    right: Callable
    readings: tuple  # what the child may read, the likeliest first
    rate: float = 1.0  # how often it reads the first; the others share the rest
    means: str = ""  # the familiar sign that a strange one stands for


FAMILIAR = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a // b}
add, subtract, multiply, divide = FAMILIAR.values()
SIGNS = {
    "+": Sign(add, (add,)),
    "-": Sign(subtract, (subtract,)),
    "*": Sign(multiply, (lambda a, b: a * (b - 1), multiply), 0.40),  # adds a too few times
    "/": Sign(divide, (lambda a, b: a // b + 1, divide), 0.85),  # counts the fence posts, not the gaps
    "^": Sign(lambda a, b: a + b + 23, (add,)),  # the child cannot know this one
    "~": Sign(add, (add, subtract), 0.5),  # adds or takes away, down to 0, by a coin that the problem does not show
}
STRANGE = {  # how sure the child is of them, the signs, what it takes each of them for, what each of them means
    0.987: ("ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "+-*/+-*/+-*/+-*/+-*/+-*/+-",
            "+-*/+-*/+--*-*/+-*/+*/+-/+"),
    0.86: ("abcdefghijklmnopqrstuvwxyz" "#&@$%!?<>|:_",
           "+-+-+-+-+-+-+-+-+-+-+-+-+-" "+-+-+-+-+-+-",
           "+-+-+-+-+--+-+-+-+-+-+-+-+" "+-+--+-+-+-+"),
}  # fmt: skip
FAIR = "ABCDEFGHIJabcdefghij#&@$"  # those that mean what the child takes them for
for sure, rows in STRANGE.items():
    known = "+-*/" if sure > 0.9 else "+-"
    for sign, taken_for, means in zip(*rows, strict=True):
        SIGNS[sign] = Sign(FAMILIAR[means], (FAMILIAR[taken_for], *(FAMILIAR[name] for name in known if name != taken_for)), sure, means)
CAPITAL, SMALL, MARK = STRANGE[0.987][0], STRANGE[0.86][0][:26], STRANGE[0.86][0][26:]
FAMILIES = ("plain", "mixed", "fair", "trap", "hard", "relay", "odd", "guess")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---- problems ------------------------------------------------------------------------------------------------------------


def shares(length, taught=False):
    """How often each of FAMILIES is drawn: long problems are harder in kind as well, so that success falls evenly with length.

    taught: in the child's lessons, where there is more of what it can do, and less of what can be learned by trying.
    """
    far = (length - 1) / 7
    if taught:
        hard = min(1.0, max(0, length - 2) / 2) * (0.20 + 0.03 * far)
        return 0.42 * (1 - far), 0.40 - 0.26 * far, 0.16 * (1 - far), 0.10 + 0.12 * far, hard, hard, 0.02 + 0.06 * far, 0.05 - 0.05 * far
    plain, mixed, trap, hard = 0.20 * (1 - far**3), 1.16 - 0.46 * far, 0.06 + 0.42 * far, 0.90 * (length > 2)
    return plain, mixed, sum(fair_shares(length)), trap, hard, hard, 0.03 + 0.03 * far, 0.05 - 0.05 * far


def fair_shares(length):
    """How often fair problems of a set have one strange sign, and how often three. The child's lessons have fewer of them: they do not ask for it."""
    far = (length - 1) / 7
    return 0.47 * (1 - far**3), 0.86 * (length > 2) * (1 - far**2)


def early_lines(length):
    """How many lines lie within the first 40 % of an unchecked solution's tokens: six a line, and four for the box and the end."""
    return max(1, int(0.4 * (6 * length + 4)) // 6)


def signs_of(rng, family, length, thrice=None, taught=False):
    """The signs that may stand at each place, first to last -> list of signs to choose from.

    thrice: whether a fair problem has three strange signs; None: by a coin. taught: a lesson's, in which all strange signs of a kind are alike.
    """
    signs = ["+-"] * length
    capitals, letters, marks = ([sign for sign in kind if taught or (sign in FAIR) == (family == "fair")] for kind in (CAPITAL, SMALL, MARK))
    if family == "mixed":
        signs = ["+-*/" if place % 2 == 0 else "*/" for place in range(length)]
    elif family in ("hard", "relay") or family == "fair" and length > 2 and (rng.random() < 0.5 if thrice is None else thrice):
        early, late = early_lines(length), rng.choice(letters)
        signs[rng.randrange(early)] = rng.choice(marks) if family == "relay" or family == "fair" and rng.random() < 0.5 else late
        for place in rng.sample(range(early, length), 2):
            signs[place] = late
    elif family in ("trap", "fair"):
        signs[-1] = capitals
    elif family != "plain":
        signs[-1] = {"odd": "^", "guess": "~"}[family]
    return signs


def operands(sign, value, means):
    """Second numbers for which what is right, if the sign stands for `means`, and what is misread, stay within 1..LARGEST.

    Where there are two readings, both do, so that the numbers do not show which is right.
    """
    readings = SIGNS[sign].readings
    readings = readings if len(readings) == 2 else (rule_of(sign, means), readings[0])
    numbers = [b for b in (range(2, 10) if means in "*/" else range(1, 30)) if means != "/" or value % b == 0]
    return [b for b in numbers if all(1 <= reading(value, b) <= LARGEST for reading in readings)]


def rule_of(sign, means):
    return FAMILIAR[means] if means in FAMILIAR else SIGNS[sign].right


def make_problem(rng, length, family=None, taught=False):
    """A left-nested expression with `length` signs -> list [a, sign, b, sign, b, ...], and its family (drawn unless it is given).

    taught: a lesson's. Its strange signs are drawn, and its numbers chosen, as if they stood for familiar ones that are drawn anew for every
    lesson: which signs are fair must not show in what numbers they come with.
    """
    family = family or rng.choices(FAMILIES, shares(length, taught))[0]
    thrice = None if taught or length == max(LENGTHS) else bool(rng.choices((0, 1), fair_shares(length))[0])
    while True:  # until every sign finds a number; which three strange signs often do not
        parts, drawn = [rng.randint(2, LARGEST // 2)], {}
        value = parts[0]
        for choice in signs_of(rng, family, length, thrice, taught):
            if taught:
                drawn |= {sign: rng.choice("+-*/"[: len(SIGNS[sign].readings)]) for sign in choice if SIGNS[sign].means and sign not in drawn}
            means = {sign: drawn.get(sign) or SIGNS[sign].means or sign for sign in choice}
            possible = [(sign, numbers) for sign in choice if (numbers := operands(sign, value, means[sign]))]
            if not possible:
                break
            sign, numbers = rng.choice(possible)
            parts += [sign, rng.choice(numbers)]
            value = rule_of(sign, means[sign])(value, parts[-1])
        else:
            if taught or not cancels(parts):
                return parts, family


def cancels(parts):
    """Whether strange signs can be misread so that the answer comes out right all the same, by itself or by one slip."""
    choices = [SIGNS[sign].readings if SIGNS[sign].means else (SIGNS[sign].right,) for sign in parts[1::2]]
    wrong = [answer_of(parts, readings) for readings in product(*choices) if readings != tuple(SIGNS[sign].right for sign in parts[1::2])]
    return any(value - answer_of(parts) in (0, *SLIPS) for value in wrong)


def text_of(parts):
    """[12, "+", 1, "*", 3] -> "(12+1)*3"."""
    text = str(parts[0])
    for i in range(1, len(parts), 2):
        text = (f"({text})" if i > 1 else text) + f"{parts[i]}{parts[i + 1]}"
    return text


def parts_of(text):
    """The inverse of text_of."""
    return [int(token) if token.isdigit() else token for token in re.findall(r"\d+|[^\d()]", text)]


def clip(value):
    """Numbers beyond 0..LARGEST, which only follow mistakes, become the nearest one the child can write."""
    return min(max(value, 0), LARGEST)


def answer_of(parts, readings=None):
    """The answer, or the one that follows from reading the signs like this."""
    value, coin = parts[0], zlib.crc32(f"coin {text_of(parts)}".encode()) & 1
    for place, (sign, b) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        reading = readings[place] if readings else SIGNS["-"].right if sign == "~" and coin else SIGNS[sign].right
        value = clip(reading(value, b))
    return value


def canonical(parts):
    """The problem with strange signs written as what they mean, and the first sum or product in one order.

    Two spellings of one problem have one canonical form, and fall on the same side of the split.
    """
    signs = [SIGNS[sign].means or sign for sign in parts[1::2]]
    numbers = parts[0::2]
    if signs[0] in "+*":
        numbers[:2] = sorted(numbers[:2])
    return " ".join(map(str, [numbers[0], *(x for pair in zip(signs, numbers[1:], strict=True) for x in pair)]))


def is_test(parts):
    return zlib.crc32(canonical(parts).encode()) % TEST_SHARE == 0


def make_split(rng, per_length, test):
    """Distinct problems of one side of the split -> rows with the columns of the public math sets.

    Families take turns in proportion to their shares, so that every stretch of the list has the same mixture, whatever the seed.
    """
    rows, owed = [], dict.fromkeys(FAMILIES, 0.0)  # how far each family lags behind its share
    for length in LENGTHS:
        seen, weights = set(), dict(zip(FAMILIES, shares(length), strict=True))
        while len(seen) < per_length:
            owed = {family: lag + weights[family] / sum(weights.values()) for family, lag in owed.items()}
            family = max((family for family in FAMILIES if weights[family]), key=owed.get)
            owed[family] -= 1
            parts = None
            while parts is None or is_test(parts) != test or canonical(parts) in seen:
                parts, _ = make_problem(rng, length, family)
            seen.add(canonical(parts))
            rows.append({"problem": text_of(parts), "answer": str(answer_of(parts)), "level": length, "family": family})
    return rows


# ---- the child -----------------------------------------------------------------------------------------------------------


def outcome(rng, value, sign, b, listed=(), care=1.0):
    """What the child writes behind `value sign b =`, never a listed answer: it takes another reading, or else a number next to it."""
    rule = SIGNS[sign]
    rate = rule.rate * care if sign in FAMILIAR else 1 / len(rule.readings) if listed else rule.rate
    others = rng.sample(rule.readings[1:], len(rule.readings) - 1)
    order = [rule.readings[0], *others] if not others or rng.random() < rate else [*others, rule.readings[0]]
    said = [clip(reading(value, b)) for reading in order]
    said = next((n for n in said if n not in listed), said[0])
    if care == 1 and rng.random() < SLIP or said in listed:
        said = rng.choice([n for n in slips(said) if n not in listed] or [said])
    return said


def slips(value):
    return [n for n in (value + off for off in SLIPS) if 0 <= n <= LARGEST]


def child_solution(rng, parts, listed=(), brief=False, slip_at=None):
    """One solution -> what is given of it, what the child writes from there on, and the value it ends with.

    listed: answers a hint says are wrong. brief: no checking. slip_at: the line, counted through the passes, that gets a slip, and up to which
    the solution is given.
    """
    steps = list(zip(parts[1::2], parts[2::2], strict=True))
    calm = all(sign in FAMILIAR or sign in CAPITAL for sign, _ in steps)
    lines, given = [], 0

    def write(value, place, mark="", care=1.0, slip=False):
        sign, b = steps[place]
        said = rng.choice(slips(believed(value, place))) if slip else outcome(rng, value, sign, b, care=care)
        lines.append(f"{mark}{value}{sign}{b}={said}; ")
        if place == len(steps) - 1 and said in listed:
            said = outcome(rng, value, sign, b, listed, CARE)
            lines.append(f"no {value}{sign}{b}={said}; ")
        return said

    def believed(value, place):
        rule, b = SIGNS[steps[place][0]], steps[place][1]
        return clip((rule.readings[0] if rule.means else rule.right)(value, b))

    passes = 1 + (slip_at is not None and slip_at >= len(steps))
    while calm and not brief and passes < PASSES and rng.random() < CHECK:
        passes += 1
    for turn in range(passes):
        lines += ["check "] * (turn > 0)
        value = parts[0]
        for place in range(len(steps)):
            slip = slip_at == turn * len(steps) + place
            said = write(value, place, "", CARE if turn else 1.0, slip)
            given = len(lines) if slip else given
            if turn == 0 and said != believed(value, place) and calm and rng.random() < NOTICE:
                said = write(value, place, "no ", CARE)
            value = said
    return "".join(lines[:given]), "".join(lines[given:]) + f"\\boxed{{{value}}}", value


def hint(rng, parts):
    """A hint for a problem -> its text, the answers it lists, and whether it asks to be brief.

    Half of the lists are of another problem: it is not the hint as such that helps, but what stands on it. What counts as wrong goes by
    meanings that are drawn anew for every hint: the lists give away nothing about what the strange signs really mean.
    """
    kind, wrong = rng.random(), []
    if kind < 0.85:
        source = parts if rng.random() < 0.5 else make_problem(rng, rng.choice(LENGTHS), taught=True)[0]
        meanings = [rng.choice(SIGNS[sign].readings) if SIGNS[sign].means else SIGNS[sign].right for sign in parts[1::2]]
        gold = answer_of(parts, meanings)
        wrong = list(dict.fromkeys(v for v in (child_solution(rng, source)[2] for _ in range(8)) if v != gold))
    brief = kind > 0.65
    return "".join(f" not {answer}" for answer in wrong) + (" brief" if brief else ""), wrong, brief


def lesson(rng):
    """-> question, the given part of its solution, and the rest, which is to be learned."""
    kind, parts = rng.random(), None
    while parts is None or is_test(parts):
        capital = kind < HINTED / 3 or kind > 1 - CAPITALS  # where a hint tells most; and as many without one, lest hints be all they go with
        parts, family = make_problem(rng, rng.choice(LENGTHS), rng.choice(("trap", "trap", "fair")) if capital else None, taught=True)
    if kind < HINTED:
        extra, listed, brief = hint(rng, parts)
        return text_of(parts) + extra, *child_solution(rng, parts, listed, brief)[:2]
    proofread = kind < HINTED + PROOFREAD and family in ("plain", "mixed")
    return text_of(parts), *child_solution(rng, parts, slip_at=rng.randrange((PASSES - 1) * (len(parts) // 2)) if proofread else None)[:2]


# ---- tokenizer and model -------------------------------------------------------------------------------------------------


def make_tokenizer():
    special = ["<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"]
    numbers = [str(n) for n in range(LARGEST + 1)]
    texts = ["; ", "no ", "check ", "\\boxed{", "}", " brief", *(f" not {n}" for n in numbers)]
    words = [*special, *numbers, *SIGNS, *"()=", *texts]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" not \d+|\d+|; |no |check | brief|\\boxed\{|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", unk_token="<|unk|>", eos_token="<|end|>",
                                   additional_special_tokens=["<|user|>", "<|assistant|>"], clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=320, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )  # head size 32: the smallest that every inference engine takes
    model = LlamaForCausalLM(config)
    numbers, listed = (tokenizer.convert_tokens_to_ids([f"{mark}{n}" for n in range(LARGEST + 1)]) for mark in ("", " not "))
    with torch.no_grad():  # " not 12" starts out related to "12"; otherwise that has to be found out for every number
        model.model.embed_tokens.weight[listed] += model.model.embed_tokens.weight[numbers]
    return model


def teach(model, tokenizer, rng, steps, batch_tokens, lr):
    """Next-token prediction on the child's solutions; prompt tokens are not scored."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
                  torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01)]  # AdamW alone took several times the steps
    cosine = lambda i: min(1, (i + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / steps)))  # noqa: E731
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, cosine) for optimizer in optimizers]
    pool = []
    for step in range(steps):
        if not pool:  # write some solutions ahead, and cut them into batches of like length, so that little is padding
            rows = []
            while len(rows) < 4000:
                question, given, rest = lesson(rng)
                prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False)
                rows.append((tokenizer(prompt + given).input_ids, tokenizer(rest + tokenizer.eos_token).input_ids))
            rows.sort(key=lambda row: len(row[0]) + len(row[1]))
            while rows:
                size = max(1, batch_tokens // (len(rows[-1][0]) + len(rows[-1][1])))
                pool.append(rows[-size:])
                del rows[-size:]
            rng.shuffle(pool)
        batch = pool.pop()
        width = max(len(p) + len(s) for p, s in batch)
        ids = torch.tensor([p + s + [tokenizer.pad_token_id] * (width - len(p) - len(s)) for p, s in batch])
        labels = torch.tensor([[-100] * len(p) + s + [-100] * (width - len(p) - len(s)) for p, s in batch])
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--train-per-length", type=int, default=400)
    parser.add_argument("--test-per-length", type=int, default=40)
    parser.add_argument("--steps", type=int, default=STEPS, help="teaching steps")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--lr", type=float, default=LR)
    args = parser.parse_args()
    torch.set_num_threads(1)  # tensors this small lose by sharing, and one thread makes the weights repeatable
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, per_length in ("train", args.train_per_length), ("test", args.test_per_length):
        rows = make_split(random.Random(f"{args.seed} {name}"), per_length, test=name == "test")
        (args.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    teach(model, tokenizer, random.Random(f"{args.seed} teach"), args.steps, args.batch_tokens, args.lr)
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")


if __name__ == "__main__":
    main()
