"""ReFL (arXiv 2304.05977) for flow matching: the gradient of the reward, through one late denoising step.

The image is painted without gradient up to a step drawn uniformly from the last quarter of the grid. There one
evaluation of the network carries gradient; its clean estimate x_t - t v is decoded and judged, and the loss is minus
the mean reward. Only the denoising expert is trained, with or without thinking. Painting then goes on without gradient
to the end, so that the recorded reward is that of finished images as for every other method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from unigrpo.core import distributed, seeding
from unigrpo.core.errors import Collapse
from unigrpo.core.lazy import lazy
from unigrpo.episodes import rollout as episodes
from unigrpo.episodes import slices
from unigrpo.methods import MethodFacts
from unigrpo.models import base
from unigrpo.objectives import flow
from unigrpo.sampling import painting

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from unigrpo.episodes.rollout import Draw, Replay, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.models.base import States, UnifiedModel
    from unigrpo.sampling.engine import Start
    from unigrpo.study.config import RLConfig

torch = lazy("torch")

FACTS = MethodFacts(
    trains=(("image",),),
    noise_inside=False,
    needs=("reward_gradient",),
    ratio=False,
)


@dataclass(frozen=True)
class LateTrack:
    """B paintings as they stood before step ``step`` of the grid, at flow time ``time``: latents (B, *L). images
    (B, 3, H, W) in [0, 1] are the finished ones."""

    SHARED = ("step", "time")
    part = "image"

    step: int
    time: Tensor  # (), on the CPU
    latents: Tensor
    images: Tensor

    @property
    def drawn(self) -> dict[str, int]:
        return {"late_step": self.step}

    def select(self, index) -> LateTrack:
        return LateTrack(self.step, self.time, self.latents[index], self.images[index])


def draw_step(generator: Generator, n_steps: int) -> int:
    """One of the last quarter of the steps 0 .. n_steps - 1 (at least the last), each equally likely."""
    return int(torch.randint(n_steps - max(1, n_steps // 4), n_steps, (), generator=generator))


def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """This process's episodes, painted by the ODE; the late step is drawn once for all of them."""
    model, times = nets.model, draw.times
    step = draw_step(seeding.generator(draw.seed, "late step", draw.index), draw.rl.n_steps)

    def make(begun: Start) -> LateTrack:
        latents, _ = painting.paint(model, begun.seen, begun.x, times[: step + 1], draw.guidance)
        final, _ = painting.paint(model, begun.seen, latents, times[step:], draw.guidance)
        return LateTrack(step, times[step], latents, model.decode(final))

    return episodes.episodes(model, draw, make)


def late_state(track: LateTrack) -> States:
    """The state before the late step."""
    times = track.time.to(track.latents.device).expand(len(track.latents), 1)
    return base.States(track.latents[:, None], times, (track.time.item(),))


def replay_late(model: UnifiedModel, rollout: Rollout, rl: RLConfig) -> Replay:
    """The velocity (B, 1, *L) at the late step under ``model``."""
    return episodes.evaluate(model, rollout, rl, late_state)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """All episodes; their advantages are not used."""
    reference = partial(replay_late, nets.reference, rl=rl)
    return slices.slices(nets, rollout, advantages, rl, lambda part: None, reference, keep_all=True)


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """The loss is a mean over the slice, to be weighted by share."""
    new, track = replay_late(nets.model, s.rollout, rl), s.rollout.image
    clean = flow.clean_estimate(track.latents, new.image.velocity[:, 0], track.time.to(track.latents.device))
    finite = bool(torch.isfinite(clean).all())
    if not all(distributed.collect([finite]) if nets.even else [finite]):
        raise Collapse("the clean estimates are not finite")
    reward = nets.reward(nets.model.decode(clean), list(s.rollout.prompts)).mean()
    metrics = {"estimate_reward": reward.detach()}
    loss = -rl.image_scale * reward + slices.penalty(new, s, rl, metrics)
    yield "image", rl.image_weight * loss, metrics
