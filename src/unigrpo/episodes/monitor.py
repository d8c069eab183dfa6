"""Whether the replay sees what the sampler did: its own log-probabilities beside those of the first replay.

Before the first update of a rollout both are of the same weights, so nothing but rounding may lie between them. A
temperature, a time grid, a guidance or a context that differs shows here and nowhere else: the ratios compare two
replays, which share the fault. The same differences are the rounding floor below which a clip range means nothing.
"""

import torch
from torch import Tensor

from unigrpo.core.errors import UserError
from unigrpo.episodes.rollout import ImageReplay, ImageTrack, TextReplay
from unigrpo.models.base import Trace
from unigrpo.objectives.image_losses import plain_log_ratio, ratio_norm_log_ratio
from unigrpo.objectives.text_losses import masked_mean
from unigrpo.study.config import RLConfig

# Means above which a run stops, by precision: a token's log-probability in nats; a transition's mean, root mean square
# over its numbers, in standard deviations. Rounding makes 1e-6 and 1e-7 of them, in bf16 6e-4 and 6e-4.
BOUNDS = {"no": {"text": 1e-3, "image": 1e-3}, "bf16": {"text": 0.05, "image": 5e-3}}
UNITS = {"text": "nats a token", "image": "standard deviations"}


@torch.no_grad()
def text(trace: Trace, replay: TextReplay) -> dict[str, Tensor]:
    """``mismatch`` (mean) and ``mismatch_max``: absolute differences, in nats a token, of the sampler's
    log-probabilities and the replay's. Nothing for texts that were not sampled by this policy."""
    if trace.logp is None:
        return {}
    difference = (trace.logp - replay.logp).abs().masked_fill(~trace.mask, 0.0)
    return {"mismatch": masked_mean(difference, trace.mask), "mismatch_max": difference.max()}


@torch.no_grad()
def image(track: ImageTrack, replay: ImageReplay, rl: RLConfig) -> dict[str, Tensor]:
    """``mismatch`` (mean) and ``mismatch_max``: root mean square differences, in standard deviations of the transition,
    of the sampler's means and the replay's. ``log_ratio_floor``: the root mean square of the log ratio between the two,
    which is what rounding alone makes of it."""
    apart = (track.means - replay.mean).square().flatten(2).mean(2).sqrt() / replay.std
    if rl.ratio == "ratio_norm":
        floor = ratio_norm_log_ratio(replay.mean, track.means, track.noise)
    else:
        errors = ((track.next_latents - mean).square().flatten(2).mean(2) for mean in (replay.mean, track.means))
        floor = plain_log_ratio(*(-error / (2 * replay.std.square()) for error in errors))
    return {"mismatch": apart.mean(), "mismatch_max": apart.max(), "log_ratio_floor": floor.square().mean().sqrt()}


def require_match(metrics: dict[str, float], precision: str) -> None:
    """Raise UserError naming the part whose ``metrics`` of an update show that its replay sees something else than its
    sampler did."""
    for part, bound in BOUNDS[precision].items():
        if (found := metrics.get(f"{part}_mismatch", 0.0)) > bound:
            apart = f"{found:.3g} {UNITS[part]} in the mean, expected at most {bound}"
            raise UserError(f"{part}: the replay before any update differs from what the sampler did by {apart}")
