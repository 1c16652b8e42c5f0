"""LTE's controls: another question's wrong answers as a hint, and another denominator of the ratio; gradients
by part.

    python results/lte_variants.py --placebo          the list of the next all-wrong question
    python results/lte_variants.py --behaviour one      hinted members are divided by 1, as LUFFY's code does
    python results/lte_variants.py --part-norms       logs gradient norms of hinted and plain members

Other flags go to lte.py. Logs the share of hinted members that mention a hint.
"""

import sys
from unittest import mock

import torch
import variants

import lte
from plumbing import distributed

GIVEN = variants.Given()
SETTINGS = {
    "placebo": (False, False, "hint with another question's wrong answers"),
    "behaviour": (
        "hinted",
        "hinted",
        "what the ratio of hinted members is divided by; hinted: their probability under the hint; one: 1",
        ("hinted", "one"),
    ),
    "part_norms": (
        False,
        True,
        "log gradient norms of hinted and plain members; takes one more copy of the gradients",
    ),
}
HINTED_PART = []  # gradients of hinted members alone, one a weight
HINTED_TEXTS = []  # of the hinted members of this step that are trained on


def retry_prompts(questions, groups, tokenizer, **texts):
    """As lte.retry_prompts; under --placebo each question gets the next one's list."""
    if not GIVEN.args.placebo:
        return RETRY_PROMPTS(questions, groups, tokenizer, **texts)
    lists = []
    for group in groups:
        responses = [tokenizer.decode(r.completion_ids, skip_special_tokens=True) for r in group]
        lists.append(lte.wrong_answers(group, responses))
    if len(lists) == 1:  # there is no other question whose list it could be
        return [None]
    prompts = []
    for question, group, others in zip(questions, groups, lists[1:] + lists[:1], strict=True):
        answers = [answer for answer in others if answer != question["answer"]]
        with mock.patch.object(lte, "wrong_answers", return_value=answers):  # all else as ever
            prompts += RETRY_PROMPTS([question], [group], tokenizer, **texts)
    return prompts


def lte_loss(per_token_logps, old_per_token_logps, *others, hinted, **terms):
    """As lte.lte_loss; under --behaviour one the hinted members' old log-probabilities are 0."""
    if hinted and GIVEN.args.behaviour == "one":
        old_per_token_logps = old_per_token_logps * 0
    return LTE_LOSS(per_token_logps, old_per_token_logps, *others, hinted=hinted, **terms)


def completion_logps(model, batch, temperatures):
    """As common.completion_logps. Before the first plain batch of a step, the gradient is that of hinted
    members."""
    gradients = [weight.grad for weight in model.parameters()]
    first_pass = "old_per_token_logps" not in batch
    if (
        GIVEN.args.part_norms
        and first_pass
        and not batch.get("hinted", True)  # nor the pass under the hint, which has no such mark
        and gradients[0] is not None
        and not HINTED_PART
    ):
        HINTED_PART.extend(gradient.clone() for gradient in gradients)
    return COMPLETION_LOGPS(model, batch, temperatures)


def sampling_gap(plain, step, limit):
    """As common.sampling_gap, with the gradient norms of both parts: it is called when all gradients are
    there."""
    metrics = SAMPLING_GAP(plain, step, limit)
    if plain and HINTED_PART and GIVEN.hinted:
        weights = GIVEN.run.model.parameters()
        plain_part = [weight.grad - part for weight, part in zip(weights, HINTED_PART, strict=True)]
        metrics["hint/grad_norm_hinted"] = gradient_norm(HINTED_PART)
        metrics["hint/grad_norm_plain"] = gradient_norm(plain_part)
    return metrics


def gradient_norm(gradients):
    """Norm of gradients, as backward() leaves them -> a number."""
    return distributed.WORLD_SIZE * distributed.number(torch.nn.utils.get_total_norm(gradients))


def micro_batches(rollouts, max_tokens):
    """As common.micro_batches. It is called for the hinted members of a step first: all that was remembered
    is forgotten."""
    if not GIVEN.hinted_next:
        GIVEN.hinted_next = True
    else:
        GIVEN.hinted_next, GIVEN.hinted = False, bool(rollouts)
        HINTED_PART.clear()
        HINTED_TEXTS[:] = [GIVEN.run.tokenizer.decode(r.completion_ids) for r in rollouts]
    return MICRO_BATCHES(rollouts, max_tokens)


def hint_metrics(*args):
    """As lte.hint_metrics, with the share of hinted members that mention a hint."""
    mentioned = sum("hint" in text.lower() for text in HINTED_TEXTS) / max(1, len(HINTED_TEXTS))
    return HINT_METRICS(*args) | {"hint/mentioned": mentioned}


RETRY_PROMPTS, LTE_LOSS, COMPLETION_LOGPS = lte.retry_prompts, lte.lte_loss, lte.completion_logps
SAMPLING_GAP, MICRO_BATCHES, HINT_METRICS = lte.sampling_gap, lte.micro_batches, lte.hint_metrics
GIVEN.hinted_next = True

if __name__ == "__main__":
    lte.retry_prompts, lte.lte_loss, lte.completion_logps = retry_prompts, lte_loss, completion_logps
    lte.sampling_gap, lte.micro_batches, lte.hint_metrics = sampling_gap, micro_batches, hint_metrics
    variants.extend(lte, SETTINGS, GIVEN)
    lte.main(sys.argv[1:])
