"""DiffusionNFT (arXiv 2509.16117), a comparator beyond the paper: no ratio, no densities.

An older copy of the weights paints the images; on noised copies of them the policy's velocity is drawn towards what
reproduces good images and away from what reproduces bad ones. The old weights follow slowly (``follow``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from unigrpo.core.settings import Count, NotNegative, Positive
from unigrpo.episodes import noise_pairs, slices
from unigrpo.methods import MethodFacts
from unigrpo.methods import Settings as Section
from unigrpo.objectives import averaging, matching

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.episodes.rollout import Draw, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.study.config import RLConfig


class Settings(Section):
    """What a run may set of it."""

    matching_samples: Count = 8  # (time, noise) pairs per finished image
    nft_beta: Positive = 1.0  # how far the implicit positive and negative velocities lie from the old one
    nft_decay_rate: NotNegative = 1e-3  # the old weights keep the share min(rate x updates, largest) after a rollout
    nft_decay_largest: Annotated[float, Field(ge=0, lt=1)] = 0.5


FACTS = MethodFacts(
    trains=(("image",),),
    noise_inside=False,
    copies=("old",),
    acts="old",
    guided=False,  # the flow-matching loss is not guided
)


def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """Episodes painted by the old weights' ODE, with their pairs."""
    return noise_pairs.roll_out_pairs(nets.copies["old"], draw)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """All episodes: one without advantage is as much positive as negative, which is not nothing."""
    old, reference = (partial(noise_pairs.replay_pairs, model, rl=rl) for model in (nets.copies["old"], nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference, keep_all=True, on_policy=False)


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """The loss is a mean over the slice, to be weighted by share."""
    new, track = noise_pairs.replay_pairs(nets.model, s.rollout, rl), s.rollout.image
    advantages = s.advantages["image"]
    loss, metrics = matching.nft_loss(
        new.image.velocity,
        s.old.image.velocity,
        track.clean,
        track.noise,
        track.pair_times,
        advantages,
        beta=rl.nft_beta,
    )
    loss = rl.image_scale * loss.mean() + slices.penalty(new, s, rl, metrics)
    yield "image", rl.image_weight * loss, metrics


def follow(nets: Networks, rl: RLConfig, updates: int) -> None:
    """old <- d old + (1 - d) policy, d = ``matching.old_decay`` of the optimiser steps so far."""
    d = matching.old_decay(updates, rate=rl.nft_decay_rate, largest=rl.nft_decay_largest)
    averaging.average_into(nets.copies["old"], nets.model, d)
