"""The optimizer: AdamW that sums up steps too small for bfloat16."""

import contextlib
import functools
from pathlib import Path

import torch

from plumbing import InputError, distributed


@contextlib.contextmanager
def torch_threads(count):
    """An engine in this process leaves torch a single thread; work on the host wants them all."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_up(sums, i, weight):
    """Move a weight's gradient to the float32 sum at sums[i]."""
    if i in sums:
        sums[i] += weight.grad
    else:
        sums[i] = weight.grad.float()
    weight.grad = None


class MasterAdamW:
    """AdamW that owns float32 copies ("masters") of the weights it updates.

    A bfloat16 weight cannot take a step of 1e-6: 98 of 100 such steps round to nothing. So the model computes
    in its own precision, the optimizer sums the steps up in float32 and hands back what they come to. The
    same holds for gradients: those of several hundred micro-batches are added up in float32. masters: "gpu",
    or "cpu" to keep masters and moments, 12 bytes a parameter, out of the GPU's memory; threads: of the
    host's step. Weights that are float32 in that place already are their own masters.
    """

    def __init__(self, model, lr, weight_decay, masters="gpu", beta2=0.999, threads=0):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.threads = threads or torch.get_num_threads()
        device = {"gpu": None, "cpu": "cpu"}[masters]
        self.masters = [w.detach().to(device or w.device, torch.float32) for w in self.weights]
        self.adam = torch.optim.AdamW(
            self.masters, lr=lr, betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
        self.sums = {}  # {place of a weight: its gradient so far}, where its own is not in float32
        for i, weight in enumerate(self.weights):
            if weight.dtype != torch.float32:
                weight.register_post_accumulate_grad_hook(functools.partial(add_up, self.sums, i))
        self.buffers = {}

    def gradients(self):
        """What backward() has added up since the last step -> {place of a weight: gradient}, in order."""
        own = {i: weight.grad for i, weight in enumerate(self.weights) if weight.grad is not None}
        return dict(sorted((own | self.sums).items()))

    def step(self, lr, max_grad_norm):
        """Shorten the gradients to max_grad_norm, update, clear them -> their norm before, as a number."""
        distributed.sum_gradients(self.weights)
        gradients = self.gradients()
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        shorten = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self.sums.clear()
        for group in self.adam.param_groups:
            group["lr"] = lr
        with torch_threads(self.threads):
            for i in list(gradients):  # one at a time: each is gone before the next is moved
                self._update(self.weights[i], self.masters[i], gradients.pop(i).mul_(shorten))
        return distributed.number(norm)

    @torch.no_grad()
    def _update(self, weight, master, gradient):
        weight.grad = None
        master.grad = self._moved(gradient, master.device, torch.float32)
        self.adam.step()  # passes over the masters that have no gradient
        master.grad = None
        if weight.data_ptr() != master.data_ptr():
            weight.copy_(self._moved(master, weight.device, weight.dtype))

    def _moved(self, tensor, device, dtype):
        """A tensor from where it is fast to copy to a device: itself if it is there, else in memory that is
        kept and pinned. To allocate and pin that anew for every weight takes longer than the update."""
        if tensor.device == device:
            return tensor
        if dtype not in self.buffers:
            largest = max(weight.numel() for weight in self.weights)
            self.buffers[dtype] = torch.empty(largest, dtype=dtype, pin_memory=torch.cuda.is_available())
        return self.buffers[dtype][: tensor.numel()].view(tensor.shape).copy_(tensor)

    def save(self, folder):
        """Write this rank's part of masters and moments to `folder` -> the file."""
        file = Path(folder) / f"optimizer-{distributed.RANK:03d}.pt"
        state = distributed.own_shards({"adam": self.adam.state_dict(), "masters": self.masters})
        torch.serialization.set_crc32_options(False)  # half as fast with them; checkpoints have checksums
        torch.save(state, file)
        return file

    def load(self, folder):
        """Take up what the ranks of a run wrote, however many there were. Raises InputError."""
        files = sorted(Path(folder).glob("optimizer-*.pt"))
        parts = [torch.load(file, "cpu", weights_only=True, mmap=True) for file in files]  # pages are shared
        if not parts:
            raise InputError(f"{folder}: holds no optimizer-*.pt; resume from another")
        adam = parts[0]["adam"]
        for i, moments in adam["state"].items():
            for name in moments:
                shards = [part["adam"]["state"][i][name] for part in parts]
                moments[name] = distributed.joined(shards, self.masters[i])
        self.adam.load_state_dict(adam)
        with torch.no_grad():
            for i, (weight, master) in enumerate(zip(self.weights, self.masters, strict=True)):
                master.copy_(distributed.joined([part["masters"][i] for part in parts], master))
                weight.copy_(master)
