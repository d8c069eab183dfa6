"""Episodes: think, then paint; and their replay under new weights.

A rollout is B = P * G episodes, prompt-major. An episode is a list of segments, each a text or an image: a trace and an
image, or an image alone. Painting is Euler (ODE) outside one window of stochastic steps (paper, section 3.2,
FlowGRPO-Fast); the latents and noise of these steps are recorded. Replay evaluates all segments in one pass and returns
what the losses need. All random draws come from streams named by (seed, rollout index, episode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.episodes import shares
from unigrpo.models.base import States, Trace, UnifiedModel
from unigrpo.objectives import flow
from unigrpo.sampling.engine import Job, Manner, Start, normal, parts
from unigrpo.sampling.painting import Guidance, evaluations, guidance_of, paint
from unigrpo.study.config import RLConfig


@dataclass(frozen=True)
class Draw:
    """What a rollout is to be: rollout ``index`` of a run with ``seed``, of these ``prompts`` (P), with traces of
    ``max_tokens`` at most, in parts of ``memory`` bytes. ``jobs`` are all B = P * G episodes; a method may replace
    them."""

    prompts: Sequence[Prompt]
    rl: RLConfig
    max_tokens: int
    seed: int
    index: int
    memory: int = 2**30
    jobs: Sequence[Job] = ()

    def __post_init__(self):
        if not self.jobs:
            object.__setattr__(self, "jobs", tuple(self.episode(i) for i in range(self.size)))

    @property
    def size(self) -> int:
        """B."""
        return len(self.prompts) * self.rl.group_size

    def episode(self, i: int) -> Job:
        """Episode i: its group shares the initial noise where the settings say so, and neighbours share a trace."""
        rl, prompt = self.rl, i // self.rl.group_size
        text = (self.index, i // rl.images_per_trace) if rl.thinking else None
        start = (self.index, prompt) if rl.same_noise else (self.index, prompt, i)
        return Job(self.prompts[prompt], text, start, (self.index, i))

    @property
    def local(self) -> list[Job]:
        """The episodes of this process."""
        return [self.jobs[i] for i in shares.local_rows(self.size, self.rl)]

    @property
    def manner(self) -> Manner:
        return Manner(self.rl.temperature, self.max_tokens, self.times, self.guidance, self.memory)

    @property
    def times(self) -> Tensor:
        """(N+1,) the time grid, on the CPU."""
        return flow.time_grid(self.rl.steps, self.rl.shift, self.rl.grid)

    @property
    def guidance(self) -> Guidance:
        return guidance_of(self.rl, self.rl.guidance)


class Track:
    """The record of how B images were painted, a segment of part ``image``: the base of every method's, a frozen
    dataclass. ``SHARED`` names the fields that belong to the rollout; all others have a row an episode."""

    SHARED: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str] = "image"

    images: Tensor  # (B, 3, H, W) finished, in [0, 1]

    @property
    def drawn(self) -> dict[str, int]:
        """The draws that all episodes of the rollout share, for the record."""
        return {}

    def select(self, index) -> Track:
        """The track of these episodes."""
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in self.SHARED}
        return replace(self, **rows)


@dataclass(frozen=True)
class ImageTrack(Track):
    """The stochastic window of B image trajectories.

    times (N+1,) the grid, on the CPU; window: its S stochastic steps, increasing; latents, next_latents (B, S, *L): the
    state before and after each of them; noise (B, S, *L) the standard normal draws; means (B, S, *L) of the
    transitions, as the sampler computed them; images (B, 3, H, W) in [0, 1].
    """

    SHARED = ("times", "window")

    times: Tensor
    window: Sequence[int]
    latents: Tensor
    next_latents: Tensor
    noise: Tensor
    means: Tensor
    images: Tensor

    @property
    def drawn(self) -> dict[str, int]:
        return {"window_start": self.window[0]}


def diversity(images: Tensor, groups: Sequence[int]) -> list[float]:
    """How unlike the images of each group are that has two: root mean square difference between two of them, in [0, 1].
    images (B, 3, H, W) in [0, 1], groups (B,) their groups' numbers."""
    rows = [[i for i, g in enumerate(groups) if g == group] for group in dict.fromkeys(groups)]
    return [(2 * images[members].var(0).mean()).sqrt().item() for members in rows if len(members) > 1]


@dataclass(frozen=True)
class Rollout:
    """B episodes, prompt-major, as segments in the order in which they were made."""

    jobs: tuple[Job, ...]  # (B,)
    prompt_ids: list
    segments: tuple[Trace | Track, ...]
    model_evaluations: int
    max_tokens: int  # length limit of a trace
    columns: dict[str, Tensor | list] = field(default_factory=dict)  # what a method adds: name -> (B, ...)

    @property
    def prompts(self) -> list[Prompt]:
        return [job.prompt for job in self.jobs]

    @property
    def trace(self) -> Trace | None:
        """The first text, or None."""
        return next((s for s in self.segments if s.part == "text"), None)

    @property
    def image(self) -> Track:
        """The last image: the one that is judged."""
        return next(s for s in reversed(self.segments) if s.part == "image")

    def select(self, rows: list[int]) -> Rollout:
        return replace(
            self,
            jobs=tuple(self.jobs[i] for i in rows),
            prompt_ids=[self.prompt_ids[i] for i in rows],
            segments=tuple(s.select(rows) for s in self.segments),
            columns={name: rows_of(values, rows) for name, values in self.columns.items()},
        )


def rows_of(values: Tensor | list, rows: list[int]) -> Tensor | list:
    """These rows of a tensor (B, ...) or of a list of B."""
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


def stochastic_steps(rl: RLConfig, seed: int, index: int) -> Sequence[int]:
    """The window of rollout ``index``, the same for all its groups."""
    if rl.window == "progressive":
        return flow.moving_window(
            index, rl.window_size, rl.window_range, stay=lambda _: rl.window_rollouts, shift=rl.window_size
        )
    draw = seeding.generator(seed, "window", index)
    scattered = rl.window == "scattered"
    return flow.draw_window(draw, rl.window_size, rl.window_range, scattered=scattered)


@torch.no_grad()
def episodes(model: UnifiedModel, draw: Draw, make: Callable[[Start], Track]) -> Rollout:
    """This process's episodes of a rollout; ``make`` paints those of a part."""
    made = []
    for begun in parts(model, draw.local, draw.manner, draw.seed):
        segments = (make(begun),) if begun.trace is None else (begun.trace, make(begun))
        spent = len(begun.jobs) * evaluations(draw.times, draw.guidance)
        made.append(Rollout(begun.jobs, begun.prompt_ids, segments, spent, draw.max_tokens))
    return joined(made)


def roll_out(model: UnifiedModel, draw: Draw) -> Rollout:
    """This process's episodes, with a window of stochastic steps."""
    rl, window = draw.rl, stochastic_steps(draw.rl, draw.seed, draw.index)
    steps = {"window": window, "transition": rl.transition, "noise_level": rl.noise_level}

    def make(begun: Start) -> ImageTrack:
        names = [job.name for job in begun.jobs]
        noise = normal(draw.seed, "noise", names, (len(window), *model.latent_shape)).to(model.device)
        final, states = paint(model, begun.seen, begun.x, draw.times, draw.guidance, noise=noise, **steps)
        latents = torch.stack([before for before, _ in states], 1)
        after, means = (torch.stack([getattr(step, name) for _, step in states], 1) for name in ("prev", "mean"))
        return ImageTrack(draw.times, window, latents, after, noise, means, model.decode(final))

    return episodes(model, draw, make)


def joined(made: list[Rollout]) -> Rollout:
    """One rollout of the episodes of several."""
    if len(made) == 1:
        return made[0]
    return Rollout(
        tuple(job for part in made for job in part.jobs),
        [ids for part in made for ids in part.prompt_ids],
        tuple(joined_segments(segments) for segments in zip(*(part.segments for part in made), strict=True)),
        sum(part.model_evaluations for part in made),
        made[0].max_tokens,
    )


def joined_segments(segments: Sequence[Trace | Track]) -> Trace | Track:
    """The rows of several segments of one kind; texts become as wide as the widest."""
    first, values = segments[0], {}
    for name in (f.name for f in fields(first) if f.name not in first.SHARED):
        rows = [getattr(segment, name) for segment in segments]
        if first.part == "text" and rows[0] is not None:
            width = max(x.shape[1] for x in rows)
            rows = [pad(x, (0, width - x.shape[1])) for x in rows]
        values[name] = None if rows[0] is None else torch.cat(rows)
    return replace(first, **values)


# ------------------------------------------------------------------------------------------------------ replay


@dataclass(frozen=True)
class TextReplay:
    """logp (B, T) nats per token and their entropies (B, T)."""

    logp: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class ImageReplay:
    """At S states of each image: velocity (B, S, *L) after guidance, conditional (B, S, *L) without it, and, where a
    transition has a density, the means (B, S, *L) of the stochastic transitions, log_prob (B, S) mean nats per latent
    element, std (S,) and sigma (S,), std / sqrt|dt|."""

    velocity: Tensor
    conditional: Tensor
    mean: Tensor | None = None
    log_prob: Tensor | None = None
    std: Tensor | None = None
    sigma: Tensor | None = None


@dataclass(frozen=True)
class Replay:
    """What the losses compare, under old, new or reference weights: one a segment, None for one that is not trained."""

    segments: tuple[TextReplay | ImageReplay | None, ...]

    @property
    def text(self) -> TextReplay | None:
        """Of the first text."""
        return next((s for s in self.segments if isinstance(s, TextReplay)), None)

    @property
    def image(self) -> ImageReplay | None:
        """Of the last image."""
        return next((s for s in reversed(self.segments) if isinstance(s, ImageReplay)), None)

    def detach(self) -> Replay:
        def fixed(s):
            return s and type(s)(*(None if x is None else x.detach() for x in vars(s).values()))

        return Replay(tuple(map(fixed, self.segments)))


def evaluate(
    model: UnifiedModel,
    rollout: Rollout,
    rl: RLConfig,
    states: Callable[[Track], States],
    guidance: Guidance | None = None,
) -> Replay:
    """Evaluate recorded episodes under ``model``, all segments in one pass: log-probs and entropies of the texts where
    these are trained, and velocities at the ``states`` of each image where images are. The context of the images is
    detached where their loss stops at the stage boundary. ``guidance`` in place of the run's, as of a reference."""
    guidance = guidance_of(rl, rl.guidance) if guidance is None else guidance
    pieces = [s if s.part == "text" else states(s) if "image" in rl.train else None for s in rollout.segments]
    while pieces and pieces[-1] is None:
        pieces.pop()
    through, text = rl.gradient_through_context, "text" in rl.train
    found = model.replay(rollout.prompt_ids, pieces, guidance.branches, through=through)
    replays: list[TextReplay | ImageReplay | None] = []
    for segment, piece, value in zip(rollout.segments, pieces, found, strict=False):
        if segment.part == "text":
            scores = rl.temperature, rl.entropy_weight > 0
            replays.append(TextReplay(*model.text_logp(value, segment, *scores)) if text else None)
        else:
            replays.append(ImageReplay(guided_at(piece.host_times, value, guidance), value["full"]))
    return Replay(tuple(replays + [None] * (len(rollout.segments) - len(replays))))


def guided_at(times: Sequence[float] | None, velocities: dict[str, Tensor], guidance: Guidance) -> Tensor:
    """Guided velocities (B, S, *L) at S states from those of each branch; ``times`` (S,) of the states, None where
    each episode has its own and guidance acts on all."""
    if len(velocities) == 1:
        return velocities["full"]
    if times is None:
        shape = velocities["full"].shape
        return guidance.combine({name: v.flatten(0, 1) for name, v in velocities.items()}).view(shape)
    each = [guidance.combine({n: velocities[n][:, k] for n in guidance.at(t)}) for k, t in enumerate(times)]
    return torch.stack(each, 1)


def window_states(track: ImageTrack) -> States:
    """The states before the window's steps."""
    times = track.times[list(track.window)]
    shared = times.to(track.latents.device).expand(len(track.latents), -1)
    return States(track.latents, shared, tuple(times.tolist()))


def replay(model: UnifiedModel, rollout: Rollout, rl: RLConfig, guidance: Guidance | None = None) -> Replay:
    """Evaluate recorded episodes under ``model``: the texts, and the transitions of the window's steps."""
    found = evaluate(model, rollout, rl, window_states, guidance)
    pairs = zip(rollout.segments, found.segments, strict=True)
    return Replay(tuple(transitions(s, r, rl) if isinstance(r, ImageReplay) else r for s, r in pairs))


def transitions(track: ImageTrack, at: ImageReplay, rl: RLConfig) -> ImageReplay:
    """The stochastic transitions of the window that its velocities make."""
    b, s = at.velocity.shape[:2]
    times, steps = track.times.to(at.velocity.device), torch.tensor(track.window)
    t, t_next = (times[steps + i].repeat_interleave(b) for i in (0, 1))  # (S*B,) step-major

    def by_step(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(0, 1)

    def by_sample(x: Tensor) -> Tensor:
        return x.unflatten(0, (s, b)).transpose(0, 1)

    recorded = {"prev": by_step(track.next_latents), "noise_level": rl.noise_level, "t_max": times[1]}
    step = flow.sde_step(by_step(track.latents), by_step(at.velocity), t, t_next, kind=rl.transition, **recorded)
    std, sigma = (x.unflatten(0, (s, b))[:, 0] for x in (step.std, step.sigma))
    return ImageReplay(at.velocity, at.conditional, by_sample(step.mean), by_sample(step.log_prob), std, sigma)


def unguided(track: Track, at: ImageReplay, rl: RLConfig) -> ImageReplay:
    """What the conditional velocity alone would have made."""
    alone = ImageReplay(at.conditional, at.conditional)
    return alone if at.mean is None else transitions(track, alone, rl)
