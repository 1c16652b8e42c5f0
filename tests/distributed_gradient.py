"""Two ranks against one process: gradient, update, metrics, sampling and a checkpoint, with micro-batches that do not come out even.

    torchrun --standalone --nproc-per-node 2 tests/distributed_gradient.py FOLDER      # run by tests/test_distributed.py
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpo  # noqa: E402
from common import (  # noqa: E402
    Rollout,
    collate,
    completion_logps,
    grpo_loss,
    load_model,
    make_sampler,
    micro_batches,
    sampling_gap,
    score_rollouts,
)
from plumbing import data, distributed  # noqa: E402
from plumbing.optimizer import MasterAdamW  # noqa: E402
from plumbing.run import Run  # noqa: E402
from plumbing.settings import parse_settings  # noqa: E402

torch.set_num_threads(1)
distributed.start()
folder, rng = Path(sys.argv[1]), random.Random(0)
rollouts = [Rollout([rng.randrange(5, 60) for _ in range(rng.randrange(3, 20))], [rng.randrange(5, 60) for _ in range(rng.randrange(1, 40))],
                    [], True, temperature=rng.choice([0.7, 1.0, 1.5]), advantage=rng.uniform(-2, 2)) for _ in range(13)]
for rollout in rollouts:
    rollout.logps = [-1.0] * len(rollout.completion_ids)
BUDGET = 100  # tokens: makes an odd number of micro-batches
count = sum(len(r.completion_ids) for r in rollouts)


def backward(model, batches):
    """-> the sums of what this rank was given."""
    sums = Counter()
    for batch in batches:
        logps, entropy = completion_logps(model, batch, batch["temperatures"])
        batch["old_per_token_logps"] = logps.detach() + 0.1 * batch["input_ids"][:, 1:].sin()  # so that the clip acts on some
        loss, statistics = grpo_loss(logps, batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"], num_tokens=count,
                                     clip_low=0.05, clip_high=0.05, entropy=entropy, entropy_coef=0.01)
        loss.backward()
        sums.update({"loss": loss.item(), "entropy": entropy.sum().item(), **statistics})
    return sums


def close(one, other, limit, what):
    error = (one - other).abs().max().item() / max(other.abs().max().item(), 1e-12)
    assert error < limit, f"rank {distributed.RANK}: {what} is off by {error:.2g}"


def whole(tensor):
    return tensor.detach().full_tensor()


# One process: everything in one batch, with this process's own copy of the model.
world, distributed.WORLD_SIZE = distributed.WORLD_SIZE, 1
alone, tokenizer = load_model("tiny/model")
batch = collate(rollouts)
expected = backward(alone, [batch])
expected_gap = sampling_gap([batch], 0, 100)
gradients = {name: weight.grad.clone() for name, weight in alone.named_parameters()}
optimizer = MasterAdamW(alone, 1e-3, 0.1)
expected_length = [optimizer.step(1e-3, 0.5)]
distributed.WORLD_SIZE = world

# Two: the same, micro-batches dealt out. 13 rollouts make an odd number of micro-batches, so one rank has an empty one.
model, _ = load_model("tiny/model", gradient_checkpointing=True)
batches = [collate(part) for part in micro_batches(rollouts, BUDGET)]
sizes = distributed.all_gather([len(b["input_ids"]) for b in batches])
assert len(sizes[0]) == len(sizes[1]) > 1 and sum(map(sum, sizes)) == len(rollouts) + 1, sizes
model.train()
sums = distributed.sum_over_ranks(backward(model, batches))
assert sums.keys() == expected.keys()
assert all(abs(sums[name] - expected[name]) < 1e-4 * max(1, abs(expected[name])) for name in sums), (sums, expected)
assert sums["clip_ratio/low_mean"] + sums["clip_ratio/high_mean"] > 0
gap = sampling_gap(batches, 0, 100)
assert all(abs(gap[name] / expected_gap[name] - 1) < 1e-5 for name in gap), (gap, expected_gap)
for name, weight in model.named_parameters():
    close(whole(weight.grad) * world, gradients[name], 1e-5, f"gradient of {name}")
sharded = MasterAdamW(model, 1e-3, 0.1)
length = [sharded.step(1e-3, 0.5)]
model.eval()
for name, weight in model.named_parameters():
    close(whole(weight), alone.get_parameter(name).detach(), 1e-4, f"updated {name}")

# Both ranks get the same samples, in order, although their own are not equally long; they are those of the updated model.
sampler = make_sampler("transformers", model, tokenizer, 64)
contexts = [r.prompt_ids for r in rollouts[:7]]
sampler.sync()
drawn = sampler.generate(contexts, 3, [0.5, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0], 24, seed=3)
sampler.sleep()
assert [r.prompt_ids for r in drawn] == [c for c in contexts for _ in range(3)] and drawn[3].temperature == 1.0 and drawn[7].temperature == 1.5
assert len({str([r.completion_ids for r in theirs]) for theirs in distributed.all_gather(drawn)}) == 1
with torch.no_grad():
    distributed.WORLD_SIZE = 1
    batch = collate(drawn)
    logps = completion_logps(alone, batch, batch["temperatures"])[0]
    distributed.WORLD_SIZE = world
    close(batch["sampling_per_token_logps"] * batch["completion_mask"], logps, 1e-3, "log-probability of what was drawn")
counts, texts = Counter(), ["\\boxed{1}", "\\boxed{2}", "no box", "\\boxed{4}", "\\boxed{5}"]
answers = [Rollout([], tokenizer(text).input_ids, [], True) for text in texts]
score_rollouts(answers, ["1", "9", "1", "4", "9"], tokenizer, counts=counts)
assert [r.reward for r in answers] == [1, 0, 0, 1, 0] and counts["verify/no_answer"] == 1, counts

# An answer that is timed out on one rank alone is dropped on both: their problems are the same.
(folder / "data.jsonl").write_text("".join(json.dumps({"problem": str(i), "answer": str(i)}) + "\n" for i in range(7)))
data.readable, real = lambda golds: [distributed.RANK == 0 or gold != "3" for gold in golds], data.readable
read = distributed.all_gather([p["id"] for p in data.load_problems(folder / "data.jsonl", tokenizer)])
data.readable = real
assert read == [[0, 1, 2, 4, 5, 6]] * 2, read

# A checkpoint is whole: one process can take it up, and so can two.
SETTINGS = grpo.SETTINGS | {"lr": (0.0, 1e-3, ""), "weight_decay": (0.0, 0.1, ""), "beta": (0.0, 0.0, ""), "steps": (0, 1, "")}
run = Run(parse_settings("", SETTINGS, ["--out", str(folder / "run")]), __file__)
for own, weight in zip(run.optimizer.masters, sharded.masters, strict=True):
    own.copy_(weight)
run.model.load_state_dict(model.state_dict())
run.optimizer.adam.load_state_dict(sharded.adam.state_dict())
run.log(0, {"loss": 1.0})
run.log(1, {"loss": 1.0})
run.save(1)
if distributed.is_main():
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2
again = Run(parse_settings("", SETTINGS, ["--resume", str(folder / "run")]), __file__)
again.restore()
assert again.done == 1
for some, opt in ((model, sharded), (again.model, again.optimizer)):
    backward(some, [collate(part) for part in micro_batches(rollouts, BUDGET)])
    opt.step(1e-3, 0.5)
for name, weight in again.model.named_parameters():
    close(whole(weight), whole(model.get_parameter(name)), 1e-6, f"{name} after a resume")
expected = {name: whole(weight) for name, weight in model.named_parameters()}
if distributed.is_main():
    distributed.WORLD_SIZE = 1
    single = Run(parse_settings("", SETTINGS, ["--resume", str(folder / "run")]), __file__)
    single.restore()
    backward(single.model, [collate(rollouts)])
    single.optimizer.step(1e-3, 0.5)
    for name, weight in single.model.named_parameters():
        close(weight.detach(), expected[name], 1e-4, f"{name} after a resume by one process")
    distributed.WORLD_SIZE = world
print("ranks agree", flush=True)
