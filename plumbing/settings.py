"""Command-line flags of all scripts: each script's own table, and the one that all share."""

import argparse
import functools
import re
import signal
import sys

from common import TINY_MODEL
from plumbing import InputError
from plumbing.checkpoints import read_about

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
        16384, 1024, "tokens, padding included, in one pass: memory only; small ones pad less"),
    "sample_rows": (0, 192, "sequences sampled side by side, 0: 768 with vllm, else 256: memory only"),
    "trust_remote_code": (
        False, False, "run code that comes with a model, which can do anything on this machine"),
    "dry_run": (False, False, "print memory, disk, samples and hours that a run would take, and end"),
    "gpu_memory": (0.0, 0.0, "GB of a GPU to plan for in a dry run, as on its label, 0: what is here"),
    "gpus": (0, 0, "GPUs to plan for in a dry run, 0: one"),
    "threads": (0, 1, "CPU threads of torch, 0: its own choice; the tiny model loses by sharing"),
}
RANGES = {
    # which values a number may have; [ ] belong to them, ( ) do not. What is not named: any in ELSE
    "steps": "[0, 999999]",
    "group_size": "[2, 1e9]",  # a group of one has no spread: nothing would be learned
    "temperature": "(0, 100]", "eval_temperature": "[0, 100]", "t_max": "(0, 100]", "t_step": "[0, 100]",
    "lr": "[0, 1]", "adam_beta2": "[0, 1)", "weight_decay": "[0, 1]", "max_grad_norm": "(0, 1e9]",
    "clip_low": "[0, 1]", "tau": "[0, 1]", "fixed_cut": "[0, 1)", "cut_from": "[0, 1]", "cut_to": "[0, 1]",
    "engine_memory": "[0, 1]", "gamma": "(0, 1e9]", "max_flops": "[0, 1e30]",
    "seed": "[0, 9e18]", "threads": "[0, 1024]",
    **dict.fromkeys((
        "prompts_per_step", "max_tokens", "updates_per_batch", "eval_every", "eval_samples", "save_every",
        "micro_batch_tokens", "tensor_parallel", "cuts", "cut_samples", "screen_samples", "refresh_samples",
        "max_attempts", "max_draws", "probe_samples", "band"), "[1, 1e9]"),
}
ELSE = "[0, 1e9]"
AT_MOST = (("cut_from", "cut_to"), ("saturated_low", "saturated_high"), ("saturated_high", "screen_samples"),
           ("band", "group_size"))  # the first of two settings may not exceed the second
CHANGEABLE = (  # what --resume may change; of the last three the place alone, what they hold is compared
    "steps", "save_every", "micro_batch_tokens", "report_to", "dry_run", "gpu_memory", "gpus", "bank",
    "traces", "chosen")
CODE = ("reward", "trust_remote_code")  # what lets a run execute code that comes with it


def one_line_errors(main):
    """Let a script's main(argv) end with one line and exit status 1 where it meets an InputError.

    A run answers Ctrl-C and SIGTERM with one line; when it is done, whoever called main() answers again.
    """
    @functools.wraps(main)
    def wrapped(argv=None):
        callers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        hook = sys.unraisablehook
        try:
            main(argv)
        except InputError as problem:
            raise SystemExit(f"error: {problem}") from None
        for number, handler in callers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        sys.unraisablehook = hook

    return wrapped


class Parser(argparse.ArgumentParser):
    """Flags in full, and errors in one line."""

    def __init__(self, **settings):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message):
        raise InputError(f"{message}; --help lists the flags")


def parse_settings(doc, settings, argv=None):
    """Turn a script's two-column table, and MACHINE, into command-line flags -> namespace.

    settings: {name: (value with --model, value without, help)}, with the permitted values in a fourth place
    if there are few; a name `group_size` becomes the flag --group-size. Which column supplies the defaults
    depends on whether --model is given. With --resume DIR the settings come from DIR/args.json, and a flag
    that contradicts them is refused. All of them are checked, wherever they come from. Raises InputError.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    table = MACHINE | settings
    given = vars(flags(doc, settings).parse_args(argv))
    if "resume" in given:
        given = resumed(given, table)
    column = 1 if given.get("tiny") or given.get("model", TINY_MODEL) == TINY_MODEL else 0
    defaults = {"model": TINY_MODEL, "tiny": False, "out": None, "resume": None}
    defaults |= {name: row[column] for name, row in table.items()}
    check(defaults | given, table)
    return argparse.Namespace(**defaults | given)


def flags(doc, settings):
    """The parser of a script's flags. What is not given is not in its result."""
    parser = Parser(
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
            kind = kind.get(type(full), {"type": type(full)})
            kind |= {"metavar": "{" + ",".join(choices[0]) + "}"} if choices else {}
            text = f"{text} [{full} | {tiny}]".replace("%", "%%")
            group.add_argument("--" + name.replace("_", "-"), help=text, **kind)
    return parser


def check(values, table):
    """Raises InputError for a value that a setting cannot have, be it from a flag or from a file."""
    for name, value in values.items():
        flag, row = "--" + name.replace("_", "-"), table.get(name)
        kind = type(row[0]) if row else bool if name == "tiny" else str
        if value is None and not row:
            continue
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{flag} {value!r:.80}: must be of the kind {kind.__name__}")
        for text in value if kind is list else [value] if kind is str else []:
            if not isinstance(text, str) or not text.isprintable() and re.search("[\ud800-\udfff\0]", text):
                raise InputError(f"{flag} {text!r:.80}: is no text")
        if kind in (int, float):
            check_range(flag, value, RANGES.get(name, ELSE))
        if name == "hint" and "{}" not in value:
            raise InputError(f"{flag} {value!r:.80}: must have {{}} where the wrong answers go")
        permitted = row[3] if row and len(row) > 3 else ()
        if permitted and value not in permitted:
            raise InputError(f"{flag} {value}: must be one of {', '.join(permitted)}")
    for low, high in AT_MOST:
        if low in values and high in values and values[low] > values[high]:
            low, high = (f"--{name.replace('_', '-')} {values[name]}" for name in (low, high))
            raise InputError(f"{low}: is more than {high}")
    for arm in (arms := values.get("compare", [])):
        if arm not in (permitted := table["arm"][3]) or arms.count(arm) > 1:
            one_of = ", ".join(permitted)
            raise InputError(f"--compare {' '.join(arms)}: each must be another one of {one_of}")


def check_range(flag, value, permitted):
    """Raises InputError if a number is not in an interval, written as in RANGES."""
    low, high = map(float, permitted[1:-1].split(","))
    closed_low, closed_high = permitted[0] == "[", permitted[-1] == "]"
    inside = low < value < high or value == low and closed_low or value == high and closed_high
    if not inside:  # not a number is in no interval
        least, most = "at least" if closed_low else "above", "at most" if closed_high else "below"
        raise InputError(f"{flag} {str(value)[:80]}: must be {least} {low:g} and {most} {high:g}")


def as_flags(values):
    """The command line that says these settings.

    >>> as_flags({"group_size": 8, "scale_by_std": False, "compare": [], "hint": "-no"})
    ['--group-size=8', '--no-scale-by-std', '--compare', '--hint=-no']
    """
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}"] if value else [f"--no-{flag}"] * (name != "tiny")
        elif isinstance(value, list):
            words += [f"--{flag}", *value]
        else:
            words.append(f"--{flag}={value}")
    return words


def resumed(given, table):
    """The settings of the run in given["resume"], with the flags that may change.

    Raises InputError for others, for a run of a script with other settings, and for one that runs code which
    the command line does not name: a folder of somebody else's could bring its own.
    """
    folder = given["resume"]
    old = read_about(folder)["settings"]
    if unknown := sorted(set(old) - set(table) - {"model", "tiny", "out", "resume"}):
        raise InputError(f"--resume {folder}: that run has settings that this script does not know "
                         f"({', '.join(unknown)}); go on with the script, or the version, that began it")
    for name, value in given.items():
        if name not in (*CHANGEABLE, "resume") and old.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"--resume {folder}: that run had {flag} {old.get(name)}, not {value}; drop it "
                             "or start a new run")
    for name in CODE:
        if old.get(name) and name not in given:
            flag = "--" + name.replace("_", "-") + ("" if old[name] is True else f" {old[name]!s:.200}")
            raise InputError(f"--resume {folder}: that run had {flag}; give it again, it is code")
    return old | given
