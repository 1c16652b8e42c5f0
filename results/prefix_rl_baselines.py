"""Two ways to use old right answers that the PrefixRL paper compares with, built around prefix_rl.py's own
loop.

    python results/prefix_rl_baselines.py sft --traces T --out FOLDER
        supervised training on the traces, then RL on the questions alone
    python results/prefix_rl_baselines.py weighted --traces T --out FOLDER
        RL on the questions, the trace a member of every group, weighted by p(model) / p(model that wrote it),
        token by token, up to CAP
    python results/prefix_rl_baselines.py search T...
        success after supervised training alone, on the traces' questions and on tiny/test.jsonl, by learning
        rate and epochs, as the mean over some runs' traces

Other flags go to prefix_rl.py. How the paper trained on the traces, and what it cut the weights at, was not
found: EPOCHS, BATCH, LR and CAP are ours. Of eight pairs of LR and EPOCHS this one has the highest sum of
both successes (seeds 10 to 12; docs/prefix_rl.md). The paper's weights approximate the share of answers that
were accepted as traces (F.1.1), by a formula that was not found; ours leave it out. num_tokens and flops are
those of the groups that are trained on, the trace in place of the response that gives way: G - 1 would do.
"""

import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import prefix_rl_variants
import torch
from analysis import Analyst

import prefix_rl
from common import Rollout, collate, completion_logps, load_model
from plumbing import derive_seed
from plumbing.data import Shuffled, load_problems
from plumbing.records import read_record
from plumbing.settings import parse_settings

EPOCHS, BATCH, LR = 12, 8, 4e-4
CAP = 2.0
SEARCHED = (2e-4, 4e-4, 8e-4, 1.6e-3), (4, 12)  # values of LR and of EPOCHS


def bought(args):
    """The lines of --traces that have a trace, as many as prefix_rl.py takes."""
    return [line for line in read_record(args.traces) if "trace" in line][: args.questions]


def traces_of(args, model, tokenizer):
    """The traces as Rollouts, with the log-probabilities of the model that wrote them."""
    problems = {p["id"]: p for p in load_problems(args.data, tokenizer)}
    rollouts = []
    for line in bought(args):
        ids, trace = problems[line["id"]]["prompt_ids"], line["trace"]
        rollouts.append(Rollout(ids, trace, [0.0] * len(trace), True, advantage=1.0))
    with torch.no_grad():
        for rollout in rollouts:
            batch = collate([rollout], model.device)
            logps = completion_logps(model, batch, batch["temperatures"])[0]
            rollout.logps = logps[batch["completion_mask"]].tolist()
    return rollouts


def supervised(args, out, lr=LR, epochs=EPOCHS):
    """Next-token prediction on the traces, their questions not scored; the model goes to out -> operations it
    took."""
    model, tokenizer = load_model(args.model)
    rollouts, parameters = (
        traces_of(args, model, tokenizer),
        sum(weight.numel() for weight in model.parameters()),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    order, tokens = Shuffled(rollouts, derive_seed(args.seed, "sft")), 0
    for _ in range(epochs * len(rollouts) // BATCH):
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


def search(records):
    """Print a row for each pair of SEARCHED. records: traces.jsonl of some runs."""
    for lr, epochs in itertools.product(*SEARCHED):
        solved, kept = [], []
        for record in records:
            args = parse_settings("", prefix_rl.SETTINGS, ["--traces", record])
            names = {line["id"] for line in bought(args)}
            with tempfile.TemporaryDirectory() as out:
                supervised(args, out, lr, epochs)
                model = Analyst(out, vars(args))
            questions = [p for p in model.problems(args.data) if p["id"] in names]
            solved.append(statistics.fmean(model.asked(questions, 16, "unsolved")))
            kept.append(statistics.fmean(model.asked(model.problems("tiny/test.jsonl"), 2, "test")))
        both = " | ".join(f"{100 * statistics.fmean(some):.1f}" for some in (solved, kept))
        print(f"| {lr:g} | {epochs} | {both} |", flush=True)


def put_in_traces(args, model, tokenizer):
    """In the place of prefix_rl.score_joined, so that every group has the trace of its question."""
    traces = {tuple(rollout.prompt_ids): rollout for rollout in traces_of(args, model, tokenizer)}
    size, score = args.group_size, prefix_rl.score_joined

    def with_traces(rollouts, *others):
        """The last response of every group gives way to the trace of its question."""
        for i in range(size - 1, len(rollouts), size):
            trace, heat = traces[tuple(rollouts[i].prompt_ids)], rollouts[i].temperature
            rollouts[i] = Rollout(trace.prompt_ids, trace.completion_ids, trace.logps, True, temperature=heat)
        score(rollouts, *others)

    prefix_rl.score_joined = with_traces


def main(kind, given):
    """kind: "sft" or "weighted". given: flags of prefix_rl.py, and --traces. Of "search": records."""
    torch.set_num_threads(1)
    if kind == "search":
        return search(given)
    folder = given[given.index("--resume" if "--resume" in given else "--out") + 1]
    plain = [word for word in given if word not in ("--resume", "--out", folder)]
    args = parse_settings("", prefix_rl.SETTINGS, plain)
    model, tokenizer = load_model(args.model)
    parameters = sum(weight.numel() for weight in model.parameters())
    tokens = sum(line["tokens"] for line in read_record(args.traces))
    spent = prefix_rl.flops(parameters, tokens, training=False)
    prefix_rl_variants.install()
    if kind == "sft":
        taught = Path(f"{folder}-taught")
        spent += supervised(args, taught)
        more = ["--model", str(taught), "--tiny"]
    else:
        put_in_traces(args, model, tokenizer)
        more = ["--importance-cap", str(CAP), "--max-logp-gap", "1e9"]  # model and traces are meant to differ
    prefix_rl_variants.BEFORE.update(flops=float(spent), num_tokens=tokens)
    prefix_rl.main([*given, "--arm", "plain", "--compare", *more])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
