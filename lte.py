"""LTE, Learning to reason from Trial and Error: when all answers are wrong, try again knowing which. arXiv 2510.26109.

    python lte.py                                      the embedded model on a laptop CPU, some minutes
    python lte.py --model Qwen/Qwen3-8B-Base           the same code with the left column of the settings below

A question whose answers are all wrong gives GRPO nothing. LTE asks it once more, with a hint made of nothing but those answers: these are
wrong. What comes out right takes the place of wrong answers in the group, and is learned as an answer to the question without the hint:

    hint         none of the G answers cut off: the list of wrong answers; some: the list, and a request to be concise; all: the request alone
    group        G' right answers under the hint replace G' of the G wrong ones, picked at random; wrong ones under the hint are dropped
    advantages   as in grpo.py, over the G members of the group so refined
    ratio        plain members:  r = pi(token | question) / pi_old(token | question)             min(r A, clip(r) A), as in grpo.py
                 hinted members: r = pi(token | question) / pi_old(token | question with hint)   r / (r + gamma) A, no clip       section 3
    loss         - sum over tokens of both / number of tokens of both

The ratio of hinted members compares two prompts, so it is not 1 even before the first update: the model is drawn most to tokens that are gamma
times as likely without the hint as with it, and hardly to those it would have written anyway.

What changes against grpo.py:

    (1) hint      questions with no right answer get `group_size` more responses, under the hint
    (2) refine    right ones among these replace wrong ones, under the plain question
    (3) loss      the shaped ratio for hinted members
    (4) count     questions with no, some and only right answers are counted before any hint

Open in the paper, and ours: wrong answers are listed once each, answers that cannot be found are left out, and if then nothing is left to list
and nothing was cut off, there is no hint; both kinds of members are divided by one count of tokens; G' = G gives no gradient, as any group
that is all right. gamma, the clip, the learning rate and the wording of the hints were not found either.
Expect on the embedded model: three times the rescues of plain tries; in two of ten seeds none-pass counts that go on falling while GRPO's are flat.
The paper's other model, Qwen3-4B-Base, takes the same settings.
Left out: the comparison with methods that use solutions from outside.
"""

import random
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
    gradient_norm,
    group_advantages,
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
from problems import Shuffled, build_prompt, load_problems, set_name
from ranks import total
from sampler import GAP_LIMITS, Rollout, make_sampler, which_sampler
from verifier import last_boxed

SETTINGS = {
    # name:            (with --model, tiny, meaning; source of the left value)
    "arm":               ("lte", "lte", "what all-wrong questions get; grpo: nothing; extra: as many more tries without a hint; lte: the hint; "
                          "placebo: a hint with another question's wrong answers", ("lte", "grpo", "extra", "placebo")),
    "compare":           ([], ["grpo", "extra"], "arms to train afterwards as well"),
    "gamma":             (0.1, 0.1, "of the shaped ratio r / (r + gamma); not found; LUFFY's, whose shaping it is"),
    "behaviour":         ("hinted", "hinted", "what the ratio of hinted members is divided by; hinted: their probability under the hint; one: 1, "
                          "as LUFFY's code does", ("hinted", "one")),
    "hint_before":       ("\nHint: these answers have turned out to be wrong: ", "", "text before the list of wrong answers; ours"),
    "hint_each":         ("{}", " not {}", "one wrong answer in the list; ours"),
    "hint_between":      (", ", "", "text between two of them; ours"),
    "hint_after":        (".\nDo not use or mention this hint in your solution.", "", "text after the list; ours"),
    "concise":           ("\nPlease think concisely, and put your final answer within \\boxed{}.", " brief", "in place of --instruction where "
                          "responses were cut off; ours"),
    "part_norms":        (False, True, "log the gradient norms of hinted and plain members apart; takes one more copy of the gradients"),
    "data":              ("agentica-org/DeepScaleR-Preview-Dataset", "tiny/train.jsonl",
                          "training problems: a .jsonl, .json or .parquet file, or a hub id[:config][@split]"),
    "question_column":   ("", "", "column that holds the question, if it has an unusual name"),
    "answer_column":     ("", "", "column that holds the answer, if it has an unusual name"),
    "instruction":       ("\nPlease think step by step, and put your final answer within \\boxed{}.", "",
                          "text after each question; ours, to the same effect as the paper's"),
    "steps":             (500, 80, "batches of samples to learn from; section 4"),
    "prompts_per_step":  (128, 64, "questions in a batch; ours"),
    "group_size":        (8, 8, "responses to each question, G, and as many under a hint; section 4"),
    "temperature":       (1.0, 1.0, "sampling temperature in training; section 4"),
    "max_tokens":        (8192, 144, "longest response; section 4"),
    "lr":                (1e-6, 8e-4, "learning rate of AdamW; not found; ours"),
    "warmup_steps":      (0, 10, "steps over which the learning rate rises to its value; not found; ours"),
    "weight_decay":      (0.1, 0.0, "AdamW's; DAPO's code"),
    "max_grad_norm":     (1.0, 1.0, "gradients longer than this are shortened to it; DAPO's code"),
    "updates_per_batch": (1, 1, "passes over one batch of samples, one optimizer step each; ours (1: on policy, the clip never acts)"),
    "clip_low":          (0.2, 0.2, "how far the ratio may fall below 1; not found; ours"),
    "clip_high":         (0.2, 0.2, "how far the ratio may rise above 1; not found; ours"),
    "scale_by_std":      (True, True, "divide advantages by the group's standard deviation; DeepSeekMath section 4.1.2"),
    "entropy_coef":      (0.0, 0.0, "weight of an entropy bonus; the paper has a variant with one, its weight was not found"),
    "eval_sets":         (["HuggingFaceH4/MATH-500@test", "HuggingFaceH4/aime_2024", "math-ai/aime25@test", "math-ai/amc23@test"],
                          ["tiny/test.jsonl"],
                          "held-out problem sets, as for --data; ours"),
    "eval_every":        (10, 10, "steps between evaluations (there is one before step 1 and one at the end); figures"),
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
PANELS = {"hint/none_pass": "questions with no right answer", r"eval/[^/]+/pass@4": "held-out pass@4",
          "hint/refine_rate": "all-wrong questions with a rescue"}  # of curves.png


class Hinted(Rollout):
    """A response that was sampled under a hint: prompt_ids is the question without it, logps those under the hint."""


def wrong_answers(rollouts, texts):
    """The answers of responses that ended by themselves, once each, in order; what has no box is left out."""
    boxes = [last_boxed(text) for rollout, text in zip(rollouts, texts, strict=True) if rollout.finished]
    return list(dict.fromkeys(box.strip() for box in boxes if box and box.strip()))


def hinted_question(question, answers, cut_off, *, instruction, concise, before, each, between, after):
    """(1) What an all-wrong question is asked again with -> text, or None if there is nothing to hint at.

    answers: wrong ones to list. cut_off: whether some of its responses ran into the length limit. The other texts: see the settings.

    >>> texts = {"instruction": " Think.", "concise": " Be brief.", "before": " Not ", "each": "{}", "between": " or ", "after": "."}
    >>> hinted_question("1+1?", ["3", "5"], False, **texts)
    '1+1? Not 3 or 5. Think.'
    >>> hinted_question("1+1?", [], True, **texts)
    '1+1? Be brief.'
    """
    if not answers and not cut_off:
        return None
    listed = before + between.join(each.format(answer) for answer in answers) + after if answers else ""
    return question + listed + (concise if cut_off else instruction)


def refine(group, retries, rng):
    """(2) Right retries take the places of as many wrong members, picked at random -> the group, and how many were replaced.

    group: the G responses, all wrong. retries: the others, right and wrong; wrong ones are dropped.
    """
    right = [r for r in retries if r.reward][: len(group)]
    refined = list(group)
    for place, rollout in zip(rng.sample(range(len(group)), len(right)), right, strict=True):
        refined[place] = rollout
    return refined, len(right)


def lte_loss(per_token_logps, old_per_token_logps, advantages, completion_mask, hinted, *, num_tokens, clip_low, clip_high, gamma,
             importance_weights=None, entropy=None, entropy_coef=0.0):
    """(3) GRPO's clipped loss for plain members, the shaped ratio without a clip for hinted ones -> (loss, statistics).

    (B, L-1): per_token_logps, old_per_token_logps (of hinted members: under the hint), completion_mask, importance_weights (of plain
    members), entropy. (B,): advantages, hinted. num_tokens: response tokens of the whole batch. Statistics are sums over hinted tokens.
    """
    difference = per_token_logps - old_per_token_logps
    ratio, advantages = difference.exp(), advantages[:, None]
    clipped = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if importance_weights is not None:
        clipped = clipped * importance_weights
    terms = torch.where(hinted[:, None], ratio / (ratio + gamma) * advantages, clipped)
    if entropy_coef:
        terms = terms + entropy_coef * entropy
    with torch.no_grad():
        ours = completion_mask & hinted[:, None]
        weight = gamma * ratio / (ratio + gamma) ** 2  # of the gradient of the log-probability, in place of the ratio
        statistics = {"hint/log_ratio": (difference * ours).sum().item(), "hint/weight": (weight * ours).sum().item(), "tokens": ours.sum().item()}
    return -(terms * completion_mask).sum() / num_tokens, statistics


def part_norms(model, hinted_part):
    """Gradient norms of the two kinds of members, from the gradient of hinted ones alone and that of all, which the model now holds."""
    plain_part = [weight.grad - part for weight, part in zip(model.parameters(), hinted_part, strict=True)]
    return {"hint/grad_norm_hinted": gradient_norm(hinted_part), "hint/grad_norm_plain": gradient_norm(plain_part)}


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
    order = Shuffled(problems, args.seed)
    done = run.restore(optimizer, order=order)

    texts = {"instruction": args.instruction, "concise": args.concise, "before": args.hint_before, "each": args.hint_each,
             "between": args.hint_between, "after": args.hint_after}

    def prompts_again(questions, groups):
        """The prompt ids under which all-wrong questions are tried again; None where there is nothing to hint at."""
        if args.arm == "extra":
            return [q["prompt_ids"] for q in questions]
        lists = [wrong_answers(group, [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in group]) for group in groups]
        if args.arm == "placebo":  # the next question's list, but for what is right here
            lists = [[a for a in other if a != q["answer"]] for q, other in zip(questions, lists[1:] + lists[:1], strict=True)]
        asked = [hinted_question(q["problem"], answers, any(not r.finished for r in group), **texts)                         # (1)
                 for q, answers, group in zip(questions, lists, groups, strict=True)]
        return [build_prompt(tokenizer, text, "") if text else None for text in asked]

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

        # ---- (c) verify and advantage ------------------------------------------------------------------------------------
        counts, verifying = Counter(), time.time()
        score_rollouts(rollouts, [q["answer"] for q in questions for _ in range(args.group_size)], tokenizer, counts)
        verifying = time.time() - verifying
        initial = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G), before any hint    # (4)
        sampled, groups = list(rollouts), [rollouts[i : i + args.group_size] for i in range(0, len(rollouts), args.group_size)]
        stuck = [i for i, group in enumerate(groups) if args.arm != "grpo" and not any(r.reward for r in group)]
        prompts = prompts_again([questions[i] for i in stuck], [groups[i] for i in stuck])
        stuck, prompts = [i for i, prompt in zip(stuck, prompts, strict=True) if prompt], [prompt for prompt in prompts if prompt]
        rescued = []
        if stuck:
            retries = sampler.generate(prompts, args.group_size, args.temperature, args.max_tokens, derive_seed(args.seed, "again", step))
            before = time.time()
            score_rollouts(retries, [questions[i]["answer"] for i in stuck for _ in range(args.group_size)], tokenizer)
            verifying += time.time() - before
            sampled += retries
            if args.arm != "extra":  # learned as answers to the plain question, weighed by the probability under the hint
                plain_prompts = [contexts[i] for i in stuck for _ in range(args.group_size)]
                retries = [Hinted(**vars(r) | {"prompt_ids": prompt}) for r, prompt in zip(retries, plain_prompts, strict=True)]
            for place, i in enumerate(stuck):
                tries = retries[place * args.group_size : (place + 1) * args.group_size]
                groups[i], count = refine(groups[i], tries, random.Random(derive_seed(args.seed, "refine", step, i)))        # (2)
                rescued.append(count)
        sampler.sleep()
        clock.append(time.time() - verifying)
        rollouts = [rollout for group in groups for rollout in group]
        rewards = torch.tensor([r.reward for r in rollouts]).view(-1, args.group_size)  # (questions, G), of the refined groups
        advantages = group_advantages(rewards, args.scale_by_std)
        for rollout, advantage in zip(rollouts, advantages.flatten().tolist(), strict=True):
            rollout.advantage = advantage
        clock.append(time.time())

        # ---- (d) update --------------------------------------------------------------------------------------------------
        # A response with advantage 0 has gradient 0 and is not computed, but its tokens stay in the count that the loss is divided by.
        trained = rollouts if args.entropy_coef else [r for r in rollouts if r.advantage]
        num_tokens = sum(len(r.completion_ids) for r in rollouts)
        trained_tokens = max(1, sum(len(r.completion_ids) for r in trained))
        batches = []
        for kind in (True, False):  # hinted members first, so that their gradient can be looked at alone
            parts = micro_batches([r for r in trained if isinstance(r, Hinted) == kind], args.micro_batch_tokens)
            batches += [collate(part, model.device) | {"hinted": torch.full((len(part),), kind, device=model.device)} for part in parts]
        plain = [batch for batch in batches if not batch["hinted"][0]]
        lr = args.lr * min(1.0, step / max(1, args.warmup_steps))
        sums, grad_norm, gap, norms = Counter(), 0.0, {}, {}
        model.train(args.gradient_checkpointing)
        for update in range(args.updates_per_batch if batches else 0):  # with no signal at all the weights stay where they are
            for batch in batches:
                if args.part_norms and update == 0 and len(plain) < len(batches) and plain and batch is plain[0]:
                    hinted_part = [weight.grad.clone() for weight in model.parameters()]
                per_token_logps, entropy = completion_logps(model, batch, batch["temperatures"])  # (B, L-1)
                if update == 0:  # the weights that sampled: the ratio of plain members starts at exactly 1, that of hinted ones does not
                    batch["old_per_token_logps"] = per_token_logps.detach()
                    if batch["hinted"][0]:
                        batch["old_per_token_logps"] = batch["sampling_per_token_logps"] * (args.behaviour == "hinted")
                    elif args.importance_cap:
                        ratio = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).exp()
                        batch["importance_weights"] = ratio.clamp(max=args.importance_cap)
                    sums["entropy"] += entropy.detach().sum().item()
                loss, statistics = lte_loss(
                    per_token_logps, batch["old_per_token_logps"], batch["advantages"], batch["completion_mask"], batch["hinted"],
                    num_tokens=num_tokens, clip_low=args.clip_low, clip_high=args.clip_high, gamma=args.gamma,               # (3)
                    importance_weights=batch.get("importance_weights"), entropy=entropy, entropy_coef=args.entropy_coef)
                loss.backward()
                sums.update({"loss": loss.item(), **statistics})
            if update == 0:
                gap = sampling_gap(plain, step, args.max_logp_gap or GAP_LIMITS[sampler.dtype]) if plain else {}
                norms = part_norms(model, hinted_part) if args.part_norms and len(plain) < len(batches) and plain else {}
            grad_norm = optimizer.step(lr, args.max_grad_norm)
        model.eval()
        sums = total(sums)  # under torchrun, each rank has summed over its own micro-batches
        clock.append(time.time())

        # ---- (e) log, evaluate, save -------------------------------------------------------------------------------------
        silent = (rewards == rewards[:, :1]).all(1)  # (questions,), after the hints
        none, full = ((initial == value).all(1).sum().item() for value in (0, 1))
        hinted = [tokenizer.decode(r.completion_ids) for r in trained if isinstance(r, Hinted)]
        metrics = {
            "reward": initial.mean().item(),
            "frac_reward_zero_std": (none + full) / len(questions),
            "frac_all_right": full / len(questions),
            "hint/none_pass": none,
            "hint/some_pass": len(questions) - none - full,
            "hint/all_pass": full,
            "hint/silent_after": silent.float().mean().item(),
            "hint/refine_rate": sum(count > 0 for count in rescued) / max(1, len(rescued)),
            "hint/rescued": sum(rescued) / max(1, len(rescued)),
            "hint/mentioned": sum("hint" in text.lower() for text in hinted) / max(1, len(hinted)),
            **{name: sums[name] / max(1, sums["tokens"]) for name in ("hint/log_ratio", "hint/weight")},
            **norms,
            "completions/mean_length": num_tokens / len(rollouts),
            "completions/clipped_ratio": sum(not r.finished for r in rollouts) / len(rollouts),
            "loss": sums["loss"] / args.updates_per_batch,  # near 0 on policy whatever happens: look at reward and grad_norm
            "grad_norm": grad_norm,
            "entropy": sums["entropy"] / trained_tokens,
            **gap,
            "lr": lr,
            "num_tokens": run.last("num_tokens") + sum(len(r.prompt_ids) + len(r.completion_ids) for r in sampled),
            **counts,
            **{f"time/{phase}": after - before for phase, before, after in zip(TIMED, clock, clock[1:])},
            "time/sampled_tokens_per_s": sum(len(r.completion_ids) for r in sampled) / (clock[2] - clock[1]),
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
    train_arms(main, argv, run, args.compare)


if __name__ == "__main__":
    main()
