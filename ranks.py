"""What torchrun needs, in one place. With one process nothing here does anything.

    torchrun --standalone --nproc-per-node 8 grpo.py --model Qwen/Qwen2.5-Math-7B

Every rank runs the whole script with the same seeds on the same questions. It draws only its share of the samples and checks only its share of
the answers, but all ranks get all of them: rewards, advantages, metrics and what a method remembers are the same everywhere, and need no
thought there. Micro-batches are dealt out, and the gradients of all ranks are added up. Weights and optimizer are sharded (FSDP2): float32
shards, which are the masters, and a copy in the computing precision of one layer at a time. Only the first rank prints and writes.
"""

import atexit
import os
import sys
import time
import types
from collections import Counter

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
FIRST = RANK == 0  # prints and writes files


def start():
    """Join the other ranks, if torchrun started this process."""
    if WORLD == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(leave)
    if not FIRST:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def leave():
    """gloo's threads let go of the last tensors with the interpreter's lock in hand; asking for it once it is gone aborts the process."""
    time.sleep(0.2)  # gives them the lock
    if dist.is_initialized():
        dist.destroy_process_group()


# ---- what ranks tell each other ------------------------------------------------------------------------------------------


def everyones(mine):
    """What the ranks have, as a list. mine: this rank's, anything that can be pickled."""
    if WORLD == 1:
        return [mine]
    found = [None] * WORLD
    dist.all_gather_object(found, mine)
    return found


def total(sums):
    """Sums that each rank made over its own part -> Counter of the sums over all."""
    found = Counter()
    for mine in everyones(dict(sums)):
        found.update(mine)
    return found


def shared(items, work):
    """work(part) -> one result for each item of a part. Every rank does its part of items; all get all results, in the order of items."""
    results = [None] * len(items)
    for rank, part in enumerate(everyones(work(items[RANK::WORLD]))):
        results[rank::WORLD] = part
    return results


def dealt(batches, filler):
    """This rank's part of the batches; as many on every rank, since each forward pass gathers weights from all, if need be with `filler`."""
    most = -(-len(batches) // WORLD)
    return (batches[RANK::WORLD] + [filler])[:most]


class SplitOverRanks:
    """A sampler that draws for every engines-th context with this rank's own one, and returns what all of them drew.

    tensor_parallel: ranks that share an engine, and must ask it for the same samples.
    """

    def __init__(self, sampler, tensor_parallel=1):
        self.sampler, self.tensor_parallel, self.dtype = sampler, tensor_parallel, sampler.dtype
        self.sync, self.sleep, self.close = sampler.sync, sampler.sleep, sampler.close

    def generate(self, contexts, n, temperature, max_tokens, seed):
        """As TransformersSampler.generate."""
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        engines, turn = WORLD // self.tensor_parallel, RANK // self.tensor_parallel
        mine = contexts[turn::engines]  # the seed below is the engine's own
        drawn = self.sampler.generate(mine, n, temperatures[turn::engines], max_tokens, (seed + turn) % 2**63) if mine else []
        rollouts = [None] * (len(contexts) * n)
        for place, part in enumerate(everyones(drawn)[:: self.tensor_parallel]):
            for i, rollout in enumerate(part):
                context = place + engines * (i // n)
                rollout.prompt_ids = contexts[context]
                rollouts[context * n + i % n] = rollout
        return rollouts


# ---- sharded weights -----------------------------------------------------------------------------------------------------


def shard(model, dtype, score):
    """Spread a model's weights over the ranks, as float32; it computes in dtype. score: a function of the model that is to be a forward pass.

    Only forward passes gather weights, so a function that uses the output head on its own has to become one: model.score.
    """
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (WORLD,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)  # temperatures stay float32
    for layer in model.base_model.layers:
        fully_shard(layer.float(), mesh=mesh, mp_policy=policy)
    fully_shard(model.float(), mesh=mesh, mp_policy=policy)
    model.score = types.MethodType(score, model)
    register_fsdp_forward_method(model, "score")


def gather_weights(model):
    """Keep whole weights on every rank until let_go: sampling takes as many forward passes as the rank's own samples are long."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()


def let_go(model):
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def add_up(weights):
    """FSDP2 leaves the mean of the ranks' gradients; each was of a part of one sum."""
    for weight in weights:
        if WORLD > 1 and weight.grad is not None:
            weight.grad.mul_(WORLD)


def whole(thing):
    """A sharded tensor in one piece, on the host; all of them in a dict or list. Other things are themselves. All ranks must take part."""
    if isinstance(thing, DTensor):
        return thing.full_tensor().cpu()
    if isinstance(thing, dict):
        return {name: whole(part) for name, part in thing.items()}
    return [whole(part) for part in thing] if isinstance(thing, list) else thing


def part_of(tensor, like):
    """This rank's shard of a whole tensor, laid out as `like`; the tensor itself if that is not sharded, or has another shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
