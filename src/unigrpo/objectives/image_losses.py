"""The image terms of the UniGRPO objective (sections 3.2-3.3) as pure functions of tensors; text_losses has the text.

Shapes: B samples, S stochastic steps, *L latent axes. Terms come back as (B, S), unreduced: the caller averages,
so that a sample with zero advantage keeps its share of the denominator. Metrics are detached 0-d tensors.

Image ratios differ from 1 by about 1e-6, while fp32 resolves 1.2e-7 around 1. So a ratio is never formed: it
is clipped as a logarithm, against log1p(+-clip_range), and the loss is built from expm1.
"""

import math

import torch
from torch import Tensor

from unigrpo.objectives.flow import widen


def plain_log_ratio(logp: Tensor, logp_old: Tensor) -> Tensor:
    """log r of FlowGRPO from mean log-probs, both (B, S) nats per latent element."""
    return widen(logp) - widen(logp_old)


def ratio_norm_log_ratio(mean: Tensor, mean_old: Tensor, noise: Tensor) -> Tensor:
    """RatioNorm log ratio <noise * (mean - mean_old)>, averaged over the latent. All (B, S, *L) -> (B, S).

    noise is the standard normal draw behind the recorded transition, (prev - mean_old) / std. This is
    algebraically GRPO-Guard's std * (log r + <(mean - mean_old)^2> / (2 std^2)), but without log-probs,
    division or cancellation: at 65,536 elements fp32 leaves it an error near 3e-10 instead of 1e-7.
    """
    return (widen(noise) * (widen(mean) - widen(mean_old))).flatten(2).mean(2)


def ratio_metrics(
    log_ratio: Tensor, below: Tensor, above: Tensor, advantages: Tensor, approx_kl: Tensor
) -> dict[str, Tensor]:
    """Metrics of clipped ratios, 0-d each, from log ratios (B, K) without gradient, the places ``below`` and ``above``
    the clip range, and advantages (B, 1): clip_low, clip_high (fraction of (B, K) where that side is active),
    clip_fraction (their sum), log_ratio_mean, log_ratio_abs_max, and the given approx_kl."""
    clip_low, clip_high = (below & (advantages < 0)).float().mean(), (above & (advantages > 0)).float().mean()
    return {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "clip_fraction": clip_low + clip_high,
        "log_ratio_mean": log_ratio.mean(),
        "log_ratio_abs_max": log_ratio.abs().max(),
        "approx_kl": approx_kl,
    }


def flow_grpo_loss(log_ratio: Tensor, advantages: Tensor, *, clip_range: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped objective per sample and step: A - min(r A, clip(r, 1 - clip_range, 1 + clip_range) A), (B, S).

    log_ratio (B, S); advantages (B,). The leading constant A has no gradient; without it the telling part,
    A (r - 1) of order 1e-6, would be rounded away. The A of a group sum to 0, so batch means are those of the
    usual form. Metrics: :func:`ratio_metrics`, with half the mean squared log ratio as approx_kl.
    """
    low, high = math.log1p(-clip_range), math.log1p(clip_range)
    advantages = advantages[:, None]
    bounded = torch.where(advantages > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    detached = log_ratio.detach()
    metrics = ratio_metrics(detached, detached < low, detached > high, advantages, detached.square().mean() / 2)
    return -advantages * torch.expm1(bounded), metrics


def velocity_mse(v: Tensor, v_ref: Tensor) -> Tensor:
    """UniGRPO's regulariser <(v - v_ref)^2>, the *mean* over latent elements. (B, S, *L) -> (B, S). The same weight on
    a sum would be stronger by the number of elements (65,536 for BAGEL at 512 px)."""
    return (widen(v) - widen(v_ref)).square().flatten(2).mean(2)


def latent_kl(mean: Tensor, mean_ref: Tensor, std: Tensor) -> Tensor:
    """KL between two transitions of equal std, per latent element: <(mean - mean_ref)^2> / (2 std^2), the mean, not
    the sum. mean, mean_ref (B, S, *L), std (S,) or (B, S) -> (B, S). The public code of Flow-GRPO divides by sigma^2 =
    std^2 / |dt| instead, which makes it |dt| times as large."""
    return (widen(mean) - widen(mean_ref)).square().flatten(2).mean(2) / (2 * std.square())
