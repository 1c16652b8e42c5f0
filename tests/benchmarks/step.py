"""Whole GRPO steps on the tiny model: this repository's grpo.py against TRL's GRPOTrainer, same work, one CPU thread each.

    pip install -r tests/benchmarks/requirements.txt
    python tests/benchmarks/step.py             # three rounds of both in turn, some minutes

Same work: 64 questions of tiny/train.jsonl a step, 8 responses each of at most 96 tokens at temperature 1, rewards from common.verify, no KL,
token mean, one AdamW update a batch at lr 2e-4, in float32. Each round starts both programs anew; a program's first step, which warms up, does
not count, nor do start-up, evaluation and checkpoints. Both learn: the mean reward of the counted steps is shown as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
MAX_TOKENS, LR = 96, 2e-4


def run_ours(steps, out):
    command = [sys.executable, "grpo.py", "--steps", str(steps), "--max-tokens", str(MAX_TOKENS), "--lr", str(LR), "--eval-sets",
               "--save-every", "1000", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{"seconds": sum(row[f"time/{part}"] for part in ("sync", "sample", "verify", "train")), "reward": row["reward"],
             "length": row["completions/mean_length"]} for row in rows if row["step"] > 0]


def run_trl(steps, out):
    command = [sys.executable, __file__, "--trl", str(out), "--steps", str(steps)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads((out / "steps.json").read_text())


def trl_side(steps, out):
    """Runs in a process of its own."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from common import load_model, verify

    torch.set_num_threads(1)
    model, tokenizer = load_model("tiny/model")
    rows = [json.loads(line) for line in (ROOT / "tiny/train.jsonl").read_text().splitlines()]
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": row["problem"]}], "answer": row["answer"]} for row in rows])
    times = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            times.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            times[-1] = time.perf_counter() - times[-1]

    def reward(completions, answer, **_):
        return verify([c[0]["content"] for c in completions], answer)

    config = GRPOConfig(
        output_dir=str(out / "trl"), use_cpu=True, bf16=False, max_steps=steps, per_device_train_batch_size=64, gradient_accumulation_steps=8,
        num_generations=8, max_completion_length=MAX_TOKENS, temperature=1.0, top_k=0, top_p=1.0, beta=0.0, epsilon=0.2, epsilon_high=0.28,
        loss_type="dapo", num_iterations=1, learning_rate=LR, lr_scheduler_type="constant_with_warmup", warmup_steps=10, weight_decay=0.0,
        max_grad_norm=0.5, gradient_checkpointing=False, save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True, seed=0)
    trainer = GRPOTrainer(model, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
    trainer.train()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    steps = [{"seconds": s, "reward": row["reward"], "length": row["completions/mean_length"]} for s, row in zip(times, logs, strict=True)]
    (out / "steps.json").write_text(json.dumps(steps))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trl:
        return trl_side(args.steps, Path(args.trl))
    found = {"grpo.py": [], "TRL": []}
    for _ in range(args.rounds):
        for name, run in ("grpo.py", run_ours), ("TRL", run_trl):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                out.mkdir()
                found[name].append(run(args.steps, out)[1:])
    print("| | seconds a step, median (least to most) | reward | mean length |\n|---|---|---|---|")
    for name, rounds in found.items():
        rows = [row for part in rounds for row in part]
        seconds = [row["seconds"] for row in rows]
        reward, length = (statistics.fmean(row[key] for row in rows) for key in ("reward", "length"))
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {reward:.2f} | {length:.1f} |")
    medians = {name: [statistics.median(row["seconds"] for row in part) for part in rounds] for name, rounds in found.items()}
    ratios = sorted(b / a for a, b in zip(medians["grpo.py"], medians["TRL"]))
    print(f"\ngrpo.py does {statistics.median(ratios):.1f} times TRL's steps a second (rounds: {', '.join(f'{r:.1f}' for r in ratios)})")


if __name__ == "__main__":
    main()
