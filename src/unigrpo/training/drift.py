"""How far a policy has moved from the checkpoint that it started from: one measure for every method.

The starting checkpoint writes one trace for every validation prompt and paints it by the ODE, without guidance. A
probe records the states on the way; all runs from one start share them. The drift is the velocity MSE between policy
and start at these states, by step of the grid. It sees what an optimiser changed in either expert: a changed
reasoning expert gives the denoising expert other keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.models.base import Trace, UnifiedModel
from unigrpo.objectives import flow
from unigrpo.objectives.image_losses import velocity_mse
from unigrpo.study.config import RLConfig

SEED = 3  # of the start's draws: neither training's nor validation's


@dataclass(frozen=True)
class Probe:
    """Paintings by the starting checkpoint: prompts and traces of B, times (N,), latents and velocities (N, B, *L)."""

    prompt_ids: list[list[int]]
    trace: Trace | None
    times: Tensor
    latents: Tensor
    velocities: Tensor


@torch.no_grad()
def probe(start: UnifiedModel, prompts: list[Prompt], rl: RLConfig, max_tokens: int) -> Probe:
    """Paint each prompt once; thinking, temperature and grid are those of training."""
    ids, device = start.prompt_ids([p.text for p in prompts]), start.device
    trace, context = None, start.read_prompts(ids)
    if rl.thinking:
        uniforms = torch.rand(len(ids), max_tokens, generator=seeding.generator(SEED, "text")).to(device)
        trace, context = start.think(ids, max_tokens, uniforms, rl.temperature)
    x = torch.randn(len(ids), *start.latent_shape, generator=seeding.generator(SEED, "start")).to(device)
    times = flow.time_grid(rl.steps, rl.shift, rl.grid).to(device)
    latents, velocities = [], []
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        latents.append(x)
        velocities.append(start.velocity(context, x, t.expand(len(x))))
        x = flow.euler_step(x, velocities[-1], t, t_next)
    return Probe(ids, trace, times[:-1], torch.stack(latents), torch.stack(velocities))


@torch.no_grad()
def drift(model: UnifiedModel, at: Probe) -> list[float]:
    """Velocity MSE, mean over latent numbers and prompts, at each of the N steps."""
    _, context = model.encode(at.prompt_ids, at.trace)
    return [
        velocity_mse(model.velocity(context, x, t.expand(len(x)))[:, None], v[:, None]).mean().item()
        for t, x, v in zip(at.times, at.latents, at.velocities, strict=True)
    ]
