"""GRPO, the baseline: Group Relative Policy Optimization. arXiv 2402.03300 (DeepSeekMath), 2503.14476 (DAPO).

    python grpo.py                                  the tiny model on a laptop CPU, a few minutes
    python grpo.py --model Qwen/Qwen2.5-Math-7B     the same code with the left column of the settings below
    torchrun --standalone --nproc-per-node 8 grpo.py --model Qwen/Qwen2.5-Math-7B      the same on eight GPUs

Take a question, let the model answer it G times, check every answer, and make the tokens of
better-than-average answers likelier:

    rewards     r_i = 1 if the last box of response i is worth the same as the known answer, else 0;
                0 if it was cut off
    advantages  A_i = (r_i - mean(r)) / (std(r) + 1e-4)               over the G responses of one question
    ratio       exp(per_token_logps - old_per_token_logps): the model's, and those of the model that sampled
    loss        - sum over response tokens of min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)
                / number of response tokens

Which tokens: every token that was sampled, the first and the end-of-sequence token included; the prompt
never. A group whose answers are all right or all wrong, a zero-variance group, has A = 0 and teaches nothing.
That is the stall the other scripts get past.

Differences from DeepSeekMath, all of them flags: no KL term to a reference model (--beta), every token of the
batch weighs the same instead of every response (--loss-type), the upper clip is wider than the lower
(--clip-high), one update for each batch of samples (--updates-per-batch). Left out: DAPO's refilling of
zero-variance groups and its penalty for overlong responses.

Expect on the tiny model: in 100 steps 22 points on held-out problems and 31 on longer ones, both flattening,
with three of four groups of zero variance: the stall.
"""

from collections import Counter

import torch

from common import (
    LOSS_TYPES, collate, completion_logps, group_advantages, grpo_loss, importance_weights, micro_batches,
    reference_logps, sampling_gap, score_rollouts)
from plumbing import derive_seed
from plumbing.data import Shuffled
from plumbing.distributed import sum_over_ranks
from plumbing.run import Run
from plumbing.settings import one_line_errors, parse_settings

SETTINGS = {
    # name: (with --model, tiny, meaning; source of the left value); more in plumbing/settings.py
    "data": ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
             "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]"),
    "instruction": ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                    "text after each question; Qwen2.5-Math's own"),
    "steps": (300, 100, "batches of samples to learn from; ours"),
    "prompts_per_step": (128, 48, "questions in a batch; ours"),
    "group_size": (16, 8, "responses to each question, G; DAPO section 4.1"),
    "temperature": (1.0, 1.0, "sampling temperature in training; DAPO's code"),
    "max_tokens": (3000, 52, "longest response; what fits Qwen2.5-Math's context of 4096"),
    "lr": (1e-6, 1e-4, "learning rate of AdamW; DAPO section 4.1"),
    "warmup_steps": (20, 10, "steps over which the learning rate rises to its value; DAPO section 4.1"),
    "weight_decay": (0.1, 0.0, "AdamW's; DAPO's code"),
    "max_grad_norm": (1.0, 0.5, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over a batch, an optimizer step each; ours (1: the clip never acts)"),
    "clip_low": (0.2, 0.2, "how far the ratio may fall below 1; DAPO section 4.1"),
    "clip_high": (0.28, 0.28, "how far the ratio may rise above 1; DAPO section 4.1"),
    "scale_by_std": (True, True, "divide advantages by the group's standard deviation; DeepSeekMath 4.1.2"),
    "loss_type": ("token-mean", "token-mean", "what weighs the same in it; DAPO section 3.3", LOSS_TYPES),
    "beta": (0.0, 0.0, "weight of the KL term to the starting model; DAPO section 2.3"),
    "entropy_coef": (0.0, 0.0, "weight of an entropy bonus; DAPO uses none"),
    "eval_every": (20, 25, "steps between evaluations (one comes before step 1 and one at the end)"),
    "eval_samples": (2, 4, "responses to each held-out question; ours"),
    "final_eval_samples": (32, 0, "the same, before and after training, 0: as many; DAPO section 4.1"),
    "eval_temperature": (1.0, 1.0, "sampling temperature in evaluation; ours: as in training"),
}


@one_line_errors
def main(argv=None):
    # ---- (a) set up ----------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    run = Run(args, __file__)
    model, tokenizer, sampler = run.model, run.tokenizer, run.sampler
    order = Shuffled(run.problems, args.seed)
    run.restore(order=order)

    for step in run.steps():
        # ---- (b) sample ------------------------------------------------------------------------------------
        run.phase("sync")
        sampler.sync()
        run.phase("sample")
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]
        golds = [q["answer"] for q in questions for _ in range(args.group_size)]
        seed = derive_seed(args.seed, "sample", step)
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, seed)
        sampler.sleep()

        # ---- (c) verify and advantage ----------------------------------------------------------------------
        run.phase("verify")
        counts = Counter()
        score_rollouts(rollouts, golds, tokenizer, run.reward, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage

        # ---- (d) update ------------------------------------------------------------------------------------
        run.phase("train")
        # Advantage 0 means gradient 0: not computed, but its tokens count in the loss's divisor.
        trained = rollouts if args.beta or args.entropy_coef else [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # no signal: the weights stay
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # these weights sampled: the ratio starts at 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    batch["importance_weights"] = importance_weights(batch, args.importance_cap)
                    batch["ref_per_token_logps"] = reference_logps(run.reference, batch)
                    sums["entropy"] += entropy.detach().sum().item()
                loss, statistics = grpo_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"],
                    batch["completion_mask"], clip_low=args.clip_low, clip_high=args.clip_high,
                    importance_weights=batch["importance_weights"], loss_type=args.loss_type,
                    num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
                    ref_per_token_logps=batch["ref_per_token_logps"], entropy_coef=args.entropy_coef,
                    entropy=entropy)
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            run.check_finite(step, batches, sums)
            gap = gap or sampling_gap(batches, step, run.max_logp_gap)
            grad_norm = run.optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = sum_over_ranks(sums)  # under torchrun, each rank has summed over its own micro-batches

        # ---- (e) log, evaluate, save -----------------------------------------------------------------------
        if step == 1:
            run.show_example(rollouts, golds, args.group_size)
        metrics = run.shared_metrics(rewards, rollouts, batches, sums)
        metrics |= {**gap, "grad_norm": grad_norm, "lr": lr, **counts}
        run.finish_step(step, metrics, order=order)
    run.finish()


if __name__ == "__main__":
    main()
