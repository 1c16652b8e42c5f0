"""Two ways to use old right answers that the PrefixRL paper compares with, built around prefix_rl.py's own loop.

    python results/prefix_rl_baselines.py sft --traces T --out FOLDER        supervised training on the traces, then RL on the questions alone
    python results/prefix_rl_baselines.py weighted --traces T --out FOLDER   RL on the questions, the trace a member of every group, weighted by
                                                                             p(model) / p(model that wrote it), token by token, up to CAP

Other flags go to prefix_rl.py. How the paper trained on the traces, and what it cut the weights at, was not found: EPOCHS, BATCH, LR and CAP are
ours. The token weights leave out that the traces were selected for being right, as the paper's do.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import prefix_rl  # noqa: E402
from common import (  # noqa: E402
    Rollout,  # noqa: E402
    collate,
    completion_logps,
    load_model,
)
from plumbing import derive_seed  # noqa: E402
from plumbing.data import Shuffled, load_problems  # noqa: E402
from plumbing.records import read_record  # noqa: E402

EPOCHS, BATCH, LR = 4, 8, 8e-4
CAP = 2.0
TINY = {name: row[1] for name, row in prefix_rl.SETTINGS.items()} | {"model": "tiny/model"}


def flag(name, given):
    """The value of a flag among those that were given, or the tiny setting."""
    return type(TINY[name.replace("-", "_")])(given[given.index(f"--{name}") + 1]) if f"--{name}" in given else TINY[name.replace("-", "_")]


def traces_of(given, model, tokenizer):
    """The traces as Rollouts with the log-probabilities of the model that wrote them, by the text of the question."""
    problems = {p["id"]: p for p in load_problems(TINY["data"], tokenizer)}
    found = [(problems[line["id"]], line["trace"]) for line in read_record(flag("traces", given)) if "trace" in line]
    rollouts = [Rollout(p["prompt_ids"], trace, [0.0] * len(trace), True, advantage=1.0) for p, trace in found]
    with torch.no_grad():
        for rollout in rollouts:
            batch = collate([rollout], model.device)
            logps = completion_logps(model, batch, batch["temperatures"])[0]
            rollout.logps = logps[batch["completion_mask"]].tolist()
    return rollouts


def supervised(given, out):
    """Next-token prediction on the traces, their questions not scored -> folder of the model, and the operations it took."""
    model, tokenizer = load_model(TINY["model"])
    rollouts, parameters = traces_of(given, model, tokenizer), sum(weight.numel() for weight in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    order, tokens = Shuffled(rollouts, derive_seed(flag("seed", given), "sft")), 0
    for _ in range(EPOCHS * len(rollouts) // BATCH):
        part = order.draw(BATCH)
        batch = collate(part, model.device)
        logps, _ = completion_logps(model, batch, batch["temperatures"])
        (-logps.sum() / batch["completion_mask"].sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(r.prompt_ids) + len(r.completion_ids) for r in part)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return prefix_rl.flops(parameters, tokens, training=True)


def spelled_out(given):
    """All tiny settings as flags, for a model that is not the embedded one; what was given comes after them, and counts."""
    flags = []
    for name, value in TINY.items():
        if isinstance(value, bool):
            flags.append(f"--{name.replace('_', '-')}" if value else f"--no-{name.replace('_', '-')}")
        elif name != "compare":
            flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return [*flags, *given]


def main(kind, given):
    torch.set_num_threads(1)
    where = "--resume" if "--resume" in given else "--out"
    taught = Path(given[given.index(where) + 1] + "-taught")
    lines = read_record(flag("traces", given))
    model, tokenizer = load_model(TINY["model"])
    parameters = sum(weight.numel() for weight in model.parameters())
    spent = prefix_rl.flops(parameters, sum(line["tokens"] for line in lines), training=False)
    if kind == "sft":
        spent += supervised(given, taught)
        return prefix_rl.main(spelled_out([*given, "--model", str(taught), "--arm", "plain", "--flops-before", str(spent)]))
    traces = {tuple(rollout.prompt_ids): rollout for rollout in traces_of(given, model, tokenizer)}
    size, score = flag("group-size", given), prefix_rl.score_joined

    def with_traces(rollouts, *others):
        """The last response of every group gives way to the trace of its question."""
        for i in range(size - 1, len(rollouts), size):
            trace = traces[tuple(rollouts[i].prompt_ids)]
            rollouts[i] = Rollout(trace.prompt_ids, trace.completion_ids, trace.logps, True, temperature=rollouts[i].temperature)
        score(rollouts, *others)

    prefix_rl.score_joined = with_traces
    weights = ["--importance-cap", str(CAP), "--max-logp-gap", "1e9"]  # the gap between model and traces is meant to be there
    return prefix_rl.main([*given, "--arm", "plain", "--compare", "--flops-before", str(spent), *weights])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
