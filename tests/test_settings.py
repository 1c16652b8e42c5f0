"""Flags, and how a script refuses them."""

import contextlib
import importlib
import io
import re
import shutil

import pytest

import grpo
from conftest import ROOT, SCRIPTS, SMALL, stopped
from plumbing import InputError
from plumbing.settings import MACHINE, as_flags, one_line_errors, parse_settings


@pytest.fixture
def finished(few, tmp_path):
    """The folder of a run of one step."""
    grpo.main([*SMALL, *few, "--steps", "1", "--out", str(tmp_path / "finished")])
    return str(tmp_path / "finished")


def test_one_line_errors(finished, tmp_path):
    folder = finished
    new = (["--out", str(tmp_path / f"new{i}")] for i in range(9))
    assert re.search(r"data file missing.jsonl: cannot be read", stopped(grpo.main, "--data", "missing.jsonl", *next(new)))
    assert "--model ./nowhere: neither a folder with a model nor" in stopped(grpo.main, "--model", "./nowhere", *next(new))
    assert "--model nobody/nothing: neither a folder with a model nor" in stopped(grpo.main, "--model", "nobody/nothing", *next(new))
    long = stopped(grpo.main, "--max-tokens", "10000", *next(new))
    assert re.search(r"data tiny/train.jsonl: no problem is left, their prompts have more than the .*lower --max-tokens", long)
    assert "--eval-max-tokens 999: the model's context has" in stopped(grpo.main, "--eval-max-tokens", "999", *next(new))
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "tiny/model", broken)
    (broken / "model.safetensors").write_bytes(b"cut off")
    assert f"--model {broken}: neither a folder with a model nor" in stopped(grpo.main, "--model", str(broken), *next(new))
    assert "no run here" in stopped(grpo.main, "--resume", str(tmp_path / "nothing"))
    assert "that run had --model tiny/model, not other" in stopped(grpo.main, "--resume", folder, "--model", "other")
    assert "that run had --lr 0.0001, not 0.1" in stopped(grpo.main, "--resume", folder, "--lr", "0.1")
    assert f"continue the run in it with --resume {folder}" in stopped(grpo.main, "--out", folder)
    assert "--group-size 0: must be at least 2" in stopped(grpo.main, "--group-size", "0")
    assert "--lr -1.0: must be at least 0 and at most 1" in stopped(grpo.main, "--lr", "-1")
    assert "cannot write there" in stopped(grpo.main, "--out", "/proc/nothing/run")


def test_only_main_makes_a_line_of_an_error():
    """In the library it is an ordinary exception, which `except Exception` of whoever copied a function catches."""
    assert issubclass(InputError, Exception) and not issubclass(InputError, SystemExit)
    with pytest.raises(InputError, match="no run here"):
        parse_settings("", grpo.SETTINGS, ["--resume", "nowhere"])

    @one_line_errors
    def main(argv=None):
        raise InputError("two\nlines")

    assert stopped(main) == "error: two lines"


def test_columns_of_the_table():
    tiny, full, both = (parse_settings("", grpo.SETTINGS, flags) for flags in ([], ["--model", "some/model"], ["--model", "some/model", "--tiny"]))
    assert (tiny.lr, full.lr, both.lr) == (1e-4, 1e-6, 1e-4) and (tiny.dtype, full.dtype, both.dtype) == ("float32", "bfloat16", "float32")
    assert parse_settings("", grpo.SETTINGS, ["--group_size", "3"]).group_size == 3  # an underscore is as good as a hyphen


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_the_methods_own_settings_first(script):
    module = importlib.import_module(script)
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        module.main(["--help"])
    text = printed.getvalue()
    at = [text.index(f"  --{name.replace('_', '-')}") for name in (*module.SETTINGS, *(name for name in MACHINE if name not in module.SETTINGS))]
    assert at == sorted(at)
    assert {"beta", "loss_type", "scale_by_std", "entropy_coef"} <= set(module.SETTINGS)  # none of these is a difference from grpo.py


# Questions of the default evaluation sets (AMC 12 of 2024: both contests), and what is drawn to train besides the steps themselves:
# screening and cuts of the questions that are kept, the least that mining takes.
SIZES = {"HuggingFaceH4/MATH-500@test": 500, "HuggingFaceH4/aime_2024": 30, "math-ai/aime24@test": 30, "math-ai/aime25@test": 30,
         "math-ai/amc23@test": 40, "math-ai/minervamath@test": 272, "Hothan/OlympiadBench:OE_TO_maths_en_COMP": 674,
         "rawsh/2024_AMC12": 50, "MathArena/hmmt_feb_2025": 30}  # fmt: skip
BESIDES = {"failure_prefix": 1000 * (32 + 9 * 32)}
OWN_SETS = {"prefix_rl": 1000}  # its unsolved questions, which get --eval-samples at every evaluation


@pytest.mark.parametrize("script", SCRIPTS)
def test_evaluation_costs_at_most_a_tenth_of_the_training(script):
    """In samples, with --model. Of the steps alone but for failure_prefix: twice the 32 x 640 of its code are a quarter of its steps."""
    args = parse_settings("", importlib.import_module(script).SETTINGS, ["--model", "some/model"])
    training = args.steps * args.prompts_per_step * args.group_size + BESIDES.get(script, 0)
    questions = sum(SIZES[name] for name in args.eval_sets)
    between = (args.steps - 1) // args.eval_every
    samples = 2 * questions * args.final_eval_samples + between * questions * args.eval_samples
    samples += (2 + between) * OWN_SETS.get(script, 0) * args.eval_samples
    assert args.final_eval_samples > 0 and samples <= training / 10, (samples, training)


@pytest.mark.parametrize("script", SCRIPTS)
def test_tiny_runs_evaluate_alike_at_every_step(script):
    args = parse_settings("", importlib.import_module(script).SETTINGS, [])
    assert args.final_eval_samples == 0 and args.eval_max_tokens == 80 and args.adam_beta2 == 0.999


def test_a_script_may_have_its_own_row_of_a_shared_setting():
    """Named once in --help, with the script's values; elsewhere the shared ones hold."""
    failure_prefix = importlib.import_module("failure_prefix")
    full = parse_settings("", failure_prefix.SETTINGS, ["--model", "some/model"])
    assert (full.adam_beta2, full.eval_max_tokens) == (0.99, 32000) and len(full.eval_sets) == 5
    assert parse_settings("", grpo.SETTINGS, ["--model", "some/model"]).adam_beta2 == 0.999
    assert parse_settings("", failure_prefix.SETTINGS, ["--adam-beta2", "0.95"]).adam_beta2 == 0.95


@pytest.mark.parametrize("flags, message", [
    (["--lr", "inf"], "--lr inf: must be at least 0 and at most 1"),
    (["--temperature", "nan"], "--temperature nan: must be above 0"),
    (["--beta", "inf"], "--beta inf: must be"),
    (["--seed", "9" * 30], "--seed 9+: must be"),
    (["--threads", "100000"], "--threads 100000: must be at least 0 and at most 1024"),
    (["--steps", "1000000"], "--steps 1000000: must be"),
    (["--group-size", "1"], "--group-size 1: must be at least 2"),
    (["--dtype", "float8"], "--dtype float8: must be one of bfloat16, float32"),
    (["--max-tokens", "many"], "argument --max-tokens: invalid int value: 'many'; --help"),
    (["--prompts-per", "3"], "unrecognized arguments: --prompts-per 3; --help"),
    (["--out", "a\udcff"], "--out 'a.udcff': is no text"),
])  # fmt: skip
def test_values_that_a_setting_cannot_have(flags, message):
    with pytest.raises(InputError, match=message):
        parse_settings("", grpo.SETTINGS, flags)


@pytest.mark.parametrize("script, flags, message", [
    ("erpo", ["--compare", "bogus"], "--compare bogus: each must be another one of dapo, ra, temp, erpo"),
    ("erpo", ["--compare", "ra", "ra"], "--compare ra ra: each must be another"),
    ("erpo", ["--max-draws", "0"], "--max-draws 0: must be at least 1"),
    ("prefix_rl", ["--cut-to", "3"], "--cut-to 3.0: must be at least 0 and at most 1"),
    ("prefix_rl", ["--cut-from", "0.9"], "--cut-from 0.9: is more than --cut-to 0.8"),
    ("prefix_rl", ["--screen-samples", "0"], "--screen-samples 0: must be at least 1"),
    ("failure_prefix", ["--cuts", "0"], "--cuts 0: must be at least 1"),
    ("failure_prefix", ["--saturated-high", "100"], "--saturated-high 100: is more than --screen-samples 32"),
    ("pos_neg_pairing", ["--band", "100"], "--band 100: is more than --group-size 8"),
    ("lte", ["--hint", " not this"], "--hint ' not this': must have {} where the wrong answers go"),
    ("pos_neg_pairing", ["--probe-samples", "0"], "--probe-samples 0: must be at least 1"),
])  # fmt: skip
def test_values_that_a_methods_setting_cannot_have(script, flags, message):
    with pytest.raises(InputError, match=message):
        parse_settings("", importlib.import_module(script).SETTINGS, flags)


@pytest.mark.parametrize("script", SCRIPTS)
def test_settings_and_flags_are_the_same_thing(script):
    """The defaults are permitted, in both columns, and said as flags they come back."""
    table = importlib.import_module(script).SETTINGS
    for flags in ([], ["--model", "some/model"], ["--model", "some/model", "--tiny", "--instruction", "-- no"]):
        if flags[-1:] == ["-- no"]:
            flags = [*flags[:-2], "--instruction=-- no"]
        args = parse_settings("", table, flags)
        assert parse_settings("", table, as_flags({name: value for name, value in vars(args).items() if value is not None})) == args


def test_settings_of_a_damaged_or_foreign_run(tmp_path):
    file = tmp_path / "args.json"
    whole = lambda settings, more='"data": {}, "records": {}': f'{{"format": 2, {more}, "settings": {{{settings}}}}}'  # noqa: E731
    for text, message in [("", "is damaged"), ("[]", "no settings in it"), ('{"settings": []}', "no settings in it"), ("\xff{", "is damaged"),
                          ('""', "no settings in it"), ("null", "no settings in it"), ('{"settings": {}}', "no format in it"),
                          ('{"settings": {}, "format": 9}', "has format 9"), ('{"settings": {}, "format": null}', "no format in it"),
                          (whole("", '"data": 5, "records": {}'), "no data in it"), (whole("", '"data": null, "records": {}'), "no data in it"),
                          (whole("", '"data": {"a": "b"}, "records": {}'), "no data in it"), (whole("", '"data": {}'), "no records in it"),
                          (whole('"t_step": 1'), "does not know .t_step"), (whole('"lr": "much"'), "--lr 'much': must be of the kind float"),
                          (whole('"lr": NaN'), "--lr nan: must be"), (whole('"eval_sets": [5]'), "--eval-sets 5: is no text")]:
        file.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=message):
            parse_settings("", grpo.SETTINGS, ["--resume", str(tmp_path)])
