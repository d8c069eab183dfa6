"""Episodes painted by the ODE alone, with pairs (time, noise) of the forward process through each finished image.

Methods without noise inside the trajectory train on them. The pairs are drawn once, with the rollout, and stay the same
in every update, so a difference of flow-matching losses comes from the weights and not from the draws. Times are those
of the training grid: pair j of M takes a time from the j-th of M equal parts of the grid's N steps, so that every image
meets the full range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.episodes.rollout import Replay, Rollout, in_parts, replay_text, think
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives import flow
from unigrpo.objectives.matching import noised
from unigrpo.sampling.painting import paint
from unigrpo.study.config import RLConfig


@dataclass(frozen=True)
class PairTrack:
    """B finished images with M pairs each: clean (B, *L) latents; pair_times (B, M), in (0, 1]; noise (B, M, *L)
    standard normal; images (B, 3, H, W) in [0, 1]."""

    SHARED = ()

    clean: Tensor
    pair_times: Tensor
    noise: Tensor
    images: Tensor

    @property
    def drawn(self) -> dict[str, int]:
        return {}

    def select(self, index) -> PairTrack:
        return PairTrack(self.clean[index], self.pair_times[index], self.noise[index], self.images[index])


def draw_times(times: Tensor, b: int, m: int, generator: torch.Generator) -> Tensor:
    """(b, m) of the grid's times (N+1,) but its last, which is 0; stratified, each time equally likely overall."""
    n = len(times) - 1
    place = (torch.arange(m) + torch.rand(b, m, generator=generator)) * n / m
    return times[place.long().clamp(max=n - 1)]


@torch.no_grad()
def roll_out_pairs(
    model: UnifiedModel, prompts: list[Prompt], rl: RLConfig, max_tokens: int, seed: int, index: int
) -> Rollout:
    """This process's episodes, without any stochastic step, and their pairs."""
    b, m = len(prompts) * rl.group_size, rl.matching_samples
    grid = flow.time_grid(rl.steps, rl.shift, rl.grid)
    times = draw_times(grid, b, m, seeding.generator(seed, "pair times", index))
    noise = torch.randn(b, m, *model.latent_shape, generator=seeding.generator(seed, "pair noise", index))

    def make(rows: list[int]) -> Rollout:
        begun = think(model, prompts, rl, max_tokens, seed, index, rows)
        clean, _ = paint(model, begun.context, begun.x, begun.times, guidance=rl.guidance)
        local_times, local_noise = (x[rows].to(model.device) for x in (times, noise))
        return begun.finish(PairTrack(clean, local_times, local_noise, model.decode(clean)), rl.n_steps)

    return in_parts(make, len(prompts), rl)


def replay_pairs(model: UnifiedModel, rollout: Rollout, rl: RLConfig) -> Replay:
    """Evaluate recorded episodes under ``model``: the text once, velocities (B, M, *L) at all pairs in one batch."""
    logp, entropy, context = replay_text(model, rollout, rl)
    track: PairTrack = rollout.image
    b, m = track.pair_times.shape
    x = noised(track.clean, track.noise, track.pair_times).flatten(0, 1)
    v = model.velocity(context.repeat_interleave(m), x, track.pair_times.flatten())
    return Replay(logp, entropy, v.unflatten(0, (b, m)), None, None, None)
