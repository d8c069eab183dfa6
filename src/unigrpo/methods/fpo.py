"""FPO for the image part, alone or beside TextGRPO (UniFPO).

The importance ratio of a finished image is the exponential of the fall of its flow-matching loss on stored
(time, noise) pairs, old minus new; then PPO's clip (arXiv 2507.21053). Images come from the
ODE. Old losses are the new ones where no update lies between, and come from a replay over the very slices that are
updated elsewhere, so every ratio is exactly 1 before the first update. docs/methods/fpo.md says what differs from the
peers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

from unigrpo.core.settings import Count, Positive
from unigrpo.episodes import noise_pairs, slices
from unigrpo.methods import MethodFacts
from unigrpo.methods import Settings as Section
from unigrpo.objectives import matching

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.episodes.noise_pairs import PairTrack
    from unigrpo.episodes.rollout import Draw, Replay, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.study.config import RLConfig


class Settings(Section):
    """What a run may set of it."""

    matching_samples: Count = 8  # (time, noise) pairs per finished image
    matching_weight: Literal["uniform", "noise", "t", "t2", "huber", "ghuber"] = "uniform"  # of a pair's loss
    matching_ratio: Literal["mean", "each"] = "mean"  # one ratio per image, or one per pair
    matching_clip: Positive = 0.05  # clip range of that ratio


FACTS = MethodFacts(
    trains=(("image",), ("text", "image")),
    noise_inside=False,
    guided=False,  # the flow-matching loss is not guided
)


def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """Episodes painted by the ODE, with their pairs."""
    return noise_pairs.roll_out_pairs(nets.model, draw)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """Slices with the text and the pairs under old and reference weights."""
    old, reference = (partial(noise_pairs.replay_pairs, model, rl=rl) for model in (nets.model, nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference)


def log_ratio(new: Replay, old: Replay, track: PairTrack, rl: RLConfig) -> tuple[Tensor, Tensor]:
    """log ratios (B, 1) or (B, M), and the new flow-matching losses (B, M)."""
    after, before = (matching.flow_matching_loss(r.image.velocity, track.clean, track.noise) for r in (new, old))
    new_log_prob, old_log_prob = (
        matching.surrogate_log_prob(x, track.pair_times, rl.matching_weight) for x in (after, before)
    )
    return matching.matching_log_ratio(new_log_prob, old_log_prob, rl.matching_ratio), after


def policy_loss(new: Replay, s: Slice, rl: RLConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy gradient of the images, a mean over the slice."""
    ratios, error = log_ratio(new, s.before(new), s.rollout.image, rl)
    loss, metrics = matching.matching_loss(ratios, s.advantages["image"], clip_range=rl.matching_clip)
    return loss.mean(), metrics | {"matching": error.detach().mean()}


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Losses are means over the slice, to be weighted by share."""
    new = noise_pairs.replay_pairs(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    loss, metrics = policy_loss(new, s, rl)
    loss = rl.image_scale * loss + slices.penalty(new, s, rl, metrics)
    yield "image", rl.image_weight * loss, metrics
