"""Episodes painted by the ODE alone, with pairs (time, noise) of the forward process through each finished image.

Methods without noise inside the trajectory train on them. The pairs are drawn once, with the rollout, and stay the same
in every update, so a difference of flow-matching losses comes from the weights and not from the draws. Times are those
of the training grid: pair j of M takes a time from the j-th of M equal parts of the grid's N steps, so that every image
meets the full range.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unigrpo.core import seeding
from unigrpo.episodes.rollout import Draw, Rollout, Track, episodes, evaluate
from unigrpo.models.base import States, UnifiedModel
from unigrpo.objectives.matching import noised
from unigrpo.sampling.engine import Name, Start, normal
from unigrpo.sampling.painting import paint


@dataclass(frozen=True)
class PairTrack(Track):
    """B finished images with M pairs each: clean (B, *L) latents; pair_times (B, M), in (0, 1]; noise (B, M, *L)
    standard normal; images (B, 3, H, W) in [0, 1]."""

    clean: Tensor
    pair_times: Tensor
    noise: Tensor
    images: Tensor

    @property
    def states(self) -> States:
        """The noised images."""
        return States(noised(self.clean, self.noise, self.pair_times), self.pair_times)


def draw_times(times: Tensor, m: int, seed: int, names: list[Name]) -> Tensor:
    """(len(names), m) of the grid's times (N+1,) but its last, which is 0; stratified, each time equally likely
    overall."""
    n = len(times) - 1
    drawn = torch.stack([torch.rand(m, generator=seeding.generator(seed, "pair times", *name)) for name in names])
    return times[((torch.arange(m) + drawn) * n / m).long().clamp(max=n - 1)]


def roll_out_pairs(model: UnifiedModel, draw: Draw) -> Rollout:
    """This process's episodes, without any stochastic step, and their pairs."""
    m = draw.rl.matching_samples

    def make(begun: Start) -> PairTrack:
        names = [job.name for job in begun.jobs]
        clean, _ = paint(model, begun.seen, begun.x, draw.times, draw.guidance)
        noise = normal(draw.seed, "pair noise", names, (m, *model.latent_shape)).to(model.device)
        times = draw_times(draw.times, m, draw.seed, names).to(model.device)
        return PairTrack(clean, times, noise, model.decode(clean))

    return episodes(model, draw, make)


replay_pairs = partial(evaluate, states=lambda track: track.states)
