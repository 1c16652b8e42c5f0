"""The vLLM engine beside a 7B model on a GPU: is it in step, how long does a sync take, how much memory does each phase hold?

    python tests/gpu/engine.py                  # Qwen2.5-Math-7B's shape with random weights: nothing is downloaded; one 80 GB GPU
    python tests/gpu/engine.py --small          # the same lines on a model of a few thousand parameters, on a CPU as well
"""

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from common import (  # noqa: E402
    GAP_LIMITS,
    collate,
    completion_logps,
    make_sampler,  # noqa: E402
    sampling_gap,
)

SHAPE_7B = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "max_position_embeddings": 4096, "tie_word_embeddings": False, "eos_token_id": 151643}
SHAPE_SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
               "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": False, "eos_token_id": 2}


def held():
    """GB of GPU memory that are taken, by whomever: torch's own counter does not see what sleep() gives back."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU's memory for the engine")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=512)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.small:
        raise SystemExit("error: no GPU here; --small runs the same lines on a CPU")
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    with torch.device(device):
        model = Qwen2ForCausalLM(Qwen2Config(**(SHAPE_SMALL if args.small else SHAPE_7B))).eval()
    torch.set_default_dtype(torch.float32)
    print(f"{name}, torch {torch.__version__}: {sum(p.numel() for p in model.parameters()) / 1e9:.3f} B parameters; {held():.1f} GB held")

    began = time.time()
    sampler = make_sampler("vllm", model, SimpleNamespace(eos_token_id=model.config.eos_token_id), rows=256, memory=args.memory)
    print(f"engine built in {time.time() - began:.1f} s; {held():.1f} GB held")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(5, model.config.vocab_size, (args.prompts, 100), generator=generator).tolist()
    max_tokens = min(args.max_tokens, model.config.max_position_embeddings - 100)

    def sync():
        began = time.time()
        sampler.sync()
        print(f"  sync {time.time() - began:.2f} s; {held():.1f} GB held")

    def parity(what):
        rollouts = sampler.generate(prompts[:6], 2, [0.7, 1.0, 1.3] * 2, 64, seed=1)
        batch = collate(rollouts, device)
        with torch.no_grad():
            batch["old_per_token_logps"], _ = completion_logps(model, batch, batch["temperatures"])
        gap = sampling_gap([batch], 0, limit=float("inf"))
        print(f"  parity {what}: " + ", ".join(f"{metric.split('/', 1)[1]} {value:.2g}" for metric, value in gap.items()))
        mean = gap["sampling/sampling_logp_difference/mean"]
        if (mean > GAP_LIMITS[sampler.dtype]) != ("far off" in what):
            raise SystemExit(f"error: {what} the engine is {mean:.2g} nats away from the model on the mean token")

    sync()
    parity("after the first sync")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight)
    parity("after an update, before a sync (must be far off)")
    for _ in range(3):
        sync()
    parity("after a sync")
    sampler.sleep()
    print(f"asleep; {held():.1f} GB held")
    sync()
    parity("after a sleep cycle")

    for turn in range(3):
        began = time.time()
        rollouts = sampler.generate(prompts, args.group_size, 1.0, max_tokens, seed=turn)
        took, tokens = time.time() - began, sum(len(r.completion_ids) for r in rollouts)
        print(f"sampled {tokens} tokens of {len(rollouts)} responses in {took:.1f} s: {tokens / took:.0f} tokens/s; {held():.1f} GB held")
    sampler.close()
    print(f"closed; {held():.1f} GB held")


if __name__ == "__main__":
    main()
