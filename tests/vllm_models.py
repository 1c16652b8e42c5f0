"""Models to hold against the engine: the embedded Llama, and random Qwen2 and Qwen3 with tied and untied heads (head size 32)."""

from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from common import TINY_MODEL, collate, completion_logps, load_model

NAMES = ["tiny", "qwen2-tied", "qwen2-untied", "qwen3-tied", "qwen3-untied"]


def make(name):
    """-> (model, its tokenizer or what stands for one)."""
    if name == "tiny":
        return load_model(TINY_MODEL)
    kind, tied = name.split("-")
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": tied == "tied", "eos_token_id": 2, "pad_token_id": 0,
             "initializer_range": 0.2}  # large enough that what it predicts is far from uniform
    model = Qwen2ForCausalLM(Qwen2Config(**shape)) if kind == "qwen2" else Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32))
    return model.eval(), SimpleNamespace(eos_token_id=2)


def contexts(model, count, shortest, longest, seed=0):
    """Random prompts without the end token."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(5, model.config.vocab_size, (size,), generator=generator).tolist() for size in sizes]


def perturb(model, seed):
    """Change every weight, as an update would, but visibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)


def compare(model, rollouts):
    """A batch as sampling_gap() takes it, with the model's own log-probabilities beside the sampler's."""
    batch = collate(rollouts)
    with torch.no_grad():
        batch["old_per_token_logps"], _ = completion_logps(model, batch, batch["temperatures"])
    return batch


def largest_gap(model, rollouts):
    batch = compare(model, rollouts)
    return (batch["old_per_token_logps"] - batch["sampling_per_token_logps"])[batch["completion_mask"]].abs().max().item()
