"""VLLMSampler against the model it serves, in float32 on a CPU. Run by tests/test_vllm.py; or, where vLLM is: pytest tests/vllm_engine.py"""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import common
import grpo
from common import VLLMSampler, make_sampler, sampling_gap
from conftest import ROOT, SMALL, rows_of, start
from plumbing import InputError, engine
from test_grpo import children
from vllm_models import NAMES, compare, contexts, largest_gap, make, perturb

LIMIT = 1e-4  # nats, the largest difference of any token; 5e-5 was the largest measured
HEATS = [0.7, 1.0, 1.3]


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """(model, sampler, prompts): 9 short prompts and 3 longer than a block of the prefix cache (128 tokens)."""
    model, tokenizer = make(request.param)
    sampler = VLLMSampler(model, tokenizer, rows=64)
    sampler.sync()
    yield model, sampler, contexts(model, 9, 4, 24) + contexts(model, 3, 150, 190)
    sampler.close()
    sampler.close()  # a second time does nothing


def test_parity_at_three_temperatures_in_one_batch(pair):
    model, sampler, prompts = pair
    rollouts = sampler.generate(prompts, 4, HEATS * 4, 32, seed=1)
    assert largest_gap(model, rollouts) < LIMIT
    wrong = [r for r in rollouts if r.temperature == 1.3]
    for rollout in wrong:
        rollout.temperature = 1.0
    assert largest_gap(model, wrong) > 0.05  # scored at another temperature it shows


def test_rows_stops_and_limits(pair):
    model, sampler, prompts = pair
    rollouts = sampler.generate(prompts, 3, HEATS * 4, 20, seed=2)
    assert [r.prompt_ids for r in rollouts] == [p for p in prompts for _ in range(3)]
    assert [r.temperature for r in rollouts] == [t for t in HEATS * 4 for _ in range(3)]
    for r in rollouts:
        assert r.finished == (r.completion_ids[-1] == 2) and 2 not in r.completion_ids[:-1]
        assert len(r.logps) == len(r.completion_ids) and (r.finished or len(r.completion_ids) == 20)


def test_same_seed_same_samples_and_no_global_generator_is_touched(pair):
    _, sampler, prompts = pair
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = ([r.completion_ids for r in sampler.generate(prompts[:3], 8, 1.3, 16, seed)] for seed in (5, 5, 6))
    assert first == again != other and len(set(map(tuple, first))) > 3
    assert torch.rand(1) == expected


def test_three_syncs_bring_the_new_weights(pair):
    model, sampler, prompts = pair
    for turn in range(3):
        perturb(model, turn)
        assert largest_gap(model, sampler.generate(prompts, 2, HEATS * 4, 32, turn)) > 0.1  # without one, the old weights sample
        sampler.sync()
        for again in range(2):  # the second time from the prefix cache
            assert largest_gap(model, sampler.generate(prompts, 2, HEATS * 4, 32, 10 * again + turn)) < LIMIT


def test_a_cache_that_was_not_reset_is_caught_by_the_guard(pair, monkeypatch):
    """The negative control. Only prompts longer than a block are wrong, so this is the least visible of the causes."""
    model, sampler, prompts = pair
    sampler.generate(prompts, 2, 1.0, 8, 1)
    perturb(model, 9)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "_reset_cache", lambda: None)
        sampler.sync()
    limit = common.GAP_LIMITS[sampler.dtype]
    with pytest.raises(InputError, match="prefix cache"):
        sampling_gap([compare(model, sampler.generate(prompts, 2, 1.0, 32, 1))], 2, limit)
    sampler.sync()
    sampling_gap([compare(model, sampler.generate(prompts, 2, 1.0, 32, 1))], 2, limit)


def test_pieces_draw_what_one_call_draws(pair, monkeypatch):
    """Requests have seeds of their own: cut into pieces of 7 the samples are the same, and each piece is handed over before the next is drawn."""
    model, sampler, prompts = pair
    whole = sampler.generate(prompts, 3, HEATS * 4, 24, seed=4)
    monkeypatch.setattr(sampler, "piece", 7)
    pieces = sampler.generate(prompts, 3, HEATS * 4, 24, seed=4)
    assert [r.completion_ids for r in pieces] == [r.completion_ids for r in whole]
    assert largest_gap(model, pieces) < LIMIT
    sizes = []

    def keep(rollouts, places):
        sizes.append(len(rollouts))
        assert [r.completion_ids for r in rollouts] == [whole[place].completion_ids for place in places]
        return [len(r.completion_ids) for r in rollouts]

    assert sampler.generate(prompts, 3, HEATS * 4, 24, seed=4, keep=keep) == [len(r.completion_ids) for r in whole]
    assert sizes == [7] * 5 + [1]


def test_several_stop_ids(pair, monkeypatch):
    model, sampler, prompts = pair
    stop = {2, *range(20, 60)}
    monkeypatch.setattr(sampler, "stop", sorted(stop))
    rollouts = sampler.generate(prompts, 8, 1.3, 32, 3)
    assert len({r.completion_ids[-1] for r in rollouts if r.finished}) > 1
    assert all(r.finished == (r.completion_ids[-1] in stop) and not stop & set(r.completion_ids[:-1]) for r in rollouts)


def test_no_room_and_no_sleepwalking(pair, monkeypatch):
    model, sampler, prompts = pair
    room = model.config.max_position_embeddings
    with pytest.raises(InputError, match=f"leaves no room for 7 more in the engine's {room}"):
        sampler.generate([[5] * (room - 6)], 1, 1.0, 7, 1)
    assert largest_gap(model, sampler.generate([[5] * (room - 7)], 1, 1.0, 7, 1)) < LIMIT  # and the engine goes on
    monkeypatch.setattr(sampler, "asleep", True)  # sleep() does so on a GPU; generating would then wait for ever
    with pytest.raises(RuntimeError, match="call sync"):
        sampler.generate(prompts, 1, 1.0, 4, 1)


def test_versions_outside_the_tested_range(monkeypatch):
    monkeypatch.setattr(engine, "TESTED_VLLM", ("0.1", "0.2"))
    with pytest.raises(InputError, match=r"vLLM 0.32.0\S* is installed.* 0.1 and later, below 0.2.*ALLOW_UNTESTED_VLLM=1"):
        engine.import_vllm()
    monkeypatch.setenv("ALLOW_UNTESTED_VLLM", "1")
    engine.import_vllm()


# ---- a context of 131,072 ----

LONG = {"max_position_embeddings": 131072, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 320, "eos_token_id": 2, "initializer_range": 0.2}


def test_a_long_context_starts_and_samples():
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**LONG)).eval()
    sampler = VLLMSampler(model, SimpleNamespace(eos_token_id=2), rows=64)
    sampler.sync()
    assert sampler.room == 8192
    prompts = contexts(model, 10, 2000, 2500) + contexts(model, 10, 4, 24)  # more than one pass takes
    assert largest_gap(model, sampler.generate(prompts, 1, 1.0, 16, 1)) < LIMIT
    sampler.close()


def test_what_a_gpu_is_given_takes_the_context_that_fits(monkeypatch):
    """vLLM's own arguments and fitting: 2 GB hold 35,000 tokens of Qwen2.5-7B's keys and values, of a context of 131,072."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    monkeypatch.setattr(engine.torch.cuda, "is_available", lambda: True)
    config = Qwen2Config(**LONG, architectures=["Qwen2ForCausalLM"])
    options = engine.engine_options(config, "bfloat16", rows=768, memory=0.4, tensor_parallel=1)
    monkeypatch.undo()
    assert options["max_num_batched_tokens"] == 8192  # the pass that measures memory is not as long as the context
    with engine.engine_environment():
        found = EngineArgs(**options | {"enable_sleep_mode": False}).create_engine_config()  # which a CPU has not
    assert found.model_config.original_max_model_len == -1 and found.model_config.max_model_len == 131072
    assert found.scheduler_config.enable_chunked_prefill and found.scheduler_config.max_num_seqs == 768
    found.cache_config.kv_cache_layout = "NHD"  # the engine asks its workers
    spec = FullAttentionSpec(block_size=16, num_kv_heads=4, head_size=128, dtype=torch.bfloat16)
    get_kv_cache_configs(found, [{f"model.layers.{i}.self_attn.attn": spec for i in range(28)}], [2 * 10**9])
    assert 34_000 < found.model_config.max_model_len < 35_000  # 57,344 bytes a token


def test_a_second_start_finds_what_the_first_compiled(monkeypatch):
    """vLLM looks its compile cache up by a hash over its settings, the folder of the configuration included."""
    from vllm.engine.arg_utils import EngineArgs

    def key(**shape):
        options = engine.engine_options(Qwen2Config(**LONG | shape, architectures=["Qwen2ForCausalLM"]), "bfloat16", 64, 0.4, 1)
        with engine.engine_environment():
            return EngineArgs(**options).create_engine_config().compute_hash()

    assert key() == key() != key(hidden_size=256)


def test_which_sampler_is_chosen(tiny):
    for name in ("auto", "transformers") if not torch.cuda.is_available() else ("transformers",):
        assert type(make_sampler(name, *tiny)).__name__ == "TransformersSampler"


def test_grpo_learns_through_the_engine(tmp_path):
    """The bar of the CPU sampler: it learns (2 points in 18 steps), and never a gap."""
    grpo.main(["--sampler", "vllm", "--steps", "18", "--eval-every", "18", "--out", str(tmp_path / "run")])
    rows = rows_of(tmp_path / "run")
    before, after = (row["eval/test/avg@4"] for row in rows if "eval/test/avg@4" in row)
    assert after - before >= 0.02
    assert max(row["sampling/sampling_logp_difference/max"] for row in rows[1:]) < LIMIT


def test_a_run_whose_sync_is_off_stops_at_the_second_step(tmp_path, few, monkeypatch):  # noqa: F811
    """The first batch is drawn with the starting weights, which is right; the second is the first that can show it."""
    real, calls = VLLMSampler.sync, []
    monkeypatch.setattr(VLLMSampler, "sync", lambda self: calls.append(1) or (real(self) if len(calls) == 1 else None))
    with pytest.raises(SystemExit, match="step 2: sampler and trainer differ by .* did not get the last weights"):
        grpo.main([*SMALL, *few, "--sampler", "vllm", "--out", str(tmp_path / "run")])
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1]


def test_ctrl_c_with_an_engine(tmp_path, few):  # noqa: F811
    process = start("grpo.py", *SMALL, *few, "--sampler", "vllm", "--out", str(tmp_path / "run"))
    while not (tmp_path / "run" / "checkpoint-000002").exists() and process.poll() is None:
        time.sleep(0.05)
    family = children(process.pid)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=10)
    assert process.returncode == 1 and "Traceback" not in printed and "stopped by SIGINT; continue with --resume" in printed
    assert not [pid for pid in family if os.path.exists(f"/proc/{pid}")]
    common.load_model(str(tmp_path / "run" / "checkpoint-000002"))


@pytest.mark.parametrize("tensor_parallel", ["1", "2"])
def test_two_ranks_in_step(tensor_parallel):
    """torchrun, sharded weights, one engine a rank or one engine over both: see tests/vllm_distributed.py."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(ROOT / "tests" / "vllm_distributed.py"), tensor_parallel]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert done.returncode == 0, done.stdout[-4000:]
    for rank in range(2):
        for step in range(4):
            assert f"rank {rank} step {step} in step" in done.stdout


def test_two_ranks_train_one_arm_after_the_other(tmp_path):
    """The first arm's engine takes torchrun's process group along; the second joins anew."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "erpo.py"),
               "--sampler", "vllm", "--steps", "1", "--prompts-per-step", "4", "--group-size", "4", "--eval-samples", "1", "--max-draws", "1",
               "--compare", "dapo", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    for folder in (tmp_path / "run", tmp_path / "run" / "dapo"):
        assert (folder / "checkpoint-000001").is_dir() and len((folder / "metrics.jsonl").read_text().splitlines()) == 2
