"""From noise to a picture: guidance, and the denoising loop with a window of stochastic steps.

The loop reads nothing back from the device: times are known to the host beforehand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from unigrpo.models.base import PaintContext, Trace, UnifiedModel
from unigrpo.objectives import flow
from unigrpo.study.config import Denoising

Contexts = dict[str, PaintContext]  # what is painted after: "full", and the branches that guidance leads away from


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: ``scale`` away from the empty context, ``reasoning`` away from the prompt without its
    trace (1 = none each), at flow times in (start, end] of ``interval``; ``renorm`` as in ``flow.guided_velocity``."""

    scale: float = 1.0
    reasoning: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: str = "none"

    @property
    def branches(self) -> tuple[str, ...]:
        """The contexts that a guided velocity is made of."""
        return ("full", *["empty"] * (self.scale > 1), *["prompt"] * (self.reasoning > 1))

    def at(self, t: float) -> tuple[str, ...]:
        """Those that are evaluated at flow time ``t``."""
        return self.branches if self.interval[0] < t <= self.interval[1] else ("full",)

    def combine(self, velocities: dict[str, Tensor]) -> Tensor:
        """The velocity (B, N, token_dim) made of those of some branches; of ``full`` alone it is not guided."""
        full, scale, reasoning = velocities["full"], self.scale, self.reasoning
        if len(velocities) == 1:
            return full
        second = {"image_uncond": velocities.get("prompt"), "image_scale": reasoning}
        return flow.guided_velocity(full, velocities.get("empty"), scale, self.renorm, **second)


def guidance_of(settings: Denoising, scale: float) -> Guidance:
    """The guidance of a stage's settings, at a ``scale``."""
    return Guidance(scale, settings.reasoning_guidance, settings.guidance_interval, settings.renorm)


def contexts(
    model: UnifiedModel, prompt_ids: list, trace: Trace | None, full: PaintContext, guidance: Guidance
) -> Contexts:
    """What B images are painted after, by branch."""
    made = {"full": full}
    if "empty" in guidance.branches:
        made["empty"] = model.empty_context(len(prompt_ids))
    if "prompt" in guidance.branches:
        made["prompt"] = model.read_prompts(prompt_ids, trace)
    return made


def paint(
    model: UnifiedModel,
    seen: Contexts,
    x: Tensor,
    times: Tensor,
    guidance: Guidance,
    *,
    window: Sequence[int] = (),
    transition: flow.Kind = "sde",
    noise_level: float = 0.0,
    noise: Tensor | None = None,
    observe: Callable[[Tensor, Tensor], None] = lambda x, v: None,
) -> tuple[Tensor, list[tuple[Tensor, flow.Step]]]:
    """Denoise latents x (B, N, token_dim) along ``times`` (N+1,), which are on the CPU; stochastic inside ``window``.

    noise (B, S, N, token_dim) is used by the window's steps in order. ``observe`` sees the state and the velocity of
    every step. Returns the final latents, and of each stochastic step the state before it and the step.
    """
    clock, states = times.to(x.device), []
    for k, t in enumerate(times[:-1].tolist()):
        now, then = clock[k], clock[k + 1]
        v = guidance.combine({name: model.velocity(seen[name], x, now.expand(len(x))) for name in guidance.at(t)})
        observe(x, v)
        if k in window:
            drawn = {"noise": noise[:, len(states)], "noise_level": noise_level, "t_max": clock[1]}
            states.append((x, flow.sde_step(x, v, now, then, kind=transition, **drawn)))
            x = states[-1][1].prev
        else:
            x = flow.euler_step(x, v, now, then)
    return x, states


def evaluations(times: Tensor, guidance: Guidance) -> int:
    """Evaluations of the network that one painting along ``times`` takes."""
    return sum(len(guidance.at(t)) for t in times[:-1].tolist())
