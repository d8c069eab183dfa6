"""GRPO on text as pure functions of tensors: UniGRPO's term (section 3.1) and its relatives, as settings of one loss.

The defaults of :class:`TextObjective` are UniGRPO's: the clipped surrogate per token, averaged per row, then over
rows. What can be set follows TRL's names; ``level: sequence`` is GSPO.

Shapes: B rows, T tokens. logp, logp_old, logp_ref, entropy (B, T) nats; mask (B, T) bool, True where the token counts;
values under False are ignored, whatever they are. Metrics are detached 0-d tensors.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unigrpo.objectives.flow import widen

Reduction = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
SAPO_TEMPERATURES = 1.0, 1.05  # of rows with positive and with other advantages


@dataclass(frozen=True)
class TextObjective:
    """Settings of :func:`text_grpo_loss`."""

    clip_low: float  # a ratio r counts down to 1 - clip_low ...
    clip_high: float  # ... and up to 1 + clip_high
    surrogate: Literal["clip", "cispo", "sapo"] = "clip"
    level: Literal["token", "sequence"] = "token"
    ratio_cap: float = math.inf  # above it a ratio is cut where clipping would let it through (TRL: delta)
    reduction: Reduction = "grpo"
    kl_weight: float = 0.0  # of the k3 estimate of the KL to the reference
    kl_corrected: bool = False  # each token's estimate times its ratio: unbiased under the new policy
    entropy_share: float = 1.0  # of tokens, those of highest entropy, that carry policy gradient
    entropy_weight: float = 0.0  # of the entropy bonus


def text_grpo_loss(
    logp: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    advantages: Tensor,
    objective: TextObjective,
    *,
    logp_ref: Tensor | None = None,
    entropy: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss (0-d) and metrics of rows with advantages (B,): token losses, reduced, minus the entropy bonus.

    The token losses are minus :func:`surrogate`, plus kl_weight times :func:`k3`. logp_ref is needed for a KL weight,
    entropy for the two entropy settings, denominator for some reductions (:func:`reduce_tokens`). At level
    ``sequence`` the ratio is one per row, exp of the mean of its token log-ratios. A row without any token contributes
    0 and still counts as a row.
    Metrics, means over all counted tokens (over rows at level sequence): clip_low, clip_high (fraction where that side
    is active, i.e. where the sign of A makes it bind), ratio_mean, approx_kl (:func:`k3` of old and new); with a KL
    weight also kl, over tokens.
    """
    counted = mask
    log_ratio = torch.where(mask, widen(logp) - widen(logp_old), 0)
    if objective.level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        counted = torch.ones_like(log_ratio, dtype=torch.bool)
    ratio = log_ratio.exp()
    advantages = advantages[:, None]
    per_token = torch.where(mask, -surrogate(ratio, logp, advantages, objective), 0)
    if objective.entropy_share < 1:
        per_token = torch.where(most_entropic(entropy, mask, objective.entropy_share), per_token, 0)
    metrics = {
        "clip_low": masked_mean((ratio < 1 - objective.clip_low) & (advantages < 0), counted),
        "clip_high": masked_mean((ratio > 1 + objective.clip_high) & (advantages > 0), counted),
        "ratio_mean": masked_mean(ratio, counted),
        "approx_kl": masked_mean(k3(log_ratio), counted),
    }
    if objective.kl_weight > 0:
        divergence = k3(torch.where(mask, widen(logp_ref) - widen(logp), 0))
        if objective.kl_corrected:
            divergence = divergence * ratio
        metrics["kl"] = masked_mean(divergence, mask)
        per_token = per_token + objective.kl_weight * divergence
    loss = reduce_tokens(per_token, mask, objective.reduction, denominator)
    if objective.entropy_weight > 0:
        reduction = "dapo" if objective.reduction == "dapo" else "bnpo"
        bonus = reduce_tokens(torch.where(mask, widen(entropy), 0), mask, reduction, denominator)
        loss = loss - objective.entropy_weight * bonus
    return loss, {name: value.detach() for name, value in metrics.items()}


def surrogate(ratio: Tensor, logp: Tensor, advantages: Tensor, objective: TextObjective) -> Tensor:
    """What is to be raised. ratio (B, T) or (B, 1), logp (B, T), advantages A (B, 1) -> shape of ratio, or (B, T).

    ``clip``: min(min(r, ratio_cap) A, clip(r) A). ``cispo``: min(r, 1 + clip_high) A log p, where the ratio has no
    gradient, so that clipped tokens keep theirs. ``sapo``: 4 / tau sigmoid(tau (r - 1)) A, a soft gate of slope 1 at
    r = 1.
    """
    if objective.surrogate == "cispo":
        return ratio.detach().clamp(max=1 + objective.clip_high) * advantages * widen(logp)
    if objective.surrogate == "sapo":
        tau = torch.where(advantages > 0, *SAPO_TEMPERATURES)
        return torch.sigmoid(tau * (ratio - 1)) * (4 / tau) * advantages
    low, high, cap = 1 - objective.clip_low, 1 + objective.clip_high, objective.ratio_cap
    bounded = torch.where(advantages > 0, ratio.clamp(max=min(high, cap)), ratio.clamp(low, max(high, cap)))
    return bounded * advantages


def k3(log_ratio: Tensor) -> Tensor:
    """Estimates r - 1 - log r >= 0, from one token each, of KL(p || q), where r = q / p of a token drawn from p."""
    return torch.expm1(log_ratio) - log_ratio


def most_entropic(entropy: Tensor, mask: Tensor, share: float) -> Tensor:
    """(B, T) bool: counted tokens whose entropy is at least the (1 - share) quantile of all counted tokens."""
    if not mask.any():
        return mask
    return mask & (entropy >= torch.quantile(widen(entropy[mask]), 1 - share))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places of the mask, both (B, T) -> 0-d; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def reduce_tokens(values: Tensor, mask: Tensor, reduction: Reduction, denominator: float | Tensor | None) -> Tensor:
    """One loss from values (B, T) that are 0 outside the mask.

    ``grpo``: mean over the row, then over rows; a long trace weighs as much as a short one. ``bnpo``: mean over all
    tokens at hand. ``dr_grpo`` and ``dapo``: sum over a given denominator that does not depend on how a step is split
    into micro-batches: rows times the length limit of a trace, or all counted tokens of the optimiser step.
    """
    if reduction == "grpo":
        return (values.sum(1) / mask.sum(1).clamp(min=1)).mean()
    return values.sum() / (mask.sum().clamp(min=1) if reduction == "bnpo" else denominator)
