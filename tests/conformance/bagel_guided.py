"""Case D of the BAGEL vectors: sampling trajectories after a prompt and with thinking, and guidance with every
renorm. Contexts are those of the official inference: system prompt, prompt and trace; the system prompt alone where
the text is guided away from; system prompt and prompt where the picture is."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.conformance.bagel_vectors import Vectors
from tests.conformance.checking import Check
from unigrpo.models.mot import MoT
from unigrpo.models.mot_pieces import Context
from unigrpo.objectives.flow import euler_step, guided_velocity, time_grid


@dataclass(frozen=True)
class Guidance:
    """Scales, where in time they apply (lo < t <= hi), and the renorm; image scale 1 = text guidance only."""

    text: float = 1.0
    image: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: str = "global"
    renorm_min: float = 0.0


def unguided(file: Vectors) -> list[Check]:
    return _trajectory(file, "D.nocfg", [file.prompt(), file.model.empty_context(1)], Guidance())


def text_guided(file: Vectors) -> list[Check]:
    scale = file.expected("D.cfg4.text_scale_used").max().item()
    guidance = Guidance(scale, interval=tuple(file.parameters["cfg4_interval"]))
    return _trajectory(file, "D.cfg4", [file.prompt(), file.model.empty_context(1)], guidance)


def thinking(file: Vectors) -> list[Check]:
    given, contexts = file.parameters["think"], _branches(file)
    guidance = Guidance(
        given["cfg_text_scale"],
        given["cfg_img_scale"],
        tuple(given["cfg_interval"]),
        given["cfg_renorm_type"],
        given["cfg_renorm_min"],
    )
    places = file.check("D.think.block_position", torch.cat([context.rope for context in contexts]))
    return [places, *_trajectory(file, "D.think", contexts, guidance)]


def renorms(file: Vectors) -> list[Check]:
    """Every stored ``D.renorm_<kind>[_min<least, p for the point>][_textonly]``."""
    given, x, contexts, checks = file.parameters, file.input("C.x")[None], _branches(file), []
    t = torch.tensor([given["D_t"]])
    for name in sorted(name for name in file.tensors if name.startswith("expected.D.renorm_")):
        kind, least, alone = re.fullmatch(r"expected\.D\.renorm_(.+?)(?:_min([\dp]+))?(_textonly)?", name).groups()
        guidance = Guidance(
            given["D_text"],
            1.0 if alone else given["D_img"],
            renorm=kind,
            renorm_min=float((least or "0").replace("p", ".")),
        )
        checks.append(
            file.check(name.removeprefix("expected."), velocity(file.model, contexts, x, t, file.grid(), guidance))
        )
    return checks


def velocity(
    model: MoT, contexts: list[Context], x: Tensor, t: Tensor, grid: tuple[int, int], guidance: Guidance
) -> Tensor:
    """Guided velocity of x (1, N, token_dim) at t (1,). contexts: with everything, without the text, and for image
    guidance without the picture."""
    own = [model.velocity(context, x, t, grid) for context in contexts]
    lo, hi = guidance.interval
    inside = lo < t.item() <= hi
    return guided_velocity(
        own[0],
        own[1],
        guidance.text if inside else 1.0,
        guidance.renorm,
        guidance.renorm_min,
        own[-1],
        guidance.image if inside else 1.0,
    )


def _branches(file: Vectors) -> list[Context]:
    """Contexts with a trace: all of it, the system prompt, the system prompt and the prompt."""
    system = file.read(file.input("D.system_ids"))
    prompted = file.read(file.input("B.prompt_ids"), system)
    return [file.read(file.input("D.think_ids"), prompted), system, prompted]


@torch.no_grad()
def _trajectory(file: Vectors, name: str, contexts: list[Context], guidance: Guidance) -> list[Check]:
    """Euler sampling of a whole grid."""
    x = file.input("D.init_noise")[None]
    points = len(file.expected(f"{name}.x"))
    grid = time_grid(points, _shift_of(file.expected(f"{name}.t")), "points")
    lo, hi = guidance.interval
    states, velocities = [x], []
    for t, t_next in zip(grid[:-1], grid[1:], strict=True):
        velocities.append(velocity(file.model, contexts, x, t[None], file.grid(), guidance))
        x = euler_step(x, velocities[-1], t, t_next)
        states.append(x)
    scales = [guidance.text if lo < t <= hi else 1.0 for t in grid[:-1].tolist()]
    return [
        file.check(f"{name}.t", grid[:-1]),
        file.check(f"{name}.text_scale_used", torch.tensor(scales)),
        file.check(f"{name}.v", torch.cat(velocities)),
        file.check(f"{name}.x", torch.cat(states)),
    ]


def _shift_of(times: Tensor) -> float:
    """The shift behind a stored grid of n times (the final 0 left out), from its second value."""
    if len(times) < 2:
        return 1.0
    u, t = 1 - 1 / len(times), times[1].item()
    return round(t * (1 - u) / (u * (1 - t)), 3)
