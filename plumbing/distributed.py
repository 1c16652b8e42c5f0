"""What torchrun needs, in one place. With one process nothing here does anything.

    torchrun --standalone --nproc-per-node 8 grpo.py --model Qwen/Qwen2.5-Math-7B

Every rank runs the whole script with the same seeds on the same questions. It draws only its share of the
samples and checks only its share of the answers, but all ranks get all of them: rewards, advantages, metrics
and what a method remembers are the same everywhere, and need no thought there. Micro-batches are dealt out,
and the gradients of all ranks are added up. Weights and optimizer are sharded (FSDP2): float32 shards, which
are the masters, and a copy in the computing precision of one layer at a time. Only the main rank prints and
writes.
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

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main():
    """Whether this rank is the one that prints and writes files."""
    return RANK == 0


def start():
    """Join the other ranks, if torchrun started this process."""
    if WORLD_SIZE == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(leave)
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def leave():
    """gloo's threads let go of the last tensors with the interpreter's lock in hand, while there is one."""
    time.sleep(0.2)  # gives them the lock
    if dist.is_initialized():
        dist.destroy_process_group()


# ---- what ranks tell each other ----------------------------------------------------------------------------


def all_gather(mine):
    """What the ranks have, as a list. mine: this rank's, anything that can be pickled."""
    if WORLD_SIZE == 1:
        return [mine]
    gathered = [None] * WORLD_SIZE
    dist.all_gather_object(gathered, mine)
    return gathered


def barrier():
    """Wait until all ranks are here."""
    all_gather(None)


def sum_over_ranks(sums):
    """Sums that each rank made over its own part -> Counter of the sums over all."""
    summed = Counter()
    for mine in all_gather(dict(sums)):
        summed.update(mine)
    return summed


def split_work(items, work):
    """work(part) -> one result for each item of a part. Every rank does its part and gets all results."""
    results = [None] * len(items)
    for rank, part in enumerate(all_gather(work(items[RANK::WORLD_SIZE]))):
        results[rank::WORLD_SIZE] = part
    return results


def my_batches(batches, filler):
    """This rank's part of the batches, and `filler` where one is missing.

    Each forward pass gathers weights from all ranks, so all must make as many."""
    most = -(-len(batches) // WORLD_SIZE)
    return (batches[RANK::WORLD_SIZE] + [filler])[:most]


class ShardedSampler:
    """A sampler that draws a share of the samples with this rank's own one, and returns what all ranks drew.

    tensor_parallel: ranks that share an engine, and must ask it for the same samples.
    """

    def __init__(self, sampler, tensor_parallel=1):
        self.sampler, self.tensor_parallel, self.dtype = sampler, tensor_parallel, sampler.dtype
        self.close = sampler.close

    def sync(self):
        """Before sampling. Whoever samples with the training model needs it whole until sleep()."""
        self.sampler.sync()
        if self.sampler.samples_with_model:
            unshard(self.sampler.model)

    def sleep(self):
        """After sampling."""
        self.sampler.sleep()
        if self.sampler.samples_with_model:
            reshard(self.sampler.model)

    def generate(self, contexts, n, temperature, max_tokens, seed):
        """As common.TransformersSampler.generate."""
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        engines, engine = WORLD_SIZE // self.tensor_parallel, RANK // self.tensor_parallel
        mine, heats = contexts[engine::engines], temperatures[engine::engines]
        seed = (seed + engine) % 2**63  # each engine's own
        drawn = self.sampler.generate(mine, n, heats, max_tokens, seed) if mine else []
        rollouts = [None] * (len(contexts) * n)
        for source, part in enumerate(all_gather(drawn)[:: self.tensor_parallel]):
            for i, rollout in enumerate(part):
                context = source + engines * (i // n)
                rollout.prompt_ids = contexts[context]
                rollouts[context * n + i % n] = rollout
        return rollouts


# ---- sharded weights ---------------------------------------------------------------------------------------


def shard(model, dtype, score):
    """Spread a model's weights over the ranks, as float32; it computes in dtype.

    score: a function of the model that is to be a forward pass. Only forward passes gather weights, so a
    function that uses the output head on its own has to become one: model.score.
    """
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (WORLD_SIZE,))
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)  # temperatures stay float32
    for layer in model.base_model.layers:
        fully_shard(layer.float(), mesh=mesh, mp_policy=policy)
    fully_shard(model.float(), mesh=mesh, mp_policy=policy)
    model.score = types.MethodType(score, model)
    register_fsdp_forward_method(model, "score")


def unshard(model):
    """Keep whole weights on every rank until reshard(): sampling takes many forward passes."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()


def reshard(model):
    """Go back to shards."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def sum_gradients(weights):
    """FSDP2 leaves the mean of the ranks' gradients; each was of a part of one sum."""
    for weight in weights:
        if WORLD_SIZE > 1 and weight.grad is not None:
            weight.grad.mul_(WORLD_SIZE)


def full_tensors(state):
    """Sharded tensors in one piece, on the host: a tensor, or those in a dict or list. A collective."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {name: full_tensors(part) for name, part in state.items()}
    return [full_tensors(part) for part in state] if isinstance(state, list) else state


def own_part(tensor):
    """This rank's part of a sharded tensor; another tensor is its own."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor, like):
    """This rank's shard of a whole tensor, laid out as `like`; the tensor itself if that is no shard."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
