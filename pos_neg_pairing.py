"""Positive-negative pairing and Weighted GRPO: two well chosen questions are enough for a while. arXiv 2602.03452.

    python pos_neg_pairing.py                               the embedded model on a laptop CPU, some minutes
    python pos_neg_pairing.py --model Qwen/Qwen2.5-Math-7B  the same code with the left column of the settings below

Training on one or two questions works surprisingly well, if they are the right ones. Common advice is to take those whose accuracy varies most.
This paper pairs a question that is rarely right (q+: each success says much) with one that is rarely wrong (q-: each failure says much):

    bands        q+ was right 1 to c times of G in the probe, q- wrong 1 to c times; both chosen once, before training
    outcomes     R_i = 1 if right, -lambda_neg if wrong                                                              (Weighted GRPO)
    advantages   A_i = (R_i - mean(R)) / (std(R) + 1e-6)         over the G responses of one copy of a question     ("per_prompt")

The weight cancels. With a share p of right answers the outcomes have mean p - lambda_neg (1 - p) and standard deviation (1 + lambda_neg) s,
s that of the 0/1 rewards; so A of a right answer is (1 + lambda_neg)(1 - p) / ((1 + lambda_neg) s) = (1 - p) / s, whatever lambda_neg is.
"per_prompt" is plain GRPO on the pair. What the paper normalises over could not be found; --adv-mode has four other readings, of which role_pooled,
post_weight and center_only do respond to the weight.

What changes against grpo.py:

    (1) probe     every question is answered `probe_samples` times by the initial model; two are chosen, and probed again
    (2) batch     copies of the two fill it, each copy a group of its own
    (3) weight    --adv-mode

The method's details were not open to us beyond its abstract and two digests: what is theirs and what comes from the repository it builds on,
One-Shot-RLVR, is told apart in the settings. Which questions were chosen was not found either.
Expect on the embedded model: a few points of held-out score in twenty steps, then silence, while the pool goes on. In the default seed the pair
ends ahead of the two most varied; over twenty seeds it does not (results/pos_neg_pairing.md).
Left out: nothing that was found.
"""

import json
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import torch

from common import (
    TIMED,
    InputError,
    MasterAdamW,
    Run,
    append,
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
    read_metrics,
    sampling_gap,
    score_rollouts,
    show_group,
    show_roles,
    train_arms,
    write_aside,
)
from problems import Shuffled, load_problems, set_name
from ranks import total
from sampler import GAP_LIMITS, make_sampler, which_sampler
from verifier import last_boxed

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "arm":               ("pair", "pair", "what to train on; pair: q+ and q-; variance: the two that varied most in --history; mid: two near one "
                          "half; hard, easy: two of q+, of q-; positive, negative: q+ or q- alone; pool: all questions; random: the pair, "
                          "rewards by a coin", ("pair", "variance", "mid", "hard", "easy", "positive", "negative", "pool", "random")),
    "compare":           ([], ["pool", "variance"], "arms to train afterwards as well; pool leaves the history that variance needs"),
    "history":           ("", "", "history.jsonl of a run of the arm pool, for the arm variance"),
    "hard_data":         ("math-ai/aime25@test", "", "problems to pick q+ from, if not from --data; paper"),
    "probe_samples":     (128, 32, "responses to each question in the probe; not found; ours"),
    "questions":         (1209, 400, "questions of the pool, picked by the seed, 0: all; paper: the 1,209 of DSR-sub, a random part of --data"),
    "band":              (2, 2, "c: most successes of q+ and failures of q- among G; paper, value not found; ours"),
    "adv_mode":          ("per_prompt", "per_prompt", "what advantages are normalised over, and where the weight comes in; see pair_advantages",
                          ("per_prompt", "pair_pooled", "role_pooled", "post_weight", "center_only")),
    "lambda_neg":        (1.0, 1.0, "weight of wrong answers; paper, value not found; ours"),
    "resample_every":    (0, 0, "steps after which to probe and choose anew, 0: never; the abstract can be read either way"),
    "data":              ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]; paper: 1,209 of these"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       (" Let's think step by step and output the final answer within \\boxed{}.", "",
                          "text after each question; base repository"),
    "steps":             (200, 50, "batches of samples to learn from; not found; ours"),
    "prompts_per_step":  (128, 32, "copies in a batch, half of each question; base repository"),
    "group_size":        (8, 8, "responses to each copy, G; base repository"),
    "temperature":       (0.6, 1.0, "sampling temperature in training; base repository"),
    "max_tokens":        (3072, 144, "longest response; paper"),
    "lr":                (1e-6, 2e-4, "learning rate of AdamW; base repository"),
    "warmup_steps":      (0, 10, "steps over which the learning rate rises to its value; base repository: none"),
    "weight_decay":      (0.01, 0.0, "AdamW's; base repository"),
    "max_grad_norm":     (1.0, 1.0, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over one batch of samples, one optimizer step each; ours (1: on policy, the clip never acts)"),
    "clip_low":          (0.2, 0.2, "how far the ratio may fall below 1; base repository"),
    "clip_high":         (0.2, 0.2, "how far the ratio may rise above 1; base repository"),
    "beta":              (0.001, 0.0, "weight of the KL term to the starting model; base repository"),
    "entropy_coef":      (0.001, 0.0, "weight of an entropy bonus; base repository"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (20, 10, "steps between evaluations (there is one before step 1 and one at the end)"),
    "eval_samples":      (256, 8, "responses to each held-out question; ours"),
    "eval_temperature":  (0.6, 1.0, "sampling temperature in evaluation; ours"),
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
PANELS = {r"eval/[^/]+/pass@8": "held-out pass@8", r"pair/reward_.*": "success on the two questions",
          "pair/rare_share": "rare events' share of A squared"}  # of curves.png


def choose(rates, arm, *, group_size, band, rng, hard=None, history=None):
    """Questions to train on -> list of (id, role), role 1 for q+, -1 for q-, 0 without one.

    rates: {id: share of right answers in the probe}. hard: ids that q+ may come from (None: all). history: {id: accuracies}. Where an arm takes
    questions from a band, [1/G, c/G] or [1 - c/G, 1 - 1/G], they are drawn by rng. Raises InputError if a band is empty.
    """
    need = {"pair": (1, 1), "random": (1, 1), "hard": (2, 0), "easy": (0, 2), "positive": (1, 0), "negative": (0, 1)}.get(arm)
    if need:
        low, high = 1 / group_size, band / group_size
        positive = [q for q, rate in rates.items() if low <= rate <= high and (hard is None or q in hard)]                   # (1)
        negative = [q for q, rate in rates.items() if 1 - high <= rate <= 1 - low and (hard is None or q not in hard)]
        for name, pool, count in (("q+", positive, need[0]), ("q-", negative, need[1])):
            if len(pool) < count:
                raise InputError(f"--arm {arm}: {len(pool)} of {len(rates)} probed questions are in the band of {name}, {count} are needed; "
                                 "take more (--questions), or widen --band")
        return [(q, 1) for q in rng.sample(positive, need[0])] + [(q, -1) for q in rng.sample(negative, need[1])]
    if arm == "mid":
        return [(q, 0) for q in sorted(rates, key=lambda q: abs(rates[q] - 0.5))[:2]]
    if arm == "variance":
        varied = {q: statistics.pstdev(seen) for q, seen in (history or {}).items() if len(seen) > 1}
        if len(varied) < 2:
            raise InputError("--arm variance: --history has no two questions that were visited twice; give that of a run of the arm pool")
        return [(q, 0) for q in sorted(varied, key=lambda q: -varied[q])[:2]]
    return [(q, 0) for q in rates]  # pool


class Chooser:
    """Probes the questions with the weights at hand and chooses those to train on; chosen.jsonl keeps them for a resumed run."""

    def __init__(self, args, run, sampler, tokenizer, problems, hard):
        self.args, self.run, self.sampler, self.tokenizer, self.record = args, run, sampler, tokenizer, run.out / "chosen.jsonl"
        self.hard = {f"hard {problem['id']}": problem for problem in hard}
        self.easy = {problem["id"]: problem for problem in problems}
        self.by_id = self.easy | self.hard

    def probe(self, names, purpose, generation):
        """Share of right answers to each question among `probe_samples`, and how many tokens that took."""
        args, n = self.args, self.args.probe_samples
        seed = derive_seed(args.seed, purpose, generation)
        rollouts = self.sampler.generate([self.by_id[q]["prompt_ids"] for q in names], n, args.temperature, args.max_tokens, seed)
        score_rollouts(rollouts, [self.by_id[q]["answer"] for q in names for _ in range(n)], self.tokenizer)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, n)
        return rewards.mean(1).tolist(), sum(len(r.prompt_ids) + len(r.completion_ids) for r in rollouts)

    def probe_and_choose(self, generation):
        """Lines of chosen.jsonl, one for each question to train on."""
        args = self.args
        pool = Shuffled(sorted(self.easy), args.seed).draw(min(args.questions or len(self.easy), len(self.easy)))
        if args.arm in ("pool", "variance"):  # these need no probe
            rates, spent = dict.fromkeys(pool), 0
        else:
            pool += sorted(self.hard)
            found, spent = self.probe(pool, "probe", generation)
            rates = dict(zip(pool, found, strict=True))
        history = {line["id"]: line["accuracies"] for line in read_metrics(Path(args.history))} if args.history else None
        picks = choose(rates, args.arm, group_size=args.group_size, band=args.band, hard=set(self.hard) or None, history=history,
                       rng=random.Random(derive_seed(args.seed, "choose", generation)))
        again, more = [None] * len(picks), 0
        if args.arm != "pool":  # who was chosen for a rate was lucky in the probe: fresh samples say what the rate is
            again, more = self.probe([q for q, _ in picks], "again", generation)
        return [{"generation": generation, "id": q, "role": role, "probe": rates.get(q), "again": fresh, "problem": self.by_id[q]["problem"],
                 "tokens": (spent + more) / len(picks)} for (q, role), fresh in zip(picks, again, strict=True)]

    def chosen(self, generation):
        """The questions to train on, each with its role, and the tokens it took to find them."""
        lines = [line for line in read_metrics(self.record) if line["generation"] == generation]
        if not lines:
            self.sampler.sync()
            lines = self.probe_and_choose(generation)
            self.sampler.sleep()
            append(self.record, lines)
        for line in lines if len(lines) <= 2 else []:
            name, first = {1: "q+", -1: "q-", 0: "question"}[line["role"]], "not asked" if line["probe"] is None else f"{line['probe']:.2f}"
            self.run.say(f"{name}: {line['problem']!r}; share of right answers in the probe {first}, in fresh samples {line['again']:.2f}")
        return [(self.by_id[line["id"]], line["role"]) for line in lines], round(sum(line["tokens"] for line in lines))

    def trained_on(self):
        """The texts of all questions chosen so far: they are not evaluated on."""
        return {str(line["problem"]) for line in read_metrics(self.record)}


def pair_advantages(rewards, roles, mode="per_prompt", lambda_neg=1.0):
    """Advantages (copies, G) from rewards (copies, G), 0 or 1, and roles (copies,), 1 for q+, -1 for q-, 0 for neither.

    per_prompt    outcomes 1 and -lambda_neg, each copy standardised alone: the weight cancels
    pair_pooled   the same, standardised over a copy of q+ and one of q- together: it cancels as well, and so does what is rare
    role_pooled   q+ counts successes (1, else 0), q- failures (-lambda_neg, else 0), standardised together
    post_weight   per_prompt, then advantages of wrong answers times lambda_neg
    center_only   outcomes minus their mean in each copy

    Standard deviations have the divisor n - 1 and 1e-6 is added, as in the base repository. Raises InputError if q+ and q- are not in pairs.

    >>> pair_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([1])).round(decimals=2).tolist()
    [[1.5, -0.5, -0.5, -0.5]]
    """
    outcomes = torch.where(rewards == 1, 1.0, -lambda_neg)                                                                   # (3)
    if mode == "center_only":
        return group_advantages(outcomes, scale_by_std=False)
    if mode == "post_weight":
        return group_advantages(rewards, eps=1e-6) * torch.where(rewards == 1, 1.0, lambda_neg)
    if mode == "per_prompt":
        return group_advantages(outcomes, eps=1e-6)
    positive, negative = roles == 1, roles == -1
    if not positive.sum() == negative.sum() == len(roles) / 2:
        raise InputError(f"--adv-mode {mode} pools a copy of q+ with one of q-: it goes with --arm pair or random")
    if mode == "role_pooled":
        outcomes = torch.where(positive[:, None], rewards, -lambda_neg * (1 - rewards))
    pooled = group_advantages(torch.cat([outcomes[positive], outcomes[negative]], 1), eps=1e-6)  # (pairs, 2G)
    advantages = torch.zeros_like(rewards)
    advantages[positive], advantages[negative] = pooled.chunk(2, 1)
    return advantages


class History:
    """The accuracy of every visit of every question, for the arm variance."""

    def __init__(self):
        self.seen = {}

    def add(self, questions, accuracies):
        for question, accuracy in zip(questions, accuracies, strict=True):
            self.seen.setdefault(question["id"], []).append(accuracy)

    def lines(self):
        return "".join(json.dumps({"id": name, "accuracies": seen}) + "\n" for name, seen in self.seen.items())

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = state


def rare_share(advantages, rewards, roles):
    """Share of the sum of squared advantages that successes of q+ and failures of q- hold; 0 if there are no advantages."""
    rare = torch.where(roles[:, None] == 1, rewards == 1, (roles[:, None] == -1) & (rewards == 0))
    total = advantages.square().sum().item()
    return (advantages.square() * rare).sum().item() / total if total else 0.0


def pair_metrics(rewards, advantages, roles):
    """Success and share of mixed groups of q+ and of q-, and what rare events hold of the advantages; nothing without roles."""
    found = {"pair/rare_share": rare_share(advantages, rewards, roles)} if roles.any() else {}
    mixed = (rewards != rewards[:, :1]).any(1)  # (copies,)
    for name, role in (("positive", 1), ("negative", -1)):
        if (mine := roles == role).any():
            found |= {f"pair/reward_{name}": rewards[mine].mean().item(), f"pair/mixed_{name}": mixed[mine].float().mean().item()}
    return found


def main(argv=None):
    # ---- (a) set up ------------------------------------------------------------------------------------------------------
    args = parse_settings(__doc__, SETTINGS, argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    run = Run(args, __file__, PANELS)
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
    hard = load_problems(args.hard_data, tokenizer, **prompting) if args.hard_data else []
    chooser = Chooser(args, run, sampler, tokenizer, problems, hard)
    generation = max(0, run.done - 1) // args.resample_every if args.resample_every else 0
    questions_and_roles, spent = chooser.chosen(generation)
    trained_on = chooser.trained_on() if args.arm != "pool" else set()
    eval_sets = {name: [p for p in some if str(p["problem"]) not in trained_on] for name, some in eval_sets.items()}
    order, history = Shuffled(questions_and_roles, args.seed), History()
    done = run.restore(optimizer, order=order, history=history)

    def held_out():
        sampler.sync()
        return evaluate(
            sampler, tokenizer, eval_sets, n=args.eval_samples, temperature=args.eval_temperature,
            max_tokens=args.max_tokens, seed=derive_seed(args.seed, "eval"))

    if done == 0:
        run.log(0, {**held_out(), "num_tokens": spent})
    for step in run.progress(done + 1, args.steps):
        clock, spent = [time.time()], 0
        if args.resample_every and step > 1 and (step - 1) % args.resample_every == 0:
            generation = (step - 1) // args.resample_every
            questions_and_roles, spent = chooser.chosen(generation)

        # ---- (b) sample --------------------------------------------------------------------------------------------------
        sampler.sync()
        clock.append(time.time())
        if len(questions_and_roles) > 2:
            copies = order.draw(args.prompts_per_step)
        else:  # q+ and q- alternate, so that the batch is half of each
            copies = [questions_and_roles[i % len(questions_and_roles)] for i in range(args.prompts_per_step)]                  # (2)
        questions, roles = [question for question, _ in copies], torch.tensor([role for _, role in copies])
        contexts = [q["prompt_ids"] for q in questions]
        rollouts = sampler.generate(contexts, args.group_size, args.temperature, args.max_tokens, derive_seed(args.seed, "sample", step))
        sampler.sleep()
        clock.append(time.time())

        # ---- (c) verify and advantage ------------------------------------------------------------------------------------
        counts = Counter()
        score_rollouts(rollouts, [q["answer"] for q in questions for _ in range(args.group_size)], tokenizer, counts)
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G)
        if args.arm == "random":
            rewards = torch.randint(0, 2, rewards.shape, generator=torch.Generator().manual_seed(derive_seed(args.seed, "coin", step))).float()
        advantages = pair_advantages(rewards, roles, args.adv_mode, args.lambda_neg)
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
                    clip_high=args.clip_high, num_tokens=num_tokens, num_sequences=len(rollouts), beta=args.beta,
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
            "num_tokens": run.last("num_tokens") + spent + num_tokens + sum(map(len, contexts)) * args.group_size,
            **pair_metrics(rewards, advantages, roles),
            "pair/distinct_answers": len({(tuple(r.prompt_ids), last_boxed(tokenizer.decode(r.completion_ids))) for r in rollouts})
            / len(set(map(tuple, contexts))),
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": num_tokens / (clock[2] - clock[1]),
            "time/trained_tokens_per_s": trained_tokens / (clock[4] - clock[3]),
            "time/padding": padded_share(batches),
        }
        if args.arm == "pool":
            history.add(questions, rewards.mean(1).tolist())
            write_aside(run.out / "history.jsonl", history.lines())
        if step % args.eval_every == 0 or step == args.steps:
            metrics |= held_out()
            metrics["time/evaluate"] = time.time() - clock[-1]
        run.log(step, metrics)
        if step == 1:
            mixed = int((~silent).float().argmax()) * args.group_size
            run.say(show_roles(tokenizer, rollouts[mixed], [("prompt", len(rollouts[mixed].prompt_ids))]))
            run.say(show_group(tokenizer, rollouts[mixed : mixed + args.group_size], questions[mixed // args.group_size]["answer"]))
        if step % args.save_every == 0 or step == args.steps:
            run.save(step, model, tokenizer, optimizer, order=order, history=history)
    run.finish()
    sampler.close()
    train_arms(main, argv, run, args.compare, "--history", args.history or str(run.out / "pool" / "history.jsonl"))


if __name__ == "__main__":
    main()
