"""Command-line flags of all scripts: each script's own table, and the one that all share."""

import argparse
import functools
import json
import re
import sys
from pathlib import Path

from common import TINY_MODEL
from plumbing import InputError

MACHINE = {  # a script whose paper says otherwise has a row of the same name in its own table
    # name: (with --model, tiny, meaning; its permitted values, if they are few)
    "eval_sets": (
        ["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test",
         "math-ai/amc23@test"],
        ["tiny/test.jsonl", "tiny/harder.jsonl"], "held-out problem sets, as for --data; ours"),
    "eval_max_tokens": (0, 80, "longest response in evaluation, 0: --max-tokens"),
    "adam_beta2": (0.999, 0.999, "AdamW's second beta; torch's own"),
    "question_column": ("", "", "column of --data that holds the question, if it has an unusual name"),
    "answer_column": ("", "", "column of --data that holds the answer, if it has an unusual name"),
    "seed": (0, 0, "of data order and sampling"),
    "save_every": (20, 10, "steps between checkpoints"),
    "reward": ("", "", "your own reward, FILE.py:FUNCTION: texts and gold answers in, numbers 0 to 1 out"),
    "report_to": ("none", "none", "tracker that gets the metrics as well", ("none", "tensorboard", "wandb")),
    "importance_cap": (2.0, 0.0, "weigh tokens by min(p trainer / p sampler, this), 0: do not; as TRL"),
    "max_logp_gap": (
        0.0, 0.0, "stop if sampler and trainer differ by more nats on the mean token, 0: 1e-4 in float32, "
        "0.1 in bfloat16"),
    "sampler": (
        "auto", "auto", "what draws responses; auto: vllm if there is a GPU",
        ("auto", "vllm", "transformers")),
    "engine_memory": (
        0.0, 0.0, "share of the GPU that vLLM may hold while it samples, 0: what fits of .65, .5, .4"),
    "tensor_parallel": (1, 1, "GPUs that share one vLLM engine"),
    "dtype": (
        "bfloat16", "float32", "precision the model computes in; the optimizer's weights are float32",
        ("bfloat16", "float32")),
    "masters": (
        "auto", "auto", "where the optimizer's weights and moments are; auto: on the GPU if they fit",
        ("auto", "gpu", "cpu")),
    "gradient_checkpointing": (
        True, False, "recompute activations in the backward pass: less memory, one more forward pass"),
    "micro_batch_tokens": (
        16384, 4096, "tokens, padding included, in one pass: memory only; small ones pad less"),
    "sample_rows": (0, 256, "sequences sampled side by side, 0: 768 with vllm, else 256: memory only"),
    "dry_run": (False, False, "print memory, disk, samples and hours that a run would take, and end"),
    "gpu_memory": (0.0, 0.0, "GB of a GPU to plan for in a dry run, as on its label, 0: what is here"),
    "gpus": (0, 0, "GPUs to plan for in a dry run, 0: one"),
    "threads": (0, 1, "CPU threads of torch, 0: its own choice; the tiny model loses by sharing"),
}
POSITIVE = (
    "prompts_per_step", "group_size", "temperature", "max_tokens", "updates_per_batch", "eval_every",
    "eval_samples", "save_every", "micro_batch_tokens")  # may not be 0; none may be negative
CHANGEABLE = (  # what --resume may change
    "steps", "save_every", "micro_batch_tokens", "resume", "report_to", "dry_run", "gpu_memory", "gpus")


def one_line_errors(main):
    """Let a script's main(argv) end with one line and exit status 1 where it meets an InputError."""
    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            return main(argv)
        except InputError as problem:
            raise SystemExit(f"error: {problem}") from None

    return wrapped


def parse_settings(doc, settings, argv=None):
    """Turn a script's two-column table, and MACHINE, into command-line flags -> namespace.

    settings: {name: (value with --model, value without, help)}, with the permitted values in a fourth place
    if there are few; a name `group_size` becomes the flag --group-size. Which column supplies the defaults
    depends on whether --model is given. With --resume DIR the settings come from DIR/args.json, and a flag
    that contradicts them is refused. Raises InputError.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    given = vars(flags(doc, settings).parse_args(argv))
    for name, value in given.items():
        if isinstance(value, int | float) and not (value > 0 or value == 0 and name not in POSITIVE):
            needed = "above 0" if name in POSITIVE else "0 or more"
            raise InputError(f"--{name.replace('_', '-')} {value}: must be {needed}")
    if "resume" in given:
        given = resumed(given)
    column = 1 if given.get("tiny") or given.get("model", TINY_MODEL) == TINY_MODEL else 0
    defaults = {"model": TINY_MODEL, "tiny": False, "out": None, "resume": None}
    defaults |= {name: row[column] for name, row in (MACHINE | settings).items()}
    return argparse.Namespace(**defaults | given)


def flags(doc, settings):
    """The parser of a script's flags. What is not given is not in its result."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", help="model to train, a hub id or a folder (none: the tiny model)")
    parser.add_argument("--tiny", action="store_true", help="tiny settings also with --model")
    parser.add_argument("--out", help="run folder, new or empty (none: runs/SCRIPT-MODEL, numbered if taken)")
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder where it was saved")
    shared = {name: row for name, row in MACHINE.items() if name not in settings}
    for title, table in (("settings of the method", settings), ("settings that all scripts share", shared)):
        group = parser.add_argument_group(f"{title} [with --model | tiny]")
        for name, (full, tiny, text, *choices) in table.items():
            kind = {bool: {"action": argparse.BooleanOptionalAction}, list: {"nargs": "*"}}
            kind = kind.get(type(full), {"type": type(full)}) | ({"choices": choices[0]} if choices else {})
            text = f"{text} [{full} | {tiny}]".replace("%", "%%")
            group.add_argument("--" + name.replace("_", "-"), help=text, **kind)
    return parser


def resumed(given):
    """The settings of the run in given["resume"], with the flags that may change.

    Raises InputError for others."""
    folder = given["resume"]
    file = Path(folder) / "args.json"
    if not file.exists():
        raise InputError(f"--resume {folder}: no run here ({file} is missing); give the folder of an earlier "
                         "run")
    old = json.loads(file.read_text())["settings"]
    for name, value in given.items():
        if name not in CHANGEABLE and old.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"--resume {folder}: that run had {flag} {old.get(name)}, not {value}; drop it "
                             "or start a new run")
    return old | given
