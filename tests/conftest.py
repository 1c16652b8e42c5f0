"""What tests share: the tiny model, small sets of problems, runs through the command line and what they leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not reach for a network: a hub id then fails at once
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)

# A run of grpo.py small enough to be repeated: 8 steps of 8 questions, checkpoints every 2.
SMALL = ["--steps", "8", "--prompts-per-step", "8", "--group-size", "4", "--eval-every", "3", "--eval-samples", "1", "--save-every", "2"]
SCRIPTS = ["grpo", "failure_prefix", "prefix_rl", "erpo", "pos_neg_pairing", "lte"]


@pytest.fixture(scope="session")
def tiny():
    """The tiny model and its tokenizer. Tests must leave the weights as they are."""
    from common import TINY_MODEL, load_model

    return load_model(TINY_MODEL)


@pytest.fixture(scope="session")
def few_test(tmp_path_factory):
    """A held-out set of 16 problems, two of each length -> its file."""
    file = tmp_path_factory.mktemp("data") / "few.jsonl"
    file.write_text("".join((ROOT / "tiny/test.jsonl").read_text().splitlines(keepends=True)[::20]))
    return str(file)


@pytest.fixture(scope="session")
def few(tmp_path_factory, few_test):
    """Flags for 16 held-out problems, and for training problems of which a few give a signal: of the whole set 8 can all be without one."""
    file = tmp_path_factory.mktemp("data") / "some.jsonl"
    file.write_text("".join(line for line in (ROOT / "tiny/train.jsonl").read_text().splitlines(keepends=True) if '"mixed"' in line))
    return ["--eval-sets", few_test, "--data", str(file)]


def start(script, *flags, **settings):
    """A script as a process of its own; output and errors in one stream."""
    return subprocess.Popen([sys.executable, str(ROOT / script), *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def rows_of(folder):
    """The metrics of a run without those that measure time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def stopped(main, *flags):
    """The one line with which a script refuses these flags."""
    with pytest.raises(SystemExit) as error:
        main(list(flags))
    assert error.value.code.startswith("error: ") and "\n" not in error.value.code
    return error.value.code
