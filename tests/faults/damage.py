"""Damaged files of every kind: run folders, model folders, data, settings; full disks and quotas."""

import contextlib
import io
import itertools
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from small import MAINS, ROOT, folders_of, limit_files, read, resume_or_start, rng, rows, run, says, unsound
from safetensors.torch import load_file, save_file

from common import load_model
from plumbing import InputError
from plumbing.checkpoints import checkpoints, seal
from plumbing.data import load_problems
from plumbing.settings import MACHINE, parse_settings

SPOIL = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbage": lambda data: random.Random(0).randbytes(max(64, len(data))),
    "one bit": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "deleted": None,
}


RECORDS = {"failure_prefix": "bank.jsonl", "prefix_rl": "traces.jsonl", "pos_neg_pairing": "chosen.jsonl"}  # what a method's steps rest on


def spoil(file, how):
    if SPOIL[how] is None:
        file.unlink()
    else:
        file.write_bytes(SPOIL[how](file.read_bytes()))


def edit(file, **changes):
    file.write_text(json.dumps(read(file) | changes))


def sample(cases, scale):
    """That share of the cases, spread over them."""
    return cases[:: max(1, round(1 / scale))]


# ---- run folders -------------------------------------------------------------------------------------------


def method_cases(script, finished):
    """(name, what is done to a finished run's folder, whether the run still goes on): a method's own record, and an arm."""
    cases, arms = [], [folder.name for folder in folders_of(finished)[1:]]
    for how in SPOIL:
        if script in RECORDS:
            cases.append((f"{RECORDS[script]} {how}", lambda out, how=how: spoil(out / RECORDS[script], how), False))
        for arm in arms[:1]:
            for file in ("args.json", "metrics.jsonl") * (how != "one bit"):  # where it falls, it may leave another text
                cases.append((f"{arm}/{file} {how}", lambda out, arm=arm, file=file, how=how: spoil(out / arm / file, how), False))
            for file in ("model.safetensors", "trainer_state.pt"):
                cases.append((f"{arm}/newest {file} {how}", lambda out, arm=arm, file=file, how=how: spoil(
                    checkpoints(out / arm)[-1] / file, how), True))  # fmt: skip
    if script in RECORDS:
        cases.append((f"{RECORDS[script]} a line less", lambda out: cut_line(out / RECORDS[script]), False))
    return cases


def cut_line(file):
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def run_folder_cases():
    """(name, what is done to a finished run's folder, whether the run still goes on): what all scripts share."""
    cases = []
    for file, how in itertools.product(
        ("config.json", "model.safetensors", "trainer_state.pt", "optimizer-000.pt", "tokenizer.json", "tokenizer_config.json",
         "generation_config.json", "chat_template.jinja", "checksums.json"), SPOIL):  # fmt: skip
        cases.append((f"newest {file} {how}", lambda out, file=file, how=how: spoil(checkpoints(out)[-1] / file, how), True))
    for how in SPOIL:
        cases.append((f"curves.png {how}", lambda out, how=how: spoil(out / "curves.png", how), True))
        cases.append((f"both trainer_state.pt {how}", lambda out, how=how: [spoil(c / "trainer_state.pt", how) for c in checkpoints(out)], False))
        if how != "one bit":  # where it falls, it may leave another text
            cases.append((f"args.json {how}", lambda out, how=how: spoil(out / "args.json", how), False))
            cases.append((f"metrics.jsonl {how}", lambda out, how=how: spoil(out / "metrics.jsonl", how), False))

    def lines(change):
        def work(out):
            file = out / "metrics.jsonl"
            file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))

        return work

    cases += [
        ("args.json a list", lambda out: (out / "args.json").write_text("[]"), False),
        ("args.json without settings", lambda out: (out / "args.json").write_text("{}"), False),
        *((f"args.json with data {value!r}", lambda out, value=value: edit(out / "args.json", data=value), False)
          for value in (None, 5, [], {"x": 5}, {"x": {"dropped": 5}})),
        ("args.json without records", lambda out: edit(out / "args.json", records=None), False),
        ("args.json that names a reward", lambda out: edit(out / "args.json", settings=read(out / "args.json")["settings"] | {
            "reward": bomb_file(out)}), False),
        ("args.json that trusts a checkpoint's code", lambda out: trusting(out), False),
        ("args.json of a later format", lambda out: edit(out / "args.json", format=99), False),
        ("args.json of another script", lambda out: edit(out / "args.json", script="another"), False),
        *((f"args.json with {name} {value!r}", lambda out, name=name, value=value: edit(
            out / "args.json", settings=read(out / "args.json")["settings"] | {name: value}), False)
          for name, value in (("lr", "much"), ("lr", None), ("lr", -1.0), ("seed", [1]), ("eval_sets", "text"), ("eval_every", 1e99),
                              ("instruction", 5), ("unknown", 1), ("group_size", True), ("dtype", "float8"), ("model", 3))),
        ("data has changed", lambda out: edit(
            out / "args.json", data=dict.fromkeys(read(out / "args.json")["data"], {"sha256": "0", "dropped": []})), False),
        *((f"metrics.jsonl with step {value}", lines(lambda rows, value=value: [
            rows[0], json.dumps(json.loads(rows[1]) | {"step": value}).encode() + b"\n", *rows[2:]]), False)
          for value in ("1", None, [1], 1.5, {})),
        ("metrics.jsonl with a text for a number", lines(lambda rows: [rows[0], rows[1].replace(b'"loss": ', b'"loss": "0", "x": '), *rows[2:]]),
         False),
        ("wandb.txt of garbage", lambda out: (out / "wandb.txt").write_bytes(b"\xff\x00"), True),
        ("tensorboard/ of garbage", lambda out: [(out / "tensorboard").mkdir(), (out / "tensorboard/events").write_bytes(b"\xff\x00")], True),
        ("format of checksums.json one more", lambda out: edit(checkpoints(out)[-1] / "checksums.json", format=3), True),
        ("a file called checkpoint-000001", lambda out: (out / "checkpoint-000001").write_text(""), True),
        ("metrics.jsonl one row short", lines(lambda rows: rows[1:]), False),
        ("metrics.jsonl a row twice", lines(lambda rows: [rows[0], *rows]), False),
        ("metrics.jsonl a row garbled", lines(lambda rows: [rows[0], b"\xff\x00{\n", *rows[2:]]), False),
        ("metrics.jsonl rows in another order", lines(lambda rows: rows[::-1]), False),
        ("metrics.jsonl not objects", lines(lambda rows: [b"1\n"] * len(rows)), False),
        ("metrics.jsonl half a row more", lines(lambda rows: [*rows, rows[-1][: len(rows[-1]) // 2]]), True),
        ("metrics.jsonl garbage behind", lines(lambda rows: [*rows, b"\x00" * 50]), True),
        ("a copy called checkpoint-backup", lambda out: shutil.copytree(checkpoints(out)[-1], out / "checkpoint-backup"), True),
        ("a half checkpoint", lambda out: (out / "checkpoint-000009.partial").mkdir(), True),
        ("an empty checkpoint", lambda out: (out / "checkpoint-000009").mkdir(), True),
        ("a file called checkpoint-000009", lambda out: (out / "checkpoint-000009").write_text(""), True),
        ("half an args.json", lambda out: (out / "args.json.partial").write_text("{"), True),
        ("state of another model", lambda out: reseal(
            checkpoints(out)[-1], {"adam": {"state": {}, "param_groups": []}, "masters": []}, "optimizer-000.pt"), False),
        *((f"{name} that runs code", lambda out, name=name: reseal(checkpoints(out)[-1], {"adam": Bomb(out)}, name), False)
          for name in ("trainer_state.pt", "optimizer-000.pt")),
    ]
    return cases


def bomb_file(out):
    (out / "mine.py").write_text(f"open({str(out / 'exploded')!r}, 'w')\ndef score(texts, golds): return [0.0] * len(texts)\n")
    return f"{out / 'mine.py'}:score"


def trusting(out):
    newest = checkpoints(out)[-1]
    remote(newest, out / "exploded")
    (newest / "checksums.json").unlink()
    seal(newest)
    edit(out / "args.json", settings=read(out / "args.json")["settings"] | {"trust_remote_code": True, "model": str(newest), "tiny": True})


class Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, out):
        self.file = str(Path(out) / "exploded")

    def __reduce__(self):
        return (open, (self.file, "w"))


def reseal(checkpoint, state, name):
    """Another file with a checksum that fits."""
    torch.save(state, checkpoint / name)
    (checkpoint / "checksums.json").unlink()
    seal(checkpoint)


def trained(out):
    """Rows of a run and its arms without evaluations: a last step has one, and is not the last when it is made again in a longer run."""
    return {arm: [{name: value for name, value in row.items() if not name.startswith("eval/")} for row in found] for arm, found in rows(out).items()}


def run_folders(reference, scale=1.0, scripts=tuple(MAINS)):
    """Resume after each damage. Sound: it goes on to the same metrics and says what it left out, or refuses in one line."""
    wrong, tried, longer = [], 0, ["--steps", "4"]
    for script in scripts:
        _, _, finished = reference[script]
        whole = reference.folder / f"longer-{script}"
        if not whole.exists():
            shutil.copytree(finished, whole)
            run(script, ["--resume", str(whole), *longer])
        expected, cases = trained(whole), sample((run_folder_cases() if script == "grpo" else []) + method_cases(script, finished), scale)
        for name, work, goes_on in cases:
            out = reference.folder / "damaged"
            shutil.copytree(finished, out)
            work(out)
            status, last, traceback = run(script, ["--resume", str(out), *longer])
            if goes_on:
                sound = status == 0 and trained(out) == expected and not unsound(out)
            else:
                sound = status == 1 and says(last)
            if not sound or traceback or (out / "exploded").exists():
                wrong.append(f"{script}, {name}: status {status}, {last}, {unsound(out)}, foreign code ran: {(out / 'exploded').exists()}")
            shutil.rmtree(out)
        others = sample([name for name in MAINS if name != script], scale if script == "grpo" else scale / 5)
        for other in others:
            status, last, _ = run(other, ["--resume", str(finished)])
            if status != 1 or not says(last):
                wrong.append(f"{script} resumed by {other}: status {status}, {last}")
        tried += len(cases) + len(others)
    return tried, wrong


def full_disk(reference, count=12, seed=2):
    """On a small file system that is full, and made larger later; half of the cases. In the other half no file may grow past some size.

    Sound: one line, and later the run goes on as if nothing was.
    """
    wrong, random, tried = [], rng(seed), 0
    for i in range(count):
        script = list(MAINS)[i // 2 % len(MAINS)]
        expected, _, _ = reference[script]
        size = int(10 ** random.uniform(3.6, 6.9))
        with small_disk(reference.folder / "disk", size) if i % 2 == 0 else contextlib.nullcontext() as grow:
            if i % 2 == 0 and grow is None:
                print("full disk: skipped half of the cases, no file system may be mounted here")
                continue
            tried += 1
            out = reference.folder / "disk/run" if grow else reference.folder / f"full-{i}"
            limit = {} if grow else {"prepare": limit_files(int(10 ** random.uniform(0, 6.3)))}
            status, last, traceback = run(script, [*reference.flags(script), "--out", str(out)], **limit)
            if traceback or status not in (0, 1) or status and not says(last):
                wrong.append(f"{script}, case {i}: status {status}, {last}")
            if grow:
                grow()
            status, last, _ = run(script, resume_or_start(out, reference.flags(script)))
            if status or rows(out) != expected or unsound(out):
                wrong.append(f"{script} after case {i}: status {status}, {last}, {unsound(out)}")
    return tried, wrong


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of `size` bytes at `folder` -> a call that makes it large; None where that is not permitted."""
    def mount(*options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True)
        return done.returncode == 0

    folder.mkdir(exist_ok=True)
    if not mount(f"size={size}"):
        yield None
        return
    try:
        yield lambda: mount("remount", "size=500m")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ---- model folders -----------------------------------------------------------------------------------------


def model_cases():
    """(name, what is done to a copy of the tiny model's folder)."""
    cases = [(f"{file} {how}", lambda out, file=file, how=how: spoil(out / file, how))
             for file in ("config.json", "model.safetensors", "tokenizer.json") for how in ("cut", "empty", "garbage", "deleted")]

    def tensors(change):
        def work(out):
            save_file(dict(change(load_file(out / "model.safetensors"))), out / "model.safetensors", {"format": "pt"})

        return work

    def one(names, change):
        name = next(name for name in names if "mlp" in name)
        return names | {name: change(names[name])}

    return [*cases,
        ("all names prefixed", tensors(lambda t: {f"module.{name}": x for name, x in t.items()})),
        ("a tensor missing", tensors(lambda t: dict(list(t.items())[:-1]))),
        ("the first tensor missing", tensors(lambda t: dict(list(t.items())[1:]))),
        ("a tensor too many", tensors(lambda t: t | {"model.layers.99.mlp.up_proj.weight": torch.zeros(2, 2)})),
        ("a tensor of another size", tensors(lambda t: one(t, lambda x: x[:-1].clone()))),
        ("no tensors", tensors(lambda t: {})),
        ("a NaN", tensors(lambda t: one(t, lambda x: x.where(torch.arange(len(x))[:, None] > 0, torch.nan)))),
        ("an inf", tensors(lambda t: one(t, lambda x: x.where(torch.arange(len(x))[:, None] > 0, torch.inf)))),
        ("a layer too many", lambda out: edit(out / "config.json", num_hidden_layers=read(out / "config.json")["num_hidden_layers"] + 1,
                                              layer_types=None, max_window_layers=99)),
        ("a layer too few", lambda out: edit(out / "config.json", num_hidden_layers=read(out / "config.json")["num_hidden_layers"] - 1,
                                             layer_types=None)),
        ("a BERT config", lambda out: edit(out / "config.json", model_type="bert", architectures=["BertModel"])),
        *((f"config.json with {changed}", lambda out, changed=changed: edit(out / "config.json", **changed)) for changed in (
            {"model_type": "t5"}, {"model_type": "vit"}, {"model_type": "whisper"}, {"hidden_act": "nope"},
            {"rope_parameters": {"rope_type": "nope"}}, {"vocab_size": -5}, {"vocab_size": "x"}, {"hidden_size": 0}, {"num_hidden_layers": -2},
            {"num_attention_heads": 3}, {"max_position_embeddings": None}, {"eos_token_id": "x"})),
        ("an unknown kind", lambda out: edit(out / "config.json", model_type="nothing-known")),
        ("a smaller vocabulary", lambda out: smaller(out)),
        ("no end token", lambda out: endless(out)),
        ("code of its own", lambda out: remote(out)),
        ("weights that run code", lambda out: pickled(out)),
    ]  # fmt: skip


def smaller(out):
    weights = load_file(out / "model.safetensors")
    size = read(out / "config.json")["vocab_size"]
    weights = {name: x[: size - 9].clone() if x.shape[0] == size else x for name, x in weights.items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    edit(out / "config.json", vocab_size=size - 9)


def endless(out):
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (out / file).exists():
            edit(out / file, eos_token_id=None, eos_token=None)
    for file in ("special_tokens_map.json",):
        (out / file).unlink(missing_ok=True)


def remote(out, mark=None):
    (out / "own.py").write_text(f"open({str(mark or out / 'exploded')!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    edit(out / "config.json", model_type="own-kind", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})


def pickled(out):
    (out / "model.safetensors").unlink()
    torch.save({"x": Bomb(out)}, out / "pytorch_model.bin")


def model_folders(reference, scale=1.0):
    """Start grpo.py with each. Sound: one line about --model, and no code of the folder has run."""
    wrong, cases, out = [], sample(model_cases(), scale), reference.folder / "model"
    for name, work in cases:
        shutil.copytree(ROOT / "tiny/model", out)
        work(out)
        try:  # a model that is accepted comes as far as the data
            with contextlib.redirect_stdout(io.StringIO()):
                MAINS["grpo"](["--model", str(out), "--tiny", "--data", "nowhere.jsonl", "--out", str(reference.folder / "model-run")])
        except SystemExit as stop:
            if not str(stop.code).startswith("error: --model"):
                wrong.append(f"{name}: {stop.code}")
        except BaseException as problem:
            wrong.append(f"{name}: {type(problem).__name__}: {problem}"[:300])
        if (out / "exploded").exists():
            wrong.append(f"{name}: foreign code ran")
        shutil.rmtree(out)
        shutil.rmtree(reference.folder / "model-run", ignore_errors=True)
    return len(cases), wrong


# ---- data and settings -------------------------------------------------------------------------------------

GOOD = {"problem": "1+1", "answer": "2"}
REFUSED = [  # rows as JSON texts
    "", "{", "nonsense", "[1]", "7", "null", '"text"', "{}", '{"problem": "1+1"}', '{"answer": "2"}', "[" * 100_000,
    '{"problem": "1+1", "answer": ' + "9" * 5000 + "}",
    *(json.dumps(GOOD | {"answer": answer}) for answer in (None, "", [], [None], {}, {"a": 1}, True, False, [[]], [{}], float("nan"), float("inf"))),
    '{"problem": "1+1", "answer": 1e999}', '{"problem": "1+1", "answer": -1e999}',
    *(json.dumps(GOOD | {"problem": problem}) for problem in (None, "", 7, [], {}, ["text"], [1], [{}], [{"role": "user"}], True, "1\ud800",
        [{"content": "1+1"}], [{"role": "user", "content": None}], [{"role": None, "content": "1"}], [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "text", "text": "1"}]}], [[]])),
]  # fmt: skip
ACCEPTED = [json.dumps(GOOD | more) for more in (
    {}, {"answer": 2}, {"answer": 2.0}, {"answer": ["2", "3"]}, {"answer": "#### 2"}, {"answer": r"\boxed{2}"}, {"level": None}, {"level": [1]},
    {"problem": [{"role": "user", "content": "1+1"}]}, {"extra": {"a": [None]}}, {"context": 5}, {"context": "c"})]  # fmt: skip


def data_files(scale=1.0):
    """Load each as the second line of a file, and whole files. Sound: InputError with the line, or the problem."""
    wrong, tokenizer = [], load_model("tiny/model")[1]
    cases = [(text, False) for text in REFUSED if text] + [(text, True) for text in ACCEPTED]
    files = [b"", b"\n\n", b"\xff\xfe", b"\x00" * 99, b"[]", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.jsonl"
        for text, good in sample(cases, scale):
            file.write_text(json.dumps(GOOD) + "\n" + text + "\n")
            try:
                problems = load_problems(str(file), tokenizer, longest_prompt=200, check_answers=False)
                if not good or len(problems) != 2 or not isinstance(problems[1]["answer"], str):
                    wrong.append(f"{text[:80]}: accepted as {problems[1:]}"[:300])
            except InputError as problem:
                if good or "line 2" not in str(problem):
                    wrong.append(f"{text[:80]}: {problem}")
            except Exception as problem:
                wrong.append(f"{text[:80]}: {type(problem).__name__}: {problem}"[:300])
        for i, content in enumerate(files):
            for suffix in (".jsonl", ".json", ".parquet"):
                file = Path(folder) / f"whole{i}{suffix}"
                file.write_bytes(content)
                try:
                    load_problems(str(file), tokenizer, check_answers=False)
                    if i != 5:
                        wrong.append(f"{content[:20]} as {suffix}: accepted")
                except InputError:
                    pass
                except Exception as problem:
                    wrong.append(f"{content[:20]} as {suffix}: {type(problem).__name__}: {problem}"[:300])
    return len(sample(cases, scale)) + 3 * len(files), wrong


def settings(scale=1.0):
    """Every flag of every script with values that it cannot have. Sound: InputError in one line that names the flag."""
    import importlib

    wrong, cases = [], []
    for script in MAINS:
        table = importlib.import_module(script).SETTINGS
        for name, (full, *_rest) in (MACHINE | table).items():
            flag = "--" + name.replace("_", "-")
            if isinstance(full, bool):
                cases.append((script, flag, [f"{flag}=yes"]))
            elif isinstance(full, int | float):
                values = ("nan", "inf", "-inf", "-1", "1e31", "9" * 40, "x", "", "0x10", "9" * 5000)
                cases += [(script, flag, [f"{flag}={value}"]) for value in values]
                cases.append((script, flag, [flag]))
            elif isinstance(full, list):
                cases += [(script, flag, [flag, "bogus\0"]), (script, flag, [flag, "a\udcff"])]
            else:
                cases.append((script, flag, [f"{flag}=\udcff"]))
                cases += [(script, flag, [f"{flag}=bogus"])] * (len(_rest) > 2)
        cases += [(script, "", [flag]) for flag in ("--nonsense", "stray", "--resume=/nowhere", "--lrx=1")]
        cases += [(script, "", ["--prompts-per", "3"])]  # an abbreviation
    for script, flag, argv in sample(cases, scale):
        try:
            parse_settings("", importlib.import_module(script).SETTINGS, argv)
            wrong.append(f"{script} {argv}: accepted"[:200])
        except InputError as problem:
            if "\n" in str(problem) or len(str(problem)) > 2100 or flag and flag not in str(problem):
                wrong.append(f"{script} {argv}: {problem}"[:300])
        except BaseException as problem:
            wrong.append(f"{script} {argv}: {type(problem).__name__} {problem}"[:300])
    return len(sample(cases, scale)), wrong
