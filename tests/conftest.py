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
    """A held-out set of 18 problems, three of each length -> its file."""
    file = tmp_path_factory.mktemp("data") / "few.jsonl"
    file.write_text("".join((ROOT / "tiny/test.jsonl").read_text().splitlines(keepends=True)[::34]))
    return str(file)


@pytest.fixture(scope="session")
def few(tmp_path_factory, few_test):
    """Flags for 18 held-out problems, and for training problems of which a few give a signal: of the whole set 8 can all be without one."""
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


class Scripted:
    """A run of a script whose samples are written down in the test: the tiny exact case.

    reply(context, heat) -> the responses to one context, a list of (filler, box, finished): that many "+" tokens, then \\boxed{box}
    (3 tokens; nothing if it is None), then the end token if it is finished. So `(2, "3", True)` has 2 + 3 + 1 = 6 tokens. Who asks for
    more gets them again.
    Nothing moves (--lr 0), so the ratio of plain members is exactly 1.
    """

    def __init__(self, module, tiny, monkeypatch, folder, problems, reply):
        import common

        self.module, self.tokenizer, self.folder, self.asked = module, tiny[1], folder, []
        self.trained = []  # of every row of every collated batch: (what it was given, the tokens that carry loss, advantage)
        self.plus = self.ids("+")[0]
        assert len(self.ids("\\boxed{3}")) == 3, "the numbers in the tests are for a box of 3 tokens"
        folder.mkdir()
        (folder / "data.jsonl").write_text("".join(json.dumps({"problem": q, "answer": a}) + "\n" for q, a in problems))
        (folder / "held_out.jsonl").write_text(json.dumps({"problem": "9+9", "answer": "18"}) + "\n")

        def generate(sampler, contexts, n, temperature, max_tokens, seed, keep=None):
            heats = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
            rollouts = []
            for context, heat in zip(contexts, heats, strict=True):
                text = self.tokenizer.decode(context)
                replies = [(0, "18", True)] if "9+9" in text else reply(text.removeprefix("<|user|>"), heat)
                self.asked.append((text, n, heat))
                replies = (replies * n)[:n]
                rollouts += [common.Rollout(context, self.response(*one), [-0.5] * len(self.response(*one)), one[2], heat) for one in replies]
            return keep(rollouts, range(len(rollouts))) if keep else rollouts

        def collate(rollouts, *where):
            batch = COLLATE(rollouts, *where)
            for ids, mask, real, advantage in zip(*(batch[k] for k in ("input_ids", "completion_mask", "attention_mask", "advantages"))):
                first, size = mask.nonzero()[0].item() + 1, int(real.sum())
                assert mask.sum() == size - first  # the mask is one piece, from the first token that was drawn to the last
                self.trained.append((self.tokenizer.decode(ids[:first]), ids[first:size].tolist(), round(advantage.item(), 4)))
            return batch

        COLLATE = module.collate
        monkeypatch.setattr(common.TransformersSampler, "generate", generate)
        monkeypatch.setattr(module, "collate", collate)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def response(self, filler, box, finished):
        return [self.plus] * filler + (self.ids(f"\\boxed{{{box}}}") if box else []) + [self.tokenizer.eos_token_id] * finished

    def step(self, *flags, group_size=4):
        """One step on both questions -> the row of metrics."""
        sets = ["--data", str(self.folder / "data.jsonl"), "--eval-sets", str(self.folder / "held_out.jsonl"), "--eval-samples", "1"]
        size = ["--steps", "1", "--prompts-per-step", "2", "--group-size", str(group_size), "--lr", "0", "--max-logp-gap", "1e9"]
        self.module.main([*size, *sets, *flags, "--out", str(self.folder / "run")])
        return rows_of(self.folder / "run")[1]
