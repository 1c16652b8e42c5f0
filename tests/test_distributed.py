"""torchrun with two ranks on a CPU: the same gradient as one process, whole runs through the command line, and what happens when a rank dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from common import load_model
from plumbing.data import Shuffled, load_problems

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--prompts-per-step", "6", "--group-size", "4", "--eval-samples", "1", "--save-every", "1", "--max-tokens", "48"]


def command(*args):
    return [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, args)]


def torchrun(*args, timeout=240):
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=os.environ | {"OMP_NUM_THREADS": "1"})


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_gradient_update_samples_and_checkpoint_are_those_of_one_process(tmp_path):
    """13 rollouts in 5 micro-batches, so that one rank has an empty one: see tests/distributed_gradient.py."""
    done = torchrun("tests/distributed_gradient.py", tmp_path)
    assert done.returncode == 0 and "ranks agree" in done.stdout, done.stderr[-3000:]


def test_ranks_meet_again_after_an_engine_took_their_group_along():
    """As between two arms that sample with vLLM, whose engine destroys the process group when it ends. Once there were
    stale addresses under the same keys: one rank waited for ever, or was refused a connection."""
    code = """
from plumbing import distributed
import torch.distributed as dist
for turn in range(4):
    distributed.start()
    assert distributed.all_gather((turn, distributed.RANK)) == [(turn, 0), (turn, 1)]
    assert dist.new_group([0, 1]).size() == 2
    dist.destroy_process_group()
"""
    done = subprocess.run([*command("--no-python", sys.executable, "-c", code)], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]


def test_grpo_with_two_ranks_and_a_resume(tmp_path):
    out = tmp_path / "run"
    done = torchrun("grpo.py", *SMALL, "--steps", "2", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder") == done.stdout.count("one group (right answer") == 1  # one rank speaks
    done = torchrun("grpo.py", "--resume", out, "--steps", "3")
    assert done.returncode == 0, done.stderr[-3000:]
    found = rows(out)
    assert [row["step"] for row in found] == [0, 1, 2, 3]
    tokenizer = load_model("tiny/model")[1]
    order = Shuffled(load_problems("tiny/train.jsonl", tokenizer), 0)
    before = 0
    for row in found[1:]:  # nothing is counted twice: prompts and responses of 6 questions, 4 responses each
        prompts = 4 * sum(len(q["prompt_ids"]) for q in order.draw(6))
        assert row["num_tokens"] - before == pytest.approx(prompts + 24 * row["completions/mean_length"], abs=1e-6)
        assert row["reward"] * 24 == pytest.approx(round(row["reward"] * 24), abs=1e-5)
        assert row["sampling/sampling_logp_difference/mean"] < 1e-5 if row["grad_norm"] else True
        before = row["num_tokens"]
    assert json.loads((out / "args.json").read_text())["environment"]["ranks"] == 2
    config = json.loads((out / "checkpoint-000003" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "float32"
    weights = AutoModelForCausalLM.from_pretrained(out / "checkpoint-000003").state_dict()
    assert any((weight != load_model("tiny/model")[0].state_dict()[name]).any() for name, weight in weights.items())


@pytest.mark.parametrize("script, flags", [
    ("lte.py", ["--compare"]),
    ("erpo.py", ["--compare", "--max-draws", "2", "--questions", "12", "--t-step", "0.25"]),  # heated rows are checked, and the next step's
    ("failure_prefix.py", ["--compare", "--questions", "2", "--screen-samples", "16", "--saturated-low", "12", "--saturated-high", "15"]),
])
def test_a_method_with_two_ranks(tmp_path, script, flags):
    """Methods have no line about ranks but the one that adds up metrics."""
    done = torchrun(script, *SMALL, *flags, "--steps", "3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3]


def test_a_bad_setting_is_one_line(tmp_path):
    done = torchrun("grpo.py", "--data", "nowhere.jsonl", "--out", tmp_path / "run")
    assert done.returncode and "error: data file nowhere.jsonl" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
def test_a_rank_that_dies_takes_the_others_down(tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen(command("grpo.py", *SMALL, "--steps", "10000", "--eval-every", "10000", "--out", out), cwd=ROOT, stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as agent:
        while not (out / "metrics.jsonl").exists() or len(rows(out)) < 2:
            assert agent.poll() is None
            time.sleep(0.2)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        ranks = {Path(f"/proc/{pid}/environ").read_text().split("\0RANK=")[1][0]: int(pid) for pid in children}
        os.kill(ranks["1"], signal.SIGKILL)
        message = agent.communicate(timeout=120)[1]
        assert agent.returncode and "Signal 9" in message and "rank      : 1" in message, message[-3000:]
        assert not Path(f"/proc/{ranks['0']}").exists()
    assert all((path / "trainer_state.pt").exists() for path in out.glob("checkpoint-??????"))  # whole ones, to go on from
