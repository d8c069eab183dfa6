"""Objectives on the forward process: FPO, AWM and DiffusionNFT as pure functions of velocities.

A finished image's latents x_0 are noised again, x_t = (1 - t) x_0 + t eps, and the flow-matching loss
<(v(x_t, t) - (eps - x_0))^2> of such pairs (t, eps) stands for -log p(x_0) up to a constant: no stochastic sampler,
no transition density. FPO (arXiv 2507.21053) and AWM (arXiv 2509.25050) put its difference into a clipped ratio;
DiffusionNFT (arXiv 2509.16117) moves the velocity towards good images and away from bad ones without a ratio.

Shapes: B samples, M pairs each, *L latent axes; losses come back as (B, M) or (B, 1), unreduced. <.> is the mean
over the latent, never the sum.
"""

from typing import Literal

import torch
from torch import Tensor

from unigrpo.objectives.flow import column, widen
from unigrpo.objectives.image_losses import ratio_metrics
from unigrpo.objectives.text_losses import k3

Weight = Literal["uniform", "noise", "t", "t2", "huber", "ghuber"]
RATIO_BOUND = 3.0  # of |log ratio| in FPO, against overflow of the exponential
GHUBER_POWER = 0.25
TINY = 1e-10


def noised(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps. clean (B, *L), noise (B, M, *L), times (B, M) -> (B, M, *L)."""
    t = column(times, noise)
    return (1 - t) * clean[:, None] + t * noise


def flow_matching_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """<(v - (eps - x_0))^2>. velocity, noise (B, M, *L), clean (B, *L) -> (B, M)."""
    return _mean((widen(velocity) - (noise - clean[:, None])).square())


def surrogate_log_prob(loss: Tensor, times: Tensor, weight: Weight) -> Tensor:
    """What stands for log p of a pair, from its flow-matching loss l. loss, times (B, M) -> (B, M).

    uniform -l; t, t2: -t l, -t^2 l; noise: -(1 - t)^2 l, the loss of the noise that v implies (FPO's default);
    huber: -t (sqrt(l + 1e-10) - 1e-5); ghuber: -t ((l + 1e-10)^p - 1e-10^p) / p with p = 1/4 (AWM's default).
    """
    if weight == "huber":
        return -times * ((loss + TINY).sqrt() - TINY**0.5)
    if weight == "ghuber":
        return -times * ((loss + TINY) ** GHUBER_POWER - TINY**GHUBER_POWER) / GHUBER_POWER
    scale = {"uniform": torch.ones_like(times), "t": times, "t2": times.square(), "noise": (1 - times).square()}
    return -scale[weight] * loss


def matching_log_ratio(log_prob: Tensor, log_prob_old: Tensor, over: Literal["mean", "each"]) -> Tensor:
    """log ratio of a sample: ``mean`` over its pairs (B, 1), or of ``each`` pair (B, M) and bounded to +-3."""
    difference = log_prob - log_prob_old
    if over == "mean":
        return difference.mean(1, keepdim=True)
    return difference.clamp(-RATIO_BOUND, RATIO_BOUND)


def matching_loss(log_ratio: Tensor, advantages: Tensor, *, clip_range: float) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's -min(r A, clip(r, 1 - clip_range, 1 + clip_range) A). log_ratio (B, K), advantages (B,) -> (B, K). Metrics:
    :func:`image_losses.ratio_metrics`, with the mean of r - 1 - log r as approx_kl."""
    ratio, advantages = log_ratio.exp(), advantages[:, None]
    bounded = torch.where(advantages > 0, ratio.clamp(max=1 + clip_range), ratio.clamp(min=1 - clip_range))
    detached, below, above = log_ratio.detach(), ratio < 1 - clip_range, ratio > 1 + clip_range
    return -advantages * bounded, ratio_metrics(detached, below, above, advantages, k3(detached).mean())


def nft_loss(
    velocity: Tensor,
    velocity_old: Tensor,
    clean: Tensor,
    noise: Tensor,
    times: Tensor,
    advantages: Tensor,
    *,
    beta: float,
    advantage_clip: float = 5.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """DiffusionNFT: advantage_clip * (r L+ + (1 - r) L-) / beta, (B, M).

    With r = clip(A, +-advantage_clip) / (2 advantage_clip) + 1/2 in [0, 1], the implicit positive velocity
    v+ = beta v + (1 - beta) v_old and negative one v- = (1 + beta) v_old - beta v, each judged by its clean estimate
    e = x_t - t v+- - x_0 through L = <e^2> / max(<|e|>, 1e-5), whose denominator carries no gradient.
    velocity, velocity_old, noise (B, M, *L); clean (B, *L); times (B, M); advantages (B,).
    Metrics: positive, negative (means of L+ and L-), old_mse (mean of <(v - v_old)^2>).
    """
    velocity, velocity_old = widen(velocity), widen(velocity_old)
    x, t = noised(clean, noise, times), column(times, noise)

    def judged(v: Tensor) -> Tensor:
        error = x - t * v - clean[:, None]
        return _mean(error.square()) / _mean(error.detach().abs()).clamp(min=1e-5)

    positive = judged(beta * velocity + (1 - beta) * velocity_old)
    negative = judged((1 + beta) * velocity_old - beta * velocity)
    share = (advantages.clamp(-advantage_clip, advantage_clip) / (2 * advantage_clip) + 0.5)[:, None]
    metrics = {
        "positive": positive.detach().mean(),
        "negative": negative.detach().mean(),
        "old_mse": (velocity - velocity_old).detach().square().mean(),
    }
    return advantage_clip * (share * positive + (1 - share) * negative) / beta, metrics


def old_decay(step: int, *, rate: float, largest: float, flat: int = 0) -> float:
    """How much of DiffusionNFT's sampling weights stays: 0 before ``flat``, then ``rate`` a step up to ``largest``."""
    return min(max(step - flat, 0) * rate, largest)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(2).mean(2)
