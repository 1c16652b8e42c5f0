"""Two ranks that share one sharded model, each with an engine of its own: after every update both engines sample with the new weights.

    torchrun --standalone --nproc-per-node 2 tests/vllm_distributed.py 1      # run by tests/vllm_engine.py; 2: one engine split over both ranks
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from common import VLLMSampler
from plumbing import distributed
from vllm_models import contexts, largest_gap, make

distributed.WORLD_SIZE = 1  # the engine is what is tested here: models are loaded whole, one is sharded below, and each rank draws its own samples
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world, tensor_parallel = dist.get_rank(), dist.get_world_size(), int(sys.argv[1])
plain, tokenizer = make("tiny")  # a whole copy on every rank, to compare with
model, _ = make("tiny")
mesh = init_device_mesh("cpu", (world,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
sampler = VLLMSampler(model, tokenizer, rows=64, tensor_parallel=tensor_parallel)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
turn = rank // tensor_parallel  # engines have prompts of their own; the ranks of one engine ask for the same samples
prompts = contexts(plain, 8, 4, 24, seed=turn) + contexts(plain, 2, 150, 180, seed=10 + turn)
for step in range(4):
    sampler.sync()
    rollouts = sampler.generate(prompts, 4, [0.7, 1.3] * 5, 32, seed=100 * step + turn)
    gap = largest_gap(plain, rollouts)
    assert gap < 1e-4, f"rank {rank} step {step}: the engine is {gap} nats away from the model"
    print(f"rank {rank} step {step} in step", flush=True)
    ids = torch.tensor([(r.prompt_ids + r.completion_ids)[:4] for r in rollouts])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    plain.load_state_dict({name: weight.full_tensor().detach() for name, weight in model.named_parameters()})
    assert largest_gap(plain, rollouts) > 0.1  # the update moved the model, so that the next check means something
sampler.close()
