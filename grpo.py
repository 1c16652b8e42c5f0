"""GRPO, the baseline. Group Relative Policy Optimization: DeepSeekMath, arXiv 2402.03300, in the form of DAPO, arXiv 2503.14476.

    python grpo.py                                     the embedded model on a laptop CPU, a few minutes
    python grpo.py --model Qwen/Qwen2.5-Math-7B        the same code with the left column of the settings below
    torchrun --standalone --nproc-per-node 8 grpo.py --model Qwen/Qwen2.5-Math-7B      the same on eight GPUs

Take a question, let the model answer it G times, check every answer, and make the tokens of better-than-average answers likelier:

    rewards     r_i = 1 if the last box of response i is worth the same as the known answer, else 0; 0 if it was cut off
    advantages  A_i = (r_i - mean(r)) / (std(r) + 1e-4)                       over the G responses of one question
    ratio       per_token_logps are the model's, old_per_token_logps those of the model that sampled: ratio = exp(new - old)
    loss        - sum over response tokens of min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) / number of response tokens

Which tokens: every token that was sampled, the first and the end-of-sequence token included; the prompt never.
A group whose answers are all right or all wrong has A = 0 and teaches nothing. That is the stall the other scripts get past.

Differences from DeepSeekMath, all of them flags: no KL term to a reference model (--beta), every token of the batch weighs the same
instead of every response (--loss-type), the upper clip is wider than the lower (--clip-high), one update for each batch of samples
(--updates-per-batch).
Left out: DAPO's refilling of silent groups and its penalty for overlong responses.

Expect on the embedded model: held-out score up by 17 points within 80 steps, flat at the end, with six of seven groups silent: the stall.
"""

import time
from collections import Counter

import torch

from common import (
    TIMED,
    MasterAdamW,
    Run,
    collate,
    completion_logps,
    derive_seed,
    evaluate,
    fit_memory,
    group_advantages,
    grpo_loss,
    load_model,
    micro_batches,
    padded_share,
    parse_settings,
    sampling_gap,
    score_rollouts,
    show_group,
    show_roles,
)
from problems import Shuffled, load_problems, set_name
from ranks import total
from sampler import GAP_LIMITS, make_sampler, which_sampler

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "data":              ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                          "text after each question; Qwen2.5-Math's own"),
    "steps":             (300, 80, "batches of samples to learn from; ours"),
    "prompts_per_step":  (128, 64, "questions in a batch; ours"),
    "group_size":        (16, 8, "responses to each question, G; DAPO section 4.1"),
    "temperature":       (1.0, 1.0, "sampling temperature in training; DAPO's code"),
    "max_tokens":        (3000, 144, "longest response; what fits Qwen2.5-Math's context of 4096"),
    "lr":                (1e-6, 8e-4, "learning rate of AdamW; DAPO section 4.1"),
    "warmup_steps":      (20, 10, "steps over which the learning rate rises to its value; DAPO section 4.1"),
    "weight_decay":      (0.1, 0.0, "AdamW's; DAPO's code"),
    "max_grad_norm":     (1.0, 1.0, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over one batch of samples, one optimizer step each; ours (1: on policy, the clip never acts)"),
    "clip_low":          (0.2, 0.2, "how far the ratio may fall below 1; DAPO section 4.1"),
    "clip_high":         (0.28, 0.28, "how far the ratio may rise above 1; DAPO section 4.1"),
    "scale_by_std":      (True, True, "divide advantages by the group's standard deviation; DeepSeekMath section 4.1.2"),
    "loss_type":         ("token-mean", "token-mean", "what weighs the same in the batch's mean; DAPO section 3.3",
                          ("token-mean", "sequence-mean")),
    "beta":              (0.0, 0.0, "weight of the KL term to the starting model; DAPO section 2.3"),
    "entropy_coef":      (0.0, 0.0, "weight of an entropy bonus; DAPO uses none"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (20, 10, "steps between evaluations (there is one before step 1 and one at the end)"),
    "eval_samples":      (4, 4, "responses to each held-out question; ours"),
    "eval_temperature":  (1.0, 1.0, "sampling temperature in evaluation; ours: as in training"),
    "save_every":        (20, 10, "steps between checkpoints"),
    "seed":              (0, 0, "of data order and sampling"),
    "importance_cap":    (2.0, 0.0, "weigh tokens by min(p trainer / p sampler, this), 0: do not; ours, as verl's default threshold"),
    "max_logp_gap":      (0.0, 0.0, "stop if sampler and trainer differ by more nats on the mean token, 0: 1e-4 in float32, 0.1 in bfloat16"),
    "sampler":           ("auto", "auto", "what draws responses; auto: vllm if there is a GPU", ("auto", "vllm", "transformers")),
    "engine_memory":     (0.4, 0.4, "share of the GPU's memory that vLLM may hold while it samples"),
    "tensor_parallel":   (1, 1, "GPUs that share one vLLM engine"),
    "dtype":             ("bfloat16", "float32", "precision the model computes in; the optimizer's weights are float32", ("bfloat16", "float32")),
    "masters":           ("auto", "auto", "where the optimizer's weights and moments are; auto: on the GPU if they fit", ("auto", "gpu", "cpu")),
    "gradient_checkpointing": (True, False, "recompute activations in the backward pass: less memory, one more forward pass"),
    "micro_batch_tokens": (16384, 4096, "tokens, padding included, in one forward and backward pass: memory only; small ones pad less"),
    "sample_rows":       (256, 256, "sequences sampled side by side: memory only"),
    "threads":           (0, 1, "CPU threads of torch, 0 for its own choice; tensors as small as the embedded model's lose by sharing"),
}


def main(argv=None):
    # ---- (a) set up ------------------------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    run = Run(args, __file__)
    place = fit_memory(args.model, dtype=args.dtype, masters=args.masters, gradient_checkpointing=args.gradient_checkpointing,
                       micro_batch_tokens=args.micro_batch_tokens, engine_memory=args.engine_memory * (which_sampler(args.sampler) == "vllm"))
    model, tokenizer = load_model(run.checkpoint or args.model, args.dtype, args.gradient_checkpointing)
    reference = load_model(args.model, args.dtype)[0] if args.beta else None
    prompting = {"instruction": args.instruction, "longest_prompt": model.config.max_position_embeddings - args.max_tokens}
    problems = load_problems(args.data, tokenizer, question_column=args.question_column, answer_column=args.answer_column, **prompting)
    eval_sets = {set_name(source): load_problems(source, tokenizer, **prompting) for source in args.eval_sets}
    sampler = make_sampler(args.sampler, model, tokenizer, args.sample_rows, memory=args.engine_memory, tensor_parallel=args.tensor_parallel)
    torch.manual_seed(args.seed)  # after the engine, which seeds everything with a number of its own
    optimizer = MasterAdamW(model, args.lr, args.weight_decay, masters=place)
    order = Shuffled(problems, args.seed)
    done = run.restore(optimizer, order=order)

    def held_out():
        sampler.sync()
        return evaluate(
            sampler, tokenizer, eval_sets, n=args.eval_samples, temperature=args.eval_temperature,
            max_tokens=args.max_tokens, seed=derive_seed(args.seed, "eval"))

    if done == 0:
        run.log(0, held_out())
    for step in run.progress(done + 1, args.steps):
        clock = [time.time()]

        # ---- (b) sample --------------------------------------------------------------------------------------------------
        sampler.sync()
        clock.append(time.time())
        questions = order.draw(args.prompts_per_step)
        contexts = [q["prompt_ids"] for q in questions]
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, derive_seed(args.seed, "sample", step))
        sampler.sleep()
        clock.append(time.time())

        # ---- (c) verify and advantage ------------------------------------------------------------------------------------
        counts = Counter()
        score_rollouts(rollouts, [q["answer"] for q in questions for _ in range(args.group_size)], tokenizer, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage
        clock.append(time.time())

        # ---- (d) update --------------------------------------------------------------------------------------------------
        # A response with advantage 0 has gradient 0 and is not computed, but its tokens stay in the count that the loss is divided by.
        trained = rollouts if args.beta or args.entropy_coef else [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        trained_tokens = max(1, sum(len(r.completion_ids) for r in trained))
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # with no signal at all the weights stay where they are
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # the weights that sampled, so the ratio starts at exactly 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    if args.importance_cap:
                        ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
                        batch["importance_weights"] = ratio.clamp(max=args.importance_cap)
                    sums["entropy"] += entropy.detach().sum().item()
                    if reference:
                        with torch.no_grad():
                            batch["ref_per_token_logps"] = completion_logps(reference, batch, batch["temperatures"])[0]
                loss, statistics = grpo_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"], clip_low=args.clip_low,
                    clip_high=args.clip_high, loss_type=args.loss_type, num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
                    ref_per_token_logps=batch.get("ref_per_token_logps"), entropy=entropy, entropy_coef=args.entropy_coef,
                    importance_weights=batch.get("importance_weights"))
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            if update == 0:
                gap = sampling_gap(batches, step, args.max_logp_gap or GAP_LIMITS[sampler.dtype])
            grad_norm = optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = total(sums)  # under torchrun, each rank has summed over its own micro-batches
        clock.append(time.time())

        # ---- (e) log, evaluate, save -------------------------------------------------------------------------------------
        silent = (rewards == rewards[:, :1]).all(1)  # (questions,)
        metrics = {
            "reward": rewards.mean().item(),
            "frac_reward_zero_std": silent.float().mean().item(),
            "frac_all_right": (silent & (rewards[:, 0] == 1)).float().mean().item(),
            "completions/mean_length": num_tokens / len(rollouts),
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / len(rollouts),
            "loss": sums["loss"] / args.updates_per_batch,  # near 0 on policy whatever happens: look at reward and grad_norm
            "grad_norm": grad_norm,
            "entropy": sums["entropy"] / trained_tokens,
            **gap,
            **{name: sums[name] / (trained_tokens * args.updates_per_batch) for name in ("clip_ratio/low_mean", "clip_ratio/high_mean", "kl")},
            "lr": lr,
            "num_tokens": run.last("num_tokens") + num_tokens + sum(map(len, contexts)) * args.group_size,
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": num_tokens / (clock[2] - clock[1]),
            "time/trained_tokens_per_s": trained_tokens / (clock[4] - clock[3]),
            "time/padding": padded_share(batches),
        }
        if step % args.eval_every == 0 or step == args.steps:
            metrics |= held_out()
            metrics["time/evaluate"] = time.time() - clock[-1]
        run.log(step, metrics)
        if step == 1:
            mixed = int((~silent).float().argmax()) * args.group_size
            run.say(show_roles(tokenizer, rollouts[mixed], [("prompt", len(rollouts[mixed].prompt_ids))]))
            run.say(show_group(tokenizer, rollouts[mixed : mixed + args.group_size], questions[mixed // args.group_size]["answer"]))
        if step % args.save_every == 0 or step == args.steps:
            run.save(step, model, tokenizer, optimizer, order=order)
    run.finish()
    sampler.close()


if __name__ == "__main__":
    main()
