"""ERPO: learning from solved questions by raising each one's own sampling temperature. arXiv 2511.04800 (Explore Residual Prompts).

    python erpo.py                                     the embedded model on a laptop CPU, some minutes
    python erpo.py --model Qwen/Qwen2.5-7B             the same code with the left column of the settings below

The longer a model is trained, the more questions give groups that are all right, and DAPO throws these away. They are solved, but not safe:
a little more heat, and wrong answers appear again. ERPO remembers every question. One that came out all right is sampled hotter the next
time, and a group that is all right teaches a little all the same, as if one imaginary wrong answer had been in it:

    temperature  T_q = min(T_q + t_step, t_max) after a visit of question q that was all right, beginning at `temperature`
    advantages   as in grpo.py for mixed groups; for an all-right group 1 / sqrt(G + 1) for every response        (RA, "ra-1")
    refilling    all-wrong groups are dropped, and more questions drawn until the batch is full, at most max_draws times; without RA,
                 all-right groups are dropped too: that is DAPO
    loss         that of grpo.py, the log-probabilities taken at temperature 1 whatever the response was sampled at  ("score_T1")

The paper's method section was not open to us: what is known of it comes from its abstract and from public reviews and digests. It is known
that the base is DAPO, that the temperature belongs to a question, rises when its group is all right and has a cap, and that RA brings
a small pseudo negative reward into all-right groups. Not known, and ours: every number of these parts, the formula of RA, what happens to T
when a question is not all right any more, and how heated responses are scored. Each is a setting below.

What changes against grpo.py:

    (1) track     each question has a temperature and a history
    (2) refill    groups without a signal are replaced, DAPO's dynamic sampling
    (3) RA        all-right groups get a small positive advantage
    (4) score     at which temperature a heated response is scored, --score

The paper's other model, Qwen2.5-3B, takes the same settings. Left out: DAPO's penalty for overlong responses, which would give all-right
groups a variance of another kind. Rewards are 1 and 0 as in grpo.py: DAPO's 1 and -1 have the same advantages, but for the 1e-4 under them.
Expect on the embedded model: ERPO's groups stay mixed where DAPO's fall silent, at a fraction of the tokens, and the held-out score is no
better for it. A constant 1.5 for all questions, --arm dapo --temperature 1.5, does better for its tokens (results/erpo.md).
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
    train_arms,
)
from problems import Shuffled, load_problems, set_name
from ranks import total
from sampler import GAP_LIMITS, make_sampler, which_sampler

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "arm":               ("erpo", "erpo", "dapo: neither; ra: (3) alone; temp: (1) alone; erpo: both", ("dapo", "ra", "temp", "erpo")),
    "compare":           ([], ["dapo", "ra"], "arms to train afterwards as well"),
    "t_step":            (0.05, 0.05, "how much hotter a question gets at a time; not found; ours"),
    "t_max":             (1.2, 1.5, "highest temperature; the paper has one, its value was not found; ours"),
    "t_rule":            ("ratchet", "ratchet", "when a group is not all right: ratchet: T stays; reset: back to the start; updown: one step back; "
                          "consecutive: stays, and rises only after --t-patience all-right visits in a row; not found; ours",
                          ("ratchet", "reset", "updown", "consecutive")),
    "t_patience":        (2, 2, "for --t-rule consecutive; ours"),
    "ra":                ("ra-1", "ra-1", "advantage in an all-right group; ra-1: 1/sqrt(G+1); ra-2: (1 + ra_size)/(G+1); ra-3: ra_size; ours",
                          ("ra-1", "ra-2", "ra-3")),
    "ra_size":           (0.1, 0.1, "for --ra ra-2 and ra-3; ours"),
    "score":             ("score_T1", "score_T1", "log-probabilities in training are taken at; score_T1: temperature 1; score_T: the one that the "
                          "response was sampled at; is_corrected: 1, weighted by p(1)/p(T) up to --is-cap; not found; ours",
                          ("score_T1", "score_T", "is_corrected")),
    "is_cap":            (2.0, 2.0, "for --score is_corrected; ours"),
    "max_draws":         (10, 10, "how often questions are drawn to fill one batch; DAPO's code"),
    "questions":         (0, 192, "training questions, picked by the seed, 0: all; tiny: few, so that each comes up often enough to get hot"),
    "probe_questions":   (0, 32, "training questions that are sampled at three temperatures at every evaluation, 0: none; ours"),
    "data":              ("open-r1/DAPO-Math-17k-Processed", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       ("\nPlease reason step by step, and put your final answer within \\boxed{}.", "",
                          "text after each question; Qwen2.5-Math's own"),
    "steps":             (175, 75, "batches of samples to learn from; reviews of the paper"),
    "prompts_per_step":  (256, 16, "questions in a batch; ours, as in the same author's next project"),
    "group_size":        (8, 8, "responses to each question, G; ours, as in the same author's next project"),
    "temperature":       (1.0, 1.0, "sampling temperature in training; DAPO's code"),
    "max_tokens":        (3000, 144, "longest response; what fits a context of 4096; ours"),
    "lr":                (1e-6, 4e-4, "learning rate of AdamW; DAPO section 4.1"),
    "warmup_steps":      (10, 10, "steps over which the learning rate rises to its value; ours, as in the same author's next project"),
    "weight_decay":      (0.1, 0.0, "AdamW's; DAPO's code"),
    "max_grad_norm":     (1.0, 1.0, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over one batch of samples, one optimizer step each; ours (1: on policy, the clip never acts)"),
    "clip_low":          (0.2, 0.2, "how far the ratio may fall below 1; DAPO section 4.1"),
    "clip_high":         (0.28, 0.28, "how far the ratio may rise above 1; DAPO section 4.1"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (20, 15, "steps between evaluations (there is one before step 1 and one at the end)"),
    "eval_samples":      (4, 4, "responses to each held-out question; ours"),
    "eval_temperature":  (1.0, 1.0, "sampling temperature in evaluation; ours: as in training"),
    "save_every":        (20, 15, "steps between checkpoints"),
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
PANELS = {r"temperature/decile_\d": "temperatures of the questions, deciles", r"temperature/all_right@[\d.]+": "all-right groups by temperature",
          "temperature/draws": "draws to fill a batch"}  # of curves.png


class Tracker:
    """(1) What is remembered of every question: its temperature and how its groups came out. Goes into checkpoints.

    rule, step, highest, patience: see the settings. Keys are question ids, which are the same in every epoch.
    """

    def __init__(self, start, step, highest, rule="ratchet", patience=2):
        self.start, self.step, self.highest, self.rule, self.patience = start, step, highest, rule, patience
        self.questions = {}

    def of(self, question):
        return self.questions.get(question, {"temperature": self.start, "visits": 0, "all_right": 0, "streak": 0})

    def temperature(self, question):
        """At which temperature the question is sampled now."""
        return self.of(question)["temperature"]

    def update(self, question, all_right):
        """Take note of one group. The new temperature holds from the next visit on."""
        state = dict(self.of(question))
        state["visits"] += 1
        state["all_right"] += all_right
        state["streak"] = state["streak"] + 1 if all_right else 0
        if all_right and (self.rule != "consecutive" or state["streak"] >= self.patience):
            state["temperature"] = min(state["temperature"] + self.step, self.highest)
        elif not all_right and self.rule in ("reset", "updown"):
            state["temperature"] = self.start if self.rule == "reset" else max(state["temperature"] - self.step, self.start)
        self.questions[question] = state

    def state_dict(self):
        return {"questions": self.questions}

    def load_state_dict(self, state):
        self.questions = state["questions"]


def ra_advantage(group_size, kind="ra-1", size=0.1):
    """(3) The advantage of every response of an all-right group. Positive: the responses are right.

    ra-1 puts one wrong response into the group's mean and standard deviation (divisor G), and trains on the G real ones:
    whatever the two rewards are, (r - mean) / std = 1 / sqrt(G + 1).

    >>> ra_advantage(8)
    0.3333333333333333
    """
    return {"ra-1": (group_size + 1) ** -0.5, "ra-2": (1 + size) / (group_size + 1), "ra-3": size}[kind]


def scoring(temperatures, mode):
    """The temperature at which each row's log-probabilities are taken in training. temperatures (B,): that of the sampling."""
    return temperatures if mode == "score_T" else torch.ones_like(temperatures)                                               # (4)


def scoring_weights(old_per_token_logps, sampling_per_token_logps, temperatures, mode, importance_cap, is_cap):
    """(4) Weight of every token's loss (B, L-1), or None. Constants: no gradient flows through them.

    p(trainer) / p(sampler), up to importance_cap, where both are taken at the same temperature (0: no weights). Elsewhere 1, but under
    is_corrected the same ratio up to is_cap: there it carries a response from the temperature of its sampling to temperature 1.
    """
    if not importance_cap and mode != "is_corrected":
        return None
    ratio = (old_per_token_logps - sampling_per_token_logps).exp()
    alike = ratio.clamp(max=importance_cap) if importance_cap else torch.ones_like(ratio)
    heated = ratio.clamp(max=is_cap) if mode == "is_corrected" else torch.ones_like(ratio)
    return torch.where((scoring(temperatures, mode) == temperatures)[:, None], alike, heated)


def temperature_metrics(tracker, visits):
    """What the temperatures are after a step, and whether solved questions came to life: {name: value}.

    visits: of every group that was drawn, (its question, what the tracker knew of it before, its mean reward, its responses).
    """
    heats = sorted(state["temperature"] for state in tracker.questions.values())
    again = [(round(group[0].temperature, 1), 0 < mean < 1) for _, was, mean, group in visits if was["streak"]]  # all right the last time
    at = sorted({heat for heat, _ in again})
    return {
        "temperature/revived": sum(mixed for _, mixed in again) / max(1, len(again)),
        **{f"temperature/visits@{heat}": sum(a == heat for a, _ in again) for heat in at},
        **{f"temperature/revived@{heat}": sum(a == heat and mixed for a, mixed in again) for heat in at},
        "temperature/mean": sum(heats) / len(heats),
        "temperature/at_max": sum(heat >= tracker.highest for heat in heats) / len(heats),
        **{f"temperature/decile_{d}": heats[int(d / 10 * (len(heats) - 1))] for d in (1, 5, 9)},
    }


def main(argv=None):
    # ---- (a) set up ------------------------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    run = Run(args, __file__, PANELS)
    place = fit_memory(args.model, dtype=args.dtype, masters=args.masters, gradient_checkpointing=args.gradient_checkpointing,
                       micro_batch_tokens=args.micro_batch_tokens, engine_memory=args.engine_memory * (which_sampler(args.sampler) == "vllm"))
    model, tokenizer = load_model(run.checkpoint or args.model, args.dtype, args.gradient_checkpointing)
    prompting = {"instruction": args.instruction, "longest_prompt": model.config.max_position_embeddings - args.max_tokens}
    problems = load_problems(args.data, tokenizer, question_column=args.question_column, answer_column=args.answer_column, **prompting)
    eval_sets = {set_name(source): load_problems(source, tokenizer, **prompting) for source in args.eval_sets}
    sampler = make_sampler(args.sampler, model, tokenizer, args.sample_rows, memory=args.engine_memory, tensor_parallel=args.tensor_parallel)
    torch.manual_seed(args.seed)  # after the engine, which seeds everything with a number of its own
    optimizer = MasterAdamW(model, args.lr, args.weight_decay, masters=place)
    problems = Shuffled(problems, args.seed).draw(args.questions) if args.questions else problems
    order = Shuffled(problems, args.seed)
    hot, reactivate = args.arm in ("temp", "erpo"), args.arm in ("ra", "erpo")
    tracker = Tracker(args.temperature, args.t_step if hot else 0.0, max(args.t_max, args.temperature), args.t_rule, args.t_patience)
    done = run.restore(optimizer, order=order, tracker=tracker)

    def held_out():
        sampler.sync()
        metrics = evaluate(
            sampler, tokenizer, eval_sets, n=args.eval_samples, temperature=args.eval_temperature,
            max_tokens=args.max_tokens, seed=derive_seed(args.seed, "eval"))
        probe = Shuffled(problems, derive_seed(args.seed, "probe")).draw(args.probe_questions)
        for heat in (1.0, 1.2, 1.5) if probe else ():
            tries = sampler.generate([q["prompt_ids"] for q in probe], args.group_size, heat, args.max_tokens, derive_seed(args.seed, "probe", heat))
            score_rollouts(tries, [q["answer"] for q in probe for _ in range(args.group_size)], tokenizer)
            right = torch.tensor([r.reward for r in tries]).view(-1, args.group_size)
            metrics[f"temperature/all_right@{heat}"] = (right == 1).all(1).float().mean().item()
        return metrics

    if done == 0:
        run.log(0, held_out())
    for step in run.progress(done + 1, args.steps):
        clock = [time.time()]

        # ---- (b) sample --------------------------------------------------------------------------------------------------
        sampler.sync()
        clock.append(time.time())
        rollouts, visits, counts, draws, verifying = [], [], Counter(), 0, 0.0
        while len(rollouts) < args.prompts_per_step * args.group_size and draws < args.max_draws:                               # (2)
            questions = order.draw(args.prompts_per_step)
            contexts = [q["prompt_ids"] for q in questions]
            heats = [tracker.temperature(q["id"]) for q in questions]                                                           # (1)
            drawn = sampler.generate(contexts, args.group_size, heats, args.max_tokens, derive_seed(args.seed, "sample", step, draws))
            draws += 1

            # ---- (c) verify and advantage --------------------------------------------------------------------------------
            before = time.time()
            score_rollouts(drawn, [q["answer"] for q in questions for _ in range(args.group_size)], tokenizer, counts)
            verifying += time.time() - before
            rewards = torch.tensor([r.reward for r in drawn]).view(-1, args.group_size)  # (questions, G)
            all_right = (rewards == 1).all(1)
            advantages = group_advantages(rewards)
            if reactivate:
                advantages[all_right] = ra_advantage(args.group_size, args.ra, args.ra_size)                                    # (3)
            for rollout, advantage in zip(drawn, advantages.flatten().tolist(), strict=True):
                rollout.advantage = advantage
            for i, question in enumerate(questions):  # every group that was scored counts, also one that is not trained on
                was = tracker.of(question["id"])
                tracker.update(question["id"], bool(all_right[i]))                                                              # (1)
                group = drawn[i * args.group_size : (i + 1) * args.group_size]
                visits.append((question, was, float(rewards[i].mean()), group))
                if advantages[i].any() and len(rollouts) < args.prompts_per_step * args.group_size:
                    rollouts += group
        sampler.sleep()
        clock += [time.time() - verifying, time.time()]

        # ---- (d) update --------------------------------------------------------------------------------------------------
        trained = rollouts  # groups without a signal are not among them
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        trained_tokens = max(1, sum(len(r.completion_ids) for r in trained))
        batches = [collate(part, model.device) for part in micro_batches(trained, args.micro_batch_tokens)]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap = Counter(), 0.0, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # with no signal at all the weights stay where they are
            for batch in batches:
                per_token_logps, entropy = completion_logps(model, batch, scoring(batch["temperatures"], args.score))  # (B, L-1)
                if update == 0:  # the weights that sampled, so the ratio starts at exactly 1 and needs no pass of its own
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    batch["importance_weights"] = scoring_weights(
                        batch["old_per_token_logps"], batch["sampling_per_token_logps"], batch["temperatures"], args.score,
                        args.importance_cap, args.is_cap)
                    sums["entropy"] += entropy.detach().sum().item()
                loss, statistics = grpo_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"], clip_low=args.clip_low,
                    clip_high=args.clip_high, num_tokens=num_tokens, importance_weights=batch["importance_weights"])
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            if update == 0:
                alike = [{**b, "completion_mask": b["completion_mask"] & (scoring(b["temperatures"], args.score) == b["temperatures"])[:, None]}
                         for b in batches]  # a response scored at another temperature than it was sampled at has no business agreeing
                gap = sampling_gap(alike, step, args.max_logp_gap or GAP_LIMITS[sampler.dtype])
            grad_norm = optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = total(sums)  # under torchrun, each rank has summed over its own micro-batches
        clock.append(time.time())

        # ---- (e) log, evaluate, save -------------------------------------------------------------------------------------
        means = [mean for _, _, mean, _ in visits]
        metrics = {
            "reward": sum(means) / len(means),
            "frac_reward_zero_std": sum(mean in (0, 1) for mean in means) / len(means),
            "frac_all_right": sum(mean == 1 for mean in means) / len(means),
            "temperature/draws": draws,
            **temperature_metrics(tracker, visits),
            "completions/mean_length": num_tokens / max(1, len(rollouts)),
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / max(1, len(rollouts)),
            "loss": sums["loss"] / args.updates_per_batch,  # near 0 on policy whatever happens: look at reward and grad_norm
            "grad_norm": grad_norm,
            "entropy": sums["entropy"] / trained_tokens,
            **gap,
            **{name: sums[name] / (trained_tokens * args.updates_per_batch) for name in ("clip_ratio/low_mean", "clip_ratio/high_mean")},
            "lr": lr,
            "num_tokens": run.last("num_tokens") + sum(len(r.prompt_ids) + len(r.completion_ids) for *_, group in visits for r in group),
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": sum(len(r.completion_ids) for *_, group in visits for r in group) / (clock[2] - clock[1]),
            "time/trained_tokens_per_s": trained_tokens / (clock[4] - clock[3]),
            "time/padding": padded_share(batches),
        }
        if step % args.eval_every == 0 or step == args.steps:
            metrics |= held_out()
            metrics["time/evaluate"] = time.time() - clock[-1]
        run.log(step, metrics)
        if step == 1:
            question, _, _, group = next((visit for visit in visits if 0 < visit[2] < 1), visits[0])
            run.say(show_roles(tokenizer, group[0], [("prompt", len(group[0].prompt_ids))]))
            run.say(show_group(tokenizer, group, question["answer"]))
        if step % args.save_every == 0 or step == args.steps:
            run.save(step, model, tokenizer, optimizer, order=order, tracker=tracker)
    run.finish()
    sampler.close()
    train_arms(main, argv, run, args.compare)


if __name__ == "__main__":
    main()
