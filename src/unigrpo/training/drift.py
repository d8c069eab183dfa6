"""How far a policy has moved from the checkpoint that it started from: one measure for every method.

The starting checkpoint writes one trace for every validation prompt and paints it by the ODE, without guidance. A
probe records the states on the way; all runs from one start share them. The drift is the velocity MSE between policy
and start at these states, by step of the grid. It sees what an optimiser changed in either expert: a changed
reasoning expert gives the denoising expert other keys and values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.core import distributed
from unigrpo.core.records import Prompt
from unigrpo.models.base import Trace, UnifiedModel
from unigrpo.objectives import flow
from unigrpo.objectives.image_losses import velocity_mse
from unigrpo.sampling.engine import Job, Manner, parts
from unigrpo.sampling.painting import Guidance, paint
from unigrpo.study.config import RunConfig

SEED = 3  # of the start's draws: neither training's nor validation's


@dataclass(frozen=True)
class Probe:
    """Paintings by the starting checkpoint, those that were painted together: prompts and traces of B, times (N,),
    latents and velocities (N, B, *L)."""

    prompt_ids: list
    trace: Trace | None
    times: Tensor
    latents: Tensor
    velocities: Tensor


@torch.no_grad()
def probe(start: UnifiedModel, prompts: list[Prompt], cfg: RunConfig) -> list[Probe]:
    """Paint each of this process's share of the prompts once; thinking, temperature and grid are those of training."""
    rl, made = cfg.rl, []
    times = flow.time_grid(rl.steps, rl.shift, rl.grid)
    manner = Manner(rl.temperature, cfg.sampling.max_trace_tokens, times, Guidance(), cfg.sampling.memory * 2**20)
    jobs = [Job(p, (p.id,) if rl.thinking else None, (p.id,), (p.id,)) for p in distributed.share(prompts)]
    for begun in parts(start, jobs, manner, SEED):
        states: list[tuple[Tensor, Tensor]] = []
        paint(start, begun.seen, begun.x, times, Guidance(), observe=lambda x, v, to=states: to.append((x, v)))
        latents, velocities = (torch.stack(values) for values in zip(*states, strict=True))
        made.append(Probe(begun.prompt_ids, begun.trace, times[:-1].to(start.device), latents, velocities))
    return made


@torch.no_grad()
def drift(model: UnifiedModel, probes: list[Probe]) -> list[float]:
    """Velocity MSE, mean over latent numbers and the prompts of all processes, at each of the N steps."""
    each = []
    for at in probes:
        _, context = model.encode(at.prompt_ids, at.trace)
        found = [
            velocity_mse(model.velocity(context, x, t.expand(len(x)))[:, None], v[:, None])[:, 0]
            for t, x, v in zip(at.times, at.latents, at.velocities, strict=True)
        ]
        each += torch.stack(found, 1).tolist()  # (B, N)
    return torch.tensor(distributed.collect(each)).mean(0).tolist()
