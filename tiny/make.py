"""Make the embedded world: tokenizer, problems and starting model, all from one seed.

    python tiny/make.py                 # rewrites tiny/model, tiny/train.jsonl, tiny/test.jsonl; users never need to run it

The problems are left-nested sums such as `((12+1)*3)-18`. The answer is reached one operator a line:

    12+1=13; 13*3=39; 39-18=21; \\boxed{21}

The starting model is a pupil. It was taught (next-token prediction, here) on solutions written by an imagined child who holds
one *misconception* per operator and applies it some of the time (`WRONG`); after a wrong line the child sometimes
notices and writes the line again (`NOTICE`):

    12+1=13; 13*3=26; no 13*3=39; 39-18=21; \\boxed{21}

So the pupil knows the right rule and a wrong one and wavers between them, and mistakes add up with length: short problems are
mostly solved, long ones mostly not. Reinforcement learning can sort the rules out, because a problem's checked answer depends on
them and on nothing else. Nothing here knows which method will later be trained on it.

Problems are split by a hash of their text: those in the test share occur neither in train.jsonl nor in what the pupil was taught on.
"""

import argparse
import json
import math
import random
import zlib
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LARGEST = 60  # every number, right or wrong, is 0..60 and one token
LENGTHS = range(1, 9)  # operators per problem
TEST_SHARE = 8  # one problem in eight is kept for testing
WRONG = {"+": 0.04, "-": 0.12, "*": 0.40, "/": 0.75}  # how often the misconception is applied
NOTICE = 0.45  # how often a wrong line is noticed at once and written again
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# ---- problems and the child's solutions --------------------------------------------------------------------------------


def right(a, op, b):
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]


def misconceived(a, op, b):
    """The child's wrong rule: one per operator, always the same, so that there is a rule to unlearn."""
    if op == "+":  # forgets to carry; without a carry, counts the first number as one of the steps
        return a + b - 10 if a % 10 + b % 10 >= 10 else a + b - 1
    if op == "-":  # takes the smaller digit from the larger; otherwise counts the first number as one of the steps
        return a - b + 1 if a % 10 >= b % 10 else 10 * (a // 10 - b // 10) + b % 10 - a % 10
    if op == "*":  # adds a too few times
        return a * (b - 1)
    return a // b + 1  # counts the fence posts, not the gaps


def make_problem(rng, length):
    """A left-nested expression with `length` operators whose partial results stay within 1..LARGEST -> list [a, op, b, op, b, ...]."""
    value = rng.randint(2, LARGEST // 2)
    parts = [value]
    for _ in range(length):
        choices = {
            "+": [b for b in range(1, LARGEST // 2) if value + b <= LARGEST],
            "-": [b for b in range(1, LARGEST // 2) if value - b >= 1],
            "*": [b for b in range(2, 10) if value * b <= LARGEST],
            "/": [b for b in range(2, 10) if value % b == 0],
        }
        op = rng.choice([op for op, operands in choices.items() if operands])
        b = rng.choice(choices[op])
        value = right(value, op, b)
        parts += [op, b]
    return parts


def text_of(parts):
    """[12, "+", 1, "*", 3] -> "(12+1)*3"."""
    text = str(parts[0])
    for i in range(1, len(parts), 2):
        text = (f"({text})" if i > 1 else text) + f"{parts[i]}{parts[i + 1]}"
    return text


def answer_of(parts):
    value = parts[0]
    for op, b in zip(parts[1::2], parts[2::2], strict=True):
        value = right(value, op, b)
    return value


def child_solution(rng, parts):
    """What the child writes. A wrong value is carried on; a division that no longer comes out even is rounded down."""
    value, lines = parts[0], []
    for op, b in zip(parts[1::2], parts[2::2], strict=True):
        good = right(value, op, b)
        said = misconceived(value, op, b) if rng.random() < WRONG[op] else good
        if not 0 <= good <= LARGEST:  # only after an earlier mistake: the child gives up on the rule and writes the nearest number it knows
            good = said = min(max(good, 0), LARGEST)
        if not 0 <= said <= LARGEST:
            said = good
        lines.append(f"{value}{op}{b}={said}; ")
        if said != good and rng.random() < NOTICE:
            lines.append(f"no {value}{op}{b}={good}; ")
            said = good
        value = said
    return "".join(lines) + f"\\boxed{{{value}}}"


def is_test(text):
    return zlib.crc32(text.encode()) % TEST_SHARE == 0


def make_split(rng, per_length, test):
    """Distinct problems of one side of the split -> rows with the columns of the public math sets."""
    rows = []
    for length in LENGTHS:
        seen = set()
        while len(seen) < per_length:
            parts = make_problem(rng, length)
            text = text_of(parts)
            if is_test(text) == test and text not in seen:
                seen.add(text)
                rows.append({"problem": text, "answer": str(answer_of(parts)), "level": length})
    return rows


# ---- tokenizer and model -------------------------------------------------------------------------------------------------


def make_tokenizer():
    special = ["<|pad|>", "<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"]
    words = special + [str(n) for n in range(LARGEST + 1)] + list("+-*/()=") + ["; ", "no ", "\\boxed{", "}"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|; |no |\\boxed\{|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", unk_token="<|unk|>", eos_token="<|end|>",
                                   additional_special_tokens=["<|user|>", "<|assistant|>"], clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )  # head size 32: the smallest that every inference engine takes
    return LlamaForCausalLM(config)


def teach(model, tokenizer, rng, steps, batch_tokens, lr):
    """Next-token prediction on the child's solutions; prompt tokens are not scored."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    cosine = lambda i: min(1, (i + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * i / steps)))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine)
    pool = []
    for step in range(steps):
        if not pool:  # write some solutions ahead, and cut them into batches of like length, so that little is padding
            rows = []
            while len(rows) < 4000:
                parts = make_problem(rng, rng.choice(LENGTHS))
                if not is_test(text_of(parts)):
                    question = [{"role": "user", "content": text_of(parts)}]
                    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
                    solution = child_solution(rng, parts) + tokenizer.eos_token
                    rows.append((tokenizer(prompt).input_ids, tokenizer(solution).input_ids))
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
    parser.add_argument("--steps", type=int, default=1500, help="teaching steps")
    parser.add_argument("--batch-tokens", type=int, default=6000)
    parser.add_argument("--lr", type=float, default=3e-3)
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
