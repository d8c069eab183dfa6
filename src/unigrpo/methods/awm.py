"""Advantage Weighted Matching (AWM, arXiv 2509.25050), a comparator beyond the paper: FPO with another weighting of
times, a ratio for each pair, and a second penalty, <(v - v_avg)^2>, to a moving average of the policy's weights.

The average moves after a rollout (``follow``) and forgets quickly, so it holds back how far the next rollout's updates
go, while the regulariser measures from the start of the run. docs/methods/awm.md says what differs from the peers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from unigrpo.core.settings import NotNegative, Positive
from unigrpo.episodes import noise_pairs, slices
from unigrpo.methods import without_gradient
from unigrpo.methods.fpo import FACTS as FPO_FACTS
from unigrpo.methods.fpo import Settings as FpoSettings
from unigrpo.methods.fpo import make_slices, policy_loss, roll_out  # noqa: F401
from unigrpo.objectives import averaging, image_losses, matching

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.study.config import RLConfig

FACTS = replace(FPO_FACTS, copies=("recent",))


class Settings(FpoSettings):
    """What a run may set of it."""

    matching_weight: Literal["uniform", "noise", "t", "t2", "huber", "ghuber"] = "ghuber"
    matching_ratio: Literal["mean", "each"] = "each"
    matching_clip: Positive = 1.0
    pull_weight: NotNegative = 1.0  # of the second penalty, against the policy's term
    pull_decay_rate: NotNegative = 1e-3  # the average keeps the share min(rate x updates, largest) after a rollout
    pull_decay_largest: Annotated[float, Field(ge=0, lt=1)] = 0.3


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Losses are means over the slice, to be weighted by share; ``pull`` is the second penalty without its weight."""
    new = noise_pairs.replay_pairs(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    recent = without_gradient(noise_pairs.replay_pairs)(nets.copies["recent"], s.rollout, rl)
    loss, metrics = policy_loss(new, s, rl)
    pull = image_losses.velocity_mse(new.image.velocity, recent.image.velocity).mean()
    metrics["pull"] = pull.detach()
    loss = rl.image_scale * (loss + rl.pull_weight * pull) + slices.penalty(new, s, rl, metrics)
    yield "image", rl.image_weight * loss, metrics


def follow(nets: Networks, rl: RLConfig, updates: int) -> None:
    """recent <- d recent + (1 - d) policy, d = ``matching.old_decay`` of the optimiser steps so far."""
    d = matching.old_decay(updates, rate=rl.pull_decay_rate, largest=rl.pull_decay_largest)
    averaging.average_into(nets.copies["recent"], nets.model, d)
