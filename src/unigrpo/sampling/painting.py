"""From noise to a picture: the denoising loop, with guidance and a window of stochastic steps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unigrpo.models.base import UnifiedModel
from unigrpo.models.mot import Context
from unigrpo.objectives import flow


def paint(
    model: UnifiedModel,
    context: Context,
    x: Tensor,
    times: Tensor,
    *,
    guidance: float,
    renorm: str = "none",
    window: Sequence[int] = (),
    transition: flow.Kind = "sde",
    noise_level: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Denoise latents x (B, N, token_dim) from times[0] to times[-1]; stochastic inside ``window``.

    noise (B, S, N, token_dim) is used by the window's steps in order. Returns the final latents and the states before
    and after each stochastic step.
    """
    uncond = model.empty_context(len(x)) if guidance > 1 else None
    states = []
    for k in range(len(times) - 1):
        t, t_next = times[k], times[k + 1]
        v = guided(model, context, uncond, x, t.expand(len(x)), guidance, renorm)
        if k in window:
            step = {"noise": noise[:, len(states)], "noise_level": noise_level, "t_max": times[1].item()}
            after = flow.sde_step(x, v, t, t_next, kind=transition, **step).prev
            states.append((x, after))
            x = after
        else:
            x = flow.euler_step(x, v, t, t_next)
    return x, states


def guided(
    model: UnifiedModel,
    context: Context,
    uncond: Context | None,
    x: Tensor,
    t: Tensor,
    guidance: float,
    renorm: str = "none",
) -> Tensor:
    """Velocity at x (B, N, token_dim), t (B,); with ``uncond`` classifier-free guidance of that scale."""
    v = model.velocity(context, x, t)
    if uncond is None:
        return v
    return flow.guided_velocity(v, model.velocity(uncond, x, t), guidance, renorm)
