"""Starting a vLLM engine inside the training process."""

import contextlib
import os
import socket

import torch
import torch._dynamo.config
from packaging.version import Version

from plumbing import InputError

TESTED_VLLM = ("0.32.0", "0.33")  # from, and below which: what is used here changes between versions


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
