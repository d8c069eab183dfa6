"""Text losses against hand-computed values, loops over tokens in plain Python, and finite differences."""

import itertools
import math

import pytest
import torch

from unigrpo.core.settings import replace
from unigrpo.objectives.text_losses import TextObjective, most_entropic, text_grpo_loss


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


def text_loss(ratios, mask, advantages, clip_low=0.2, clip_high=0.3):
    logp = torch.tensor(ratios).log().requires_grad_()
    loss, metrics = text_grpo_loss(
        logp,
        torch.zeros_like(logp),
        torch.tensor(mask, dtype=torch.bool),
        torch.tensor(advantages),
        TextObjective(clip_low, clip_high),
    )
    loss.backward()
    return loss.item(), logp.grad, metrics


def test_text_rows_weigh_equally_whatever_their_length():
    loss, _, _ = text_loss([[1.1, 0.9, 1.2], [1.1, 1.0, 1.0]], [[1, 1, 1], [1, 0, 0]], [2.0, -1.0])
    assert loss == pytest.approx((-2.0 * 3.2 / 3 + 1.1) / 2)


def test_text_clip_binds_only_on_the_side_that_the_advantage_pushes_to():
    ratios, mask = [[1.5, 0.5, 1.0]], [[1, 1, 1]]
    loss, gradient, metrics = text_loss(ratios, mask, [1.0])
    assert loss == pytest.approx(-(1.3 + 0.5 + 1.0) / 3)
    assert gradient[0, 0] == 0 and gradient[0, 1] == pytest.approx(-0.5 / 3)
    assert metrics["clip_high"] == pytest.approx(1 / 3) and metrics["clip_low"] == 0
    loss, gradient, metrics = text_loss(ratios, mask, [-1.0])
    assert loss == pytest.approx((1.5 + 0.8 + 1.0) / 3)
    assert gradient[0, 1] == 0 and gradient[0, 0] == pytest.approx(1.5 / 3)
    assert metrics["clip_low"] == pytest.approx(1 / 3) and metrics["clip_high"] == 0


def test_text_rows_without_tokens_count_as_rows_and_masked_garbage_is_ignored():
    loss, gradient, metrics = text_loss([[1.1, math.nan], [0.0, math.inf]], [[1, 0], [0, 0]], [1.0, 1.0])
    assert loss == pytest.approx(-1.1 / 2)
    assert gradient.tolist() == [[pytest.approx(-1.1 / 2), 0], [0, 0]]
    assert metrics["ratio_mean"] == pytest.approx(1.1)
    assert metrics["approx_kl"] == pytest.approx(0.1 - math.log(1.1), abs=1e-6)


def test_text_without_any_token_is_zero():
    loss, gradient, _ = text_loss([[1.0, 1.0]], [[0, 0]], [3.0])
    assert loss == 0 and not gradient.any()


def test_zero_advantage_rows_keep_their_share_of_the_denominator():
    alone, _, _ = text_loss([[1.1]], [[1]], [1.0])
    together, _, _ = text_loss([[1.1], [1.1]], [[1], [1]], [1.0, 0.0])
    assert together == pytest.approx(alone / 2)


def test_text_gradient_matches_finite_differences(rng):
    logp = (0.1 * torch.randn(3, 4, generator=rng, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(3, 4, generator=rng) < 0.7
    advantages = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)

    def loss(values):
        old = torch.zeros_like(values)
        return text_grpo_loss(values, old, mask, advantages, TextObjective(0.05, 0.05))[0]

    assert torch.autograd.gradcheck(loss, logp)


# ---------------------------------------------------------------------------------------------------- relatives

PLAIN = TextObjective(0.1, 0.2)
OBJECTIVES = {
    "grpo": PLAIN,
    "sequence": replace(PLAIN, level="sequence"),
    "bnpo": replace(PLAIN, reduction="bnpo"),
    "dr_grpo": replace(PLAIN, reduction="dr_grpo"),
    "dapo": replace(PLAIN, reduction="dapo"),
    "cap": replace(PLAIN, ratio_cap=1.3),
    "low cap": replace(PLAIN, ratio_cap=1.05),
    "kl": replace(PLAIN, kl_weight=0.3),
    "corrected kl": replace(PLAIN, kl_weight=0.3, kl_corrected=True, level="sequence"),
    "entropic": replace(PLAIN, entropy_share=0.4, kl_weight=0.3),
    "bonus": replace(PLAIN, entropy_weight=0.2),
    "dapo bonus": replace(PLAIN, entropy_weight=0.2, reduction="dapo"),
    "cispo": replace(PLAIN, surrogate="cispo", reduction="dapo"),
    "sapo": replace(PLAIN, surrogate="sapo"),
}


@pytest.fixture
def rows(rng):
    """logp, logp_old, logp_ref, entropy (4, 6), a mask with an empty row and rows of unequal length, advantages."""
    old, change, shift, entropy = (torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(4))
    lengths = torch.tensor([6, 0, 2, 4])
    mask = torch.arange(6) < lengths[:, None]
    advantages = torch.tensor([-1.5, 1.0, 0.5, 0.7], dtype=torch.float64)
    return (old + 0.3 * change).requires_grad_(), old, old + 0.2 * shift, entropy.abs(), mask, advantages


def by_hand(rows, objective, denominator):
    """The same in loops over single numbers."""
    logp, old, ref, entropy, mask, advantages = rows
    places = [(i, k) for i in range(4) for k in range(6) if mask[i, k]]
    ordered = sorted(entropy[p].item() for p in places)
    rank = (1 - objective.entropy_share) * (len(ordered) - 1)  # linear interpolation between order statistics
    below, part = ordered[math.floor(rank)], ordered[math.ceil(rank)] - ordered[math.floor(rank)]
    threshold = below + (rank - math.floor(rank)) * part
    losses = {}
    for i, k in places:
        a, tokens = advantages[i].item(), [logp[i, j] - old[i, j] for j in range(6) if mask[i, j]]
        mean = sum(tokens) / len(tokens)
        r = torch.exp(logp[i, k] - old[i, k] if objective.level == "token" else mean)
        if objective.surrogate == "cispo":
            gain = min(r.item(), 1 + objective.clip_high) * a * logp[i, k]
        elif objective.surrogate == "sapo":
            tau = 1 if a > 0 else 1.05
            gain = 4 / tau / (1 + torch.exp(-tau * (r - 1))) * a
        else:
            clipped = min(max(r, 1 - objective.clip_low), 1 + objective.clip_high)
            gain = min(min(r, objective.ratio_cap) * a, clipped * a)
        if entropy[i, k] < threshold:
            gain = 0
        d = torch.exp(ref[i, k] - logp[i, k])
        kl = (d - 1 - torch.log(d)) * (r if objective.kl_corrected else 1)
        losses[i, k] = objective.kl_weight * kl - gain
    n, bonus = len(places), sum(entropy[p] for p in places)
    total = sum(losses.values())
    if objective.reduction == "grpo":
        means = [[losses[p] for p in places if p[0] == i] for i in range(4)]
        loss = sum(sum(row) / len(row) for row in means if row) / 4
    else:
        loss = total / (n if objective.reduction == "bnpo" else denominator)
    return loss - objective.entropy_weight * bonus / (denominator if objective.reduction == "dapo" else n)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_relative_is_its_formula_token_by_token(rows, name):
    logp, old, ref, entropy, mask, advantages = rows
    loss, metrics = text_grpo_loss(
        logp, old, mask, advantages, OBJECTIVES[name], logp_ref=ref, entropy=entropy, denominator=40
    )
    expected = by_hand(rows, OBJECTIVES[name], 40)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x, logp)[0] for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours.any() and not ours[~mask].any()
    assert ("kl" in metrics) == (OBJECTIVES[name].kl_weight > 0)


def test_the_relatives_differ(rows):
    """Otherwise the comparison above could miss a setting that is ignored. dapo is dr_grpo of another denominator."""
    logp, old, ref, entropy, mask, advantages = rows
    losses = [
        text_grpo_loss(logp, old, mask, advantages, o, logp_ref=ref, entropy=entropy, denominator=40)[0].item()
        for name, o in OBJECTIVES.items()
        if name != "dapo"
    ]
    assert min(abs(a - b) for a, b in itertools.combinations(losses, 2)) > 1e-4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_the_mask_hides_has_no_effect(rows, name):
    logp, old, ref, entropy, mask, advantages = rows
    spoilt = [x.detach().masked_fill(~mask, math.nan).requires_grad_() for x in (logp, old, ref, entropy)]
    results = []
    for new, before, other, spread in ((logp, old, ref, entropy), spoilt):
        tensors = {"logp_ref": other, "entropy": spread, "denominator": 40}
        loss, _ = text_grpo_loss(new, before, mask, advantages, OBJECTIVES[name], **tensors)
        results.append((loss, torch.autograd.grad(loss, new)[0]))
    torch.testing.assert_close(*results)


def test_one_ratio_per_row_at_sequence_level(rows):
    """Rows of equal token ratios: the sequence's ratio is theirs; metrics are then means over rows."""
    *_, mask, advantages = rows
    old = torch.zeros(4, 6)
    new = torch.tensor([0.8, 1.0, 1.3, 1.1]).log()[:, None].expand(4, 6)
    objective = replace(PLAIN, level="sequence")
    loss, metrics = text_grpo_loss(new, old, mask, advantages.float(), objective)
    assert loss.item() == pytest.approx(-(1.2 * 0.5 + 0.9 * -1.5 + 1.1 * 0.7) / 4, rel=1e-5)
    assert metrics["clip_high"] == 0.25 and metrics["clip_low"] == 0.25
    assert metrics["ratio_mean"] == pytest.approx((1.3 + 1.0 + 0.8 + 1.1) / 4)


def test_clipped_tokens_keep_their_gradient_in_cispo_and_lose_it_gradually_in_sapo():
    logp = torch.tensor([[1.0, 0.0, -1.0]]).requires_grad_()
    gradients = {}
    for name in ("clip", "cispo", "sapo"):
        objective = replace(PLAIN, surrogate=name)
        loss, _ = text_grpo_loss(logp, torch.zeros(1, 3), torch.ones(1, 3).bool(), torch.ones(1), objective)
        gradients[name] = -3 * torch.autograd.grad(loss, logp)[0][0]
    assert gradients["clip"].tolist() == pytest.approx([0, 1, math.exp(-1)])
    assert gradients["cispo"].tolist() == pytest.approx([1.2, 1, math.exp(-1)])
    assert gradients["sapo"][1] == pytest.approx(1) and 0 < gradients["sapo"][0] < math.e


def test_the_kl_estimate_is_unbiased(rng):
    """Mean of k3 over the tokens of a distribution, weighted by it, is the KL; corrected, also under the old one."""
    new, old, ref = (torch.randn(5, generator=rng, dtype=torch.float64).log_softmax(0) for _ in range(3))
    expected = (new.exp() * (new - ref)).sum()
    none, mask = torch.zeros(5, dtype=torch.float64), torch.ones(5, 1, dtype=torch.bool)
    for corrected, drawn_from in ((False, new), (True, old)):
        total = 0
        for token in range(5):
            loss, _ = text_grpo_loss(
                new[token].view(1, 1),
                old[token].view(1, 1),
                mask[:1],
                none[:1],
                replace(PLAIN, kl_weight=1.0, kl_corrected=corrected),
                logp_ref=ref[token].view(1, 1),
            )
            total += drawn_from[token].exp() * loss
        torch.testing.assert_close(total, expected)


def test_entropic_tokens_are_the_upper_share():
    entropy = torch.tensor([[1.0, 5.0, 9.0], [3.0, 4.0, 2.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert most_entropic(entropy, mask, 0.5).tolist() == [[False, True, False], [True, True, False]]
    assert not most_entropic(entropy, mask & False, 0.5).any()


@pytest.mark.parametrize("name", ["dr_grpo", "dapo", "dapo bonus", "cispo"])
def test_reductions_with_a_denominator_add_up_over_micro_batches(rows, name):
    logp, old, ref, entropy, mask, advantages = rows

    def loss(part):
        tensors = {"logp_ref": ref[part], "entropy": entropy[part], "denominator": 24}
        return text_grpo_loss(logp[part], old[part], mask[part], advantages[part], OBJECTIVES[name], **tensors)[0]

    torch.testing.assert_close(loss(slice(0, 1)) + loss(slice(1, 4)), loss(slice(0, 4)))
