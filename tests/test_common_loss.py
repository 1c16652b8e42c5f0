"""Advantages, log-probabilities and loss against numbers that can be checked by hand."""

import doctest
import itertools
import math

import pytest
import torch

import common
import erpo
import failure_prefix
import lte
import plumbing
import pos_neg_pairing
import prefix_rl
from common import Rollout, collate, completion_logps, group_advantages, grpo_loss, micro_batches, pass_at_k, token_logps
from plumbing import data, verifier

# ---- advantages ----


def test_advantages_of_two_groups_by_hand():
    # Group 1: one right of four. mean 1/4, deviations 3/4 and -1/4, variance (9 + 1 + 1 + 1) / 16 / 3 = 1/4, standard deviation 1/2.
    # Group 2: all right.
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    right, wrong = 0.75 / 0.5001, -0.25 / 0.5001
    assert torch.allclose(group_advantages(rewards), torch.tensor([[right, wrong, wrong, wrong], [0, 0, 0, 0]]))
    assert torch.allclose(group_advantages(rewards, scale_by_std=False)[0], torch.tensor([0.75, -0.25, -0.25, -0.25]))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -1e-8, 1e8])
def test_a_zero_variance_group_gets_exactly_zero(value):
    for size in (1, 2, 7, 8, 16):
        for scale in (True, False):
            assert group_advantages(torch.full((3, size), value), scale).abs().max() == 0


def test_advantages_do_not_cross_groups():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    assert torch.equal(group_advantages(rewards)[:1], group_advantages(rewards[:1]))


# ---- loss ----

# Two responses of 2 and 1 tokens, advantages +1 and -2. Old log-probs are 0, so ratios are exp(new).
RATIOS = torch.tensor([[1.5, 0.9], [0.5, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1], [1, 0]], dtype=torch.bool)  # the 7.0 is padding
ADVANTAGES = torch.tensor([1.0, -2.0], dtype=torch.float64)


def loss_of(**settings):
    return grpo_loss(RATIOS.log(), torch.zeros_like(RATIOS), ADVANTAGES, MASK, clip_low=0.2, clip_high=0.28, **settings)


def test_clipped_loss_by_hand():
    # token (0,0): min(1.5 * 1, 1.28 * 1) = 1.28     (0,1): min(0.9, 0.9) = 0.9     (1,0): min(0.5 * -2, 0.8 * -2) = -1.6
    loss, statistics = loss_of()
    assert loss.item() == pytest.approx(-(1.28 + 0.9 - 1.6) / 3)
    assert statistics == {"clip_ratio/low_mean": 1, "clip_ratio/high_mean": 1}  # one token each; the padding token is not counted


def test_sequence_mean_by_hand():
    assert loss_of(loss_type="sequence-mean")[0].item() == pytest.approx(-((1.28 + 0.9) / 2 - 1.6) / 2)


def test_sequence_sum_by_hand():
    assert loss_of(loss_type="sequence-sum")[0].item() == pytest.approx(-(1.28 + 0.9 - 1.6) / 2)
    with pytest.raises(ValueError, match="loss_type 'mean': must be token-mean, sequence-mean or sequence-sum"):
        loss_of(loss_type="mean")


def test_count_of_the_whole_batch():
    assert loss_of(num_tokens=30)[0].item() == pytest.approx(-(1.28 + 0.9 - 1.6) / 30)
    assert loss_of(loss_type="sequence-mean", num_sequences=8)[0].item() == pytest.approx(-((1.28 + 0.9) / 2 - 1.6) / 8)


def test_kl_and_entropy_by_hand():
    reference = (RATIOS * 2).log()  # ref - policy = log 2 everywhere: each token's KL is 2 - log 2 - 1
    kl = 1 - math.log(2)
    plain = loss_of()[0].item()
    loss, statistics = loss_of(ref_per_token_logps=reference, beta=0.1)
    assert loss.item() == pytest.approx(plain + 0.1 * kl)
    assert statistics["kl"] == pytest.approx(3 * kl)
    entropy = torch.tensor([[1.0, 2.0], [4.0, 99.0]], dtype=torch.float64)
    assert loss_of(entropy=entropy, entropy_coef=0.3)[0].item() == pytest.approx(plain - 0.3 * 7 / 3)


def test_importance_weights_multiply_the_policy_term_alone():
    weights = torch.tensor([[2.0, 1.0], [0.5, 9.0]], dtype=torch.float64)
    assert loss_of(importance_weights=weights)[0].item() == pytest.approx(-(2 * 1.28 + 0.9 - 0.5 * 1.6) / 3)
    entropy = torch.ones(2, 2, dtype=torch.float64)
    assert loss_of(importance_weights=0 * weights, entropy=entropy, entropy_coef=0.3)[0].item() == pytest.approx(-0.3)


def test_a_clipped_token_has_no_gradient_and_the_others_have_theirs():
    logps = RATIOS.log().requires_grad_()
    grpo_loss(logps, torch.zeros_like(RATIOS), ADVANTAGES, MASK, clip_low=0.2, clip_high=0.28)[0].backward()
    # d(ratio * A)/d(logp) = ratio * A for the one token inside the clip range
    assert torch.allclose(logps.grad, torch.tensor([[0, -0.9 / 3], [0, 0]], dtype=torch.float64))


def test_gradient_is_the_policy_gradient_of_a_softmax():
    """On policy the loss's gradient is -mean(A * grad log pi), and grad log softmax is onehot - p: in float64, by formula."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.randn(5, 4, generator=generator, dtype=torch.float64)
    targets, advantages = torch.tensor([0, 1, 2, 3, 4, 1]), torch.randn(6, 1, generator=generator, dtype=torch.float64)
    head.requires_grad_()
    logps = token_logps(hidden, head, targets)[:, None]
    grpo_loss(logps, logps.detach(), advantages, torch.ones(6, 1, dtype=torch.bool))[0].backward()
    probs = (hidden @ head.detach().T).softmax(1)
    expected = -((torch.eye(5, dtype=torch.float64)[targets] - probs) * advantages).T @ hidden / 6
    assert torch.allclose(head.grad, expected, rtol=1e-12, atol=1e-14)


# ---- token_logps ----


def sample_inputs(dtype=torch.float64, n=7, d=5, v=11):
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(n, d, generator=generator, dtype=dtype), torch.randn(v, d, generator=generator, dtype=dtype)
    return hidden.requires_grad_(), head.requires_grad_(), torch.randint(v, (n,), generator=generator), torch.linspace(0.5, 2, n, dtype=dtype)


@pytest.mark.parametrize("chunk", [1, 33, 1000])  # logits at a time: 7 tokens by 1, 4 and all of 11 words
def test_token_logps_equal_the_plain_computation(chunk, monkeypatch):
    monkeypatch.setattr(common._TokenLogps, "TILE", chunk)
    hidden, head, targets, heat = sample_inputs()
    logps, entropy = token_logps(hidden, head, targets, heat, with_entropy=True)
    plain = ((hidden @ head.T) / heat[:, None]).log_softmax(1)  # one temperature a row
    plain_logps, plain_entropy = plain.gather(1, targets[:, None])[:, 0], -(plain.exp() * plain).sum(1)
    assert torch.allclose(logps, plain_logps, rtol=1e-12)
    assert torch.allclose(entropy, plain_entropy, rtol=1e-12)
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    ours = torch.autograd.grad((logps * weights + entropy * weights.flip(0)).sum(), (hidden, head))
    theirs = torch.autograd.grad((plain_logps * weights + plain_entropy * weights.flip(0)).sum(), (hidden, head))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_token_logps_pass_gradcheck():
    hidden, head, targets, heat = sample_inputs(n=4, d=3, v=6)
    assert torch.autograd.gradcheck(lambda h, w: token_logps(h, w, targets, heat[:4], with_entropy=True), (hidden, head))


@pytest.mark.parametrize("with_entropy", [False, True])
def test_gradient_where_only_the_logps_are_used(with_entropy):
    """The entropy has no gradient then, and its part of the backward pass is left out."""
    hidden, head, targets, heat = sample_inputs()
    logps = token_logps(hidden, head, targets, heat, with_entropy=with_entropy)
    logps = logps[0] if with_entropy else logps
    plain = ((hidden @ head.T) / heat[:, None]).log_softmax(1).gather(1, targets[:, None])[:, 0]
    weights = torch.linspace(-1, 2, 7, dtype=torch.float64)
    assert torch.allclose(logps, plain, rtol=1e-12)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), (hidden, head)) for x in (logps, plain)), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_token_logps_far_from_zero():
    """Logits of a thousand overflow exp, and differences of one still count."""
    hidden, head, targets = torch.tensor([[1000.0]]), torch.tensor([[1.0], [0.999], [-1.0]]), torch.tensor([1])
    logps, entropy = token_logps(hidden, head, targets, with_entropy=True)
    log_probs = torch.tensor([0.0, -1.0, -2000.0]).log_softmax(0)
    assert logps.item() == pytest.approx(log_probs[1].item(), abs=1e-4)
    assert entropy.item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-4)


def test_token_logps_are_float32_for_bfloat16_input():
    hidden, head, targets, _ = sample_inputs(torch.bfloat16)
    logps = token_logps(hidden, head, targets)
    assert logps.dtype == torch.float32
    logps.sum().backward()
    assert hidden.grad.dtype == head.grad.dtype == torch.bfloat16


def test_gradients_in_bfloat16_err_no_more_than_those_of_all_logits_at_once():
    """3,000 tokens, more than float32 takes at a time: no part of a gradient is rounded before the whole is."""
    hidden, head, targets, _ = sample_inputs(torch.bfloat16, n=3000, d=64, v=2500)
    exact, plain = ([x.detach().to(dtype).requires_grad_() for x in (hidden, head)] for dtype in (torch.float64, torch.bfloat16))
    token_logps(hidden, head, targets).sum().backward()
    for a, b in (exact, plain):
        (a @ b.T).to(torch.promote_types(a.dtype, torch.float32)).log_softmax(-1).gather(1, targets[:, None]).sum().backward()
    for ours, theirs, right in zip((hidden, head), plain, exact):
        assert (ours.grad.double() - right.grad).norm() < 1.02 * (theirs.grad.double() - right.grad).norm() < 0.02 * right.grad.norm()


def test_token_logps_of_nothing():
    hidden, head, targets, _ = sample_inputs()
    assert token_logps(hidden[:0], head, targets[:0]).shape == (0,)


# ---- batches ----


def some_rollouts():
    """Responses of several lengths, temperatures and advantages; some contain the end and padding tokens in their middle."""
    generator = torch.Generator().manual_seed(2)
    rollouts = []
    for i, (prompt, response) in enumerate([(3, 9), (12, 4), (7, 1), (5, 14), (4, 2), (9, 9)]):
        ids = torch.randint(0, 70, (prompt + response,), generator=generator).tolist()
        rollouts.append(Rollout(ids[:prompt], ids[prompt:], [-1.0] * response, True, 0.7 + 0.2 * i, advantage=(-1) ** i * (1 + i)))
    return rollouts


def gradient(model, batches, padding_side="right", loss_type="token-mean"):
    rollouts = [r for batch in batches for r in batch]
    model.zero_grad()
    for part in batches:
        batch = collate(part, padding_side=padding_side)
        logps, _ = completion_logps(model, batch, batch["temperatures"])
        grpo_loss(logps, logps.detach(), batch["advantages"], batch["completion_mask"], loss_type=loss_type,
                  num_tokens=sum(len(r.completion_ids) for r in rollouts), num_sequences=len(rollouts))[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss_type", ["token-mean", "sequence-mean", "sequence-sum"])
def test_gradient_does_not_depend_on_how_the_batch_is_cut(tiny, loss_type):
    model = tiny[0].double()
    rollouts = some_rollouts()
    whole = gradient(model, [rollouts], loss_type=loss_type)
    assert whole.norm() > 0.1
    for other in (
        gradient(model, [[r] for r in rollouts], loss_type=loss_type),
        gradient(model, micro_batches(rollouts, 40), loss_type=loss_type),
        gradient(model, [rollouts[::-1]], loss_type=loss_type),
        gradient(model, [rollouts], padding_side="left", loss_type=loss_type),
    ):
        assert (other - whole).norm() / whole.norm() < 1e-9
    model.float()


def test_attention_without_a_mask_is_that_with_one(tiny, monkeypatch):
    """Padding on the right is behind all that is read: left out, log-probabilities and gradients stay what they are; on the left it is not."""
    model, base = tiny[0], type(tiny[0].base_model)
    forward, masks = base.forward, []

    def masked(self, attention_mask=None, **inputs):
        masks.append(attention_mask)
        return forward(self, attention_mask=batch["attention_mask"] if len(masks) == 2 else attention_mask, **inputs)

    monkeypatch.setattr(base, "forward", masked)
    results = []
    for side in ("right", "right", "left"):  # the second time with the mask all the same
        batch = collate(some_rollouts(), padding_side=side)
        model.zero_grad()
        logps, _ = completion_logps(model, batch, batch["temperatures"])
        logps.sum().backward()
        results.append((logps[batch["completion_mask"]].detach(), torch.cat([w.grad.flatten() for w in model.parameters()])))
    model.zero_grad()
    assert masks[0] is None and masks[1] is None and masks[2] is not None
    assert torch.equal(results[0][0], results[1][0])
    for one, other in ((results[0], results[1]), (results[0], results[2])):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(one, other))


def test_logps_of_every_row_are_at_its_own_temperature(tiny):
    model = tiny[0]
    batch = collate(some_rollouts())
    with torch.no_grad():
        logps, entropy = completion_logps(model, batch, batch["temperatures"])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    plain = (logits / batch["temperatures"][:, None, None]).log_softmax(-1)
    expected = plain.gather(2, batch["input_ids"][:, 1:, None])[..., 0] * batch["completion_mask"]
    assert torch.allclose(logps, expected, atol=1e-5)
    assert torch.allclose(entropy, -(plain.exp() * plain).sum(-1) * batch["completion_mask"], atol=1e-5)


def test_mask_holds_the_first_and_the_end_token_and_not_the_prompt():
    end = 2  # an end token inside the prompt is an ordinary token
    batch = collate([Rollout([7, end, 8], [9, end], [-0.5, -0.25], True), Rollout([7], [9, 9, 9, 9, 9, 9], [0.0] * 6, False)])
    # row 0: predicting 7 -> end, end -> 8 is not trained; 8 -> 9 (the first token) and 9 -> end are; then padding
    assert batch["completion_mask"][0].tolist() == [False, False, True, True, False, False]
    assert batch["completion_mask"].sum().item() == 8
    assert batch["sampling_per_token_logps"][0].tolist() == [0, 0, -0.5, -0.25, 0, 0]


def test_prompt_and_opening_get_no_gradient():
    """The logits that predict prompt tokens get exactly 0; the logit at the last prompt token predicts the first response token and does not."""
    batch = collate([Rollout([5, 6, 7, 8], [9, 10], [0.0, 0.0], True)])
    hidden = torch.randn(1, 6, 16, requires_grad=True)
    mask = batch["completion_mask"]
    token_logps(hidden[:, :-1][mask], torch.randn(77, 16), batch["input_ids"][:, 1:][mask]).sum().backward()
    assert [bool(hidden.grad[0, t].abs().sum()) for t in range(6)] == [False, False, False, True, True, False]


def test_micro_batches_fill_the_budget_longest_first():
    rollouts = some_rollouts()
    batches = micro_batches(rollouts, 40)
    sizes = [[len(r.prompt_ids) + len(r.completion_ids) for r in batch] for batch in batches]
    assert sizes == [[19, 18], [16, 12], [8, 6]]
    assert [len(batch) for batch in micro_batches(rollouts, 1)] == [1] * 6  # a response over the budget still gets a batch of its own


@pytest.mark.parametrize("module", [plumbing, data, common, verifier, failure_prefix, prefix_rl, erpo, pos_neg_pairing, lte])
def test_worked_examples_in_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0 and failed == 0


# ---- pass@k ----


def test_pass_at_k_against_brute_force():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_refuses_nonsense():
    for n, c, k in ((4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)):
        with pytest.raises(ValueError, match="pass_at_k needs"):
            pass_at_k(n, c, k)
