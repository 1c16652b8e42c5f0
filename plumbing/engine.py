"""Starting a vLLM engine inside the training process."""

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import torch
import torch._dynamo.config
from packaging.version import Version

from plumbing import InputError

TESTED_VLLM = ("0.32.0", "0.33")  # from, and below which: what is used here changes between versions
CPU_ROOM = 8192  # tokens of a prompt and its response, without a GPU: for tests


def engine_options(config, dtype, rows, memory, tensor_parallel):
    """Arguments of vllm.LLM for an engine that is given its weights afterwards -> dict.

    config: the model's; dtype: a name; rows, memory, tensor_parallel: as in common.VLLMSampler.
    """
    options = {
        "model": config_folder(config),
        "distributed_executor_backend": "external_launcher",
        "tensor_parallel_size": tensor_parallel,
        "seed": int(os.environ.get("RANK", "0")) // tensor_parallel,
        "dtype": dtype,
        "load_format": "dummy",  # the weights come with the first sync
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
        "max_num_seqs": rows,
    }
    if torch.cuda.is_available():
        # A context of 131,072 needs more keys and values than there may be room for: -1 takes what fits. Nor
        # may the engine's first pass, which measures its own memory, be as long as the context.
        return options | {"max_model_len": -1, "max_num_batched_tokens": max(8192, rows),
                          "enable_sleep_mode": True, "gpu_memory_utilization": memory}
    # The CPU build cannot cut a seeded request in two: one pass has room for the longest.
    room = min(config.max_position_embeddings, CPU_ROOM)
    return options | {"max_model_len": room, "max_num_batched_tokens": max(8192, room, rows),
                      "enable_chunked_prefill": False, "enforce_eager": True}


def config_folder(config):
    """A folder that holds a model's configuration: the engine reads its shape from disk.

    vLLM looks up what it compiled by this path as well, so the path depends on the content alone: unless
    somebody else has taken it, who could put another configuration there.
    """
    text = config.to_json_string()
    name = f"engine-{os.getuid()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        folder = Path(tempfile.mkdtemp(prefix=name))
    aside = folder / f"{os.getpid()}.partial"  # another rank may be reading
    aside.write_text(text)
    os.replace(aside, folder / "config.json")
    return str(folder)


def fork_generators():
    """A context after which torch's generators are what they were: the host's and that of this rank's GPU."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])


@contextlib.contextmanager
def engine_environment():
    """What vLLM reads from the environment while it is imported and started.

    The rank variables are torchrun's; without it they are there for this only.
    """
    with socket.socket() as probe:  # a free port
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = {name: value for name, value in ranks.items() if name not in os.environ}
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # in this process
    wanted |= {"VLLM_LOGGING_LEVEL": "CRITICAL", "VLLM_NO_USAGE_STATS": "1"}
    if not torch.cuda.is_available():
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
        wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # leave the threads where they are
        torch._dynamo.config.disable = True  # vLLM would compile one small function for 20 s
    for name, value in (wanted | ranks).items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in ranks:  # a program started from here must not take itself for a rank
            del os.environ[name]


def import_vllm():
    """The vllm package, in a version that was tested. Raises InputError."""
    try:
        import vllm  # only here: it is slow to import, and not everybody has it
    except ImportError as problem:
        raise InputError(f"--sampler vllm: cannot import vLLM ({problem}); pip install -r requirements.txt "
                         "or take --sampler transformers") from None
    oldest, first_untested = map(Version, TESTED_VLLM)
    if not oldest <= Version(vllm.__version__) < first_untested and not os.environ.get("ALLOW_UNTESTED_VLLM"):
        raise InputError(
            f"vLLM {vllm.__version__} is installed, but this code was tested with {TESTED_VLLM[0]} and "
            f"later, below {TESTED_VLLM[1]}: install one of these, or set ALLOW_UNTESTED_VLLM=1 and watch "
            "sampling/sampling_logp_difference")
    return vllm
