import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not reach for a network: a hub id then fails at once
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """The embedded model and its tokenizer. Tests must leave the weights as they are."""
    from common import TINY_MODEL, load_model

    return load_model(TINY_MODEL)
