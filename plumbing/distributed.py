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
import functools
import itertools
import os
import sys
import time
import types
from collections import Counter
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
# A rank that dies ends the others through torchrun. Waiting for one that is still sampling is no error.
PATIENCE = timedelta(hours=12)
STARTS = itertools.count()


def is_main():
    """Whether this rank is the one that prints and writes files."""
    return RANK == 0


@functools.cache
def meeting_point():
    """The store of torchrun, in which ranks find each other."""
    store, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
    store.set_timeout(PATIENCE)
    return store


def start():
    """Join the other ranks, if torchrun started this process: once for each arm that is trained."""
    if WORLD_SIZE == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # An engine that ends takes the group along. Under the same keys, ranks would meet that one's addresses.
    keys = dist.PrefixStore(f"start {next(STARTS)}", meeting_point())
    dist.init_process_group(backend, store=keys, rank=RANK, world_size=WORLD_SIZE, timeout=PATIENCE)
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
    if WORLD_SIZE == 1:
        return work(items)
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
        self.room = min(all_gather(sampler.room))  # engines fit theirs to what memory is free

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

    def generate(self, contexts, n, temperature, max_tokens, seed, keep=None):
        """As common.TransformersSampler.generate. keep: each rank keeps of its own, and that is exchanged."""
        temperatures = temperature if isinstance(temperature, list) else [temperature] * len(contexts)
        engines, engine = WORLD_SIZE // self.tensor_parallel, RANK // self.tensor_parallel
        mine, heats = contexts[engine::engines], temperatures[engine::engines]
        seed = (seed + engine) % 2**63  # each engine's own

        def place(source, i):
            """Where sample i of an engine belongs."""
            return (source + engines * (i // n)) * n + i % n

        def keep_mine(rollouts, places):
            return keep(rollouts, [place(engine, i) for i in places])

        drawn = []
        if mine:
            drawn = self.sampler.generate(mine, n, heats, max_tokens, seed, keep and keep_mine)
        everything = [None] * (len(contexts) * n)
        for source, part in enumerate(all_gather(drawn)[:: self.tensor_parallel]):
            for i, one in enumerate(part):
                everything[place(source, i)] = one
        if not keep:
            for i, rollout in enumerate(everything):
                rollout.prompt_ids = contexts[i // n]
        return everything


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
    """Sharded tensors of a dict in one piece, in the main rank's memory; None elsewhere. A collective."""
    whole = {}
    for name, tensor in state.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()  # one at a time is whole on every rank
            tensor = tensor.cpu() if is_main() else None
        whole[name] = tensor
    return whole


def number(tensor):
    """The number in a tensor, which may be a sharded one. A collective."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).item()


def own_shards(state):
    """What this rank has of tensors: nested dicts and lists, shards as plain tensors."""
    if isinstance(state, dict):
        return {name: own_shards(part) for name, part in state.items()}
    if isinstance(state, list):
        return [own_shards(part) for part in state]
    return state.to_local() if isinstance(state, DTensor) else state


def joined(shards, like):
    """A tensor of which each rank of some run had a shard, laid out as `like`, in memory of its own."""
    tensor = torch.cat(shards) if shards[0].dim() else shards[0].clone()
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
