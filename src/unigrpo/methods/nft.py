"""DiffusionNFT (arXiv 2509.16117), a comparator beyond the paper: no ratio, no densities.

An older copy of the weights paints the images; on noised copies of them the policy's velocity is drawn towards what
reproduces good images and away from what reproduces bad ones. The old weights follow slowly (``follow``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from unigrpo.episodes.noise_pairs import replay_pairs, roll_out_pairs
from unigrpo.episodes.rollout import Rollout
from unigrpo.episodes.slices import Networks, Slice, slices, velocity_penalty
from unigrpo.objectives.matching import nft_loss, old_decay
from unigrpo.study.config import RLConfig

NEEDS = ("old",)


def roll_out(nets: Networks, *draw) -> Rollout:
    """Episodes painted by the old weights' ODE, with their pairs."""
    return roll_out_pairs(nets.old, *draw)


def make_slices(nets: Networks, rollout: Rollout, advantages: Tensor, rl: RLConfig) -> list[list[Slice]]:
    """All episodes: one without advantage is as much positive as negative, which is not nothing."""
    old, reference = (partial(replay_pairs, model, rl=rl) for model in (nets.old, nets.reference))
    return slices(nets, rollout, advantages, rl, old, reference, keep_all=True)


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """The loss is a mean over the slice, to be weighted by share."""
    new, track = replay_pairs(nets.model, s.rollout, rl), s.rollout.image
    loss, metrics = nft_loss(
        new.velocity, s.old.velocity, track.clean, track.noise, track.pair_times, s.advantages, beta=rl.nft_beta
    )
    loss = rl.image_scale * loss.mean() + velocity_penalty(new, s, rl, metrics)
    yield "image", rl.image_weight * loss, metrics


@torch.no_grad()
def follow(nets: Networks, rl: RLConfig, updates: int) -> None:
    """old <- d old + (1 - d) policy, d = ``matching.old_decay`` of the optimiser steps so far."""
    d = old_decay(updates, rate=rl.nft_decay_rate, largest=rl.nft_decay_largest)
    for old, new in zip(nets.old.parameters(), nets.model.parameters(), strict=True):
        if old is not new:  # weights that are not trained may be shared
            old.copy_(d * old + (1 - d) * new)
