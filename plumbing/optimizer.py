"""The optimizer: AdamW that sums up steps too small for bfloat16."""

import torch

from plumbing import distributed


class MasterAdamW:
    """AdamW that owns float32 copies ("masters") of the weights it updates.

    A bfloat16 weight cannot take a step of 1e-6: 98 of 100 such steps round to nothing. So the model computes
    in its own precision, the optimizer sums the steps up in float32 and hands back what they come to.
    masters: "gpu", or "cpu" to keep masters and moments, 12 bytes a parameter, out of the GPU's memory.
    Weights that are float32 in that place already are their own masters.
    """

    def __init__(self, model, lr, weight_decay, masters="gpu", beta2=0.999):
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        device = {"gpu": None, "cpu": "cpu"}[masters]
        self.masters = [weight.detach().to(device or weight.device, torch.float32) for weight in self.weights]
        self.adam = torch.optim.AdamW(
            self.masters, lr=lr, betas=(0.9, beta2), weight_decay=weight_decay, fused=True)

    def step(self, lr, max_grad_norm):
        """Shorten the gradients to max_grad_norm, update, clear them -> their norm before, as a number."""
        distributed.sum_gradients(self.weights)
        norm = distributed.full_tensors(torch.nn.utils.clip_grad_norm_(self.weights, max_grad_norm)).item()
        for group in self.adam.param_groups:
            group["lr"] = lr
        for weight, master in zip(self.weights, self.masters, strict=True):  # one float32 gradient at a time
            if weight.grad is not None:
                master.grad = weight.grad.to(master.device, torch.float32)
                weight.grad = None
                self.adam.step()  # passes over the masters that have no gradient
                master.grad = None
                weight.data.copy_(master)
        return norm

    def state_dict(self):
        return distributed.full_tensors({"adam": self.adam.state_dict(), "masters": self.masters})

    def load_state_dict(self, state):
        for i, moments in state["adam"]["state"].items():
            for name, tensor in moments.items():
                moments[name] = distributed.shard_like(tensor, self.masters[i])
        self.adam.load_state_dict(state["adam"])
        for weight, master, saved in zip(self.weights, self.masters, state["masters"], strict=True):
            master.copy_(distributed.shard_like(saved, master))
            weight.data.copy_(master)
