"""Episodes: think, then paint; and their replay under new weights.

A rollout is B = P * G episodes, prompt-major: one trace and one image each. Painting is Euler (ODE) outside one
window of stochastic steps (paper, section 3.2, FlowGRPO-Fast); the latents and noise of these steps are recorded.
Replay folds the window's steps into the batch and returns what the losses need. All random draws come from streams
named by (seed, rollout index).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.episodes import shares
from unigrpo.models.base import Trace, UnifiedModel
from unigrpo.models.mot import Context
from unigrpo.objectives import flow
from unigrpo.sampling.painting import guided, paint
from unigrpo.study.config import RLConfig


@dataclass(frozen=True)
class ImageTrack:
    """The stochastic window of B image trajectories.

    times (N+1,) the grid; window: its S stochastic steps, increasing; latents, next_latents (B, S, *L): the
    state before and after each of them; noise (B, S, *L) the standard normal draws; images (B, 3, H, W) in [0, 1].
    """

    SHARED = ("times", "window")

    times: Tensor
    window: Sequence[int]
    latents: Tensor
    next_latents: Tensor
    noise: Tensor
    images: Tensor

    @property
    def drawn(self) -> dict[str, int]:
        """The draws that all episodes of the rollout share, for the record."""
        return {"window_start": self.window[0]}

    def select(self, index) -> ImageTrack:
        per_episode = (self.latents, self.next_latents, self.noise, self.images)
        return ImageTrack(self.times, self.window, *(x[index] for x in per_episode))


def diversity(images: Tensor, group_size: int) -> Tensor:
    """How unlike the images of a group are: root mean square difference between two of them, mean over groups.
    images (P * G, 3, H, W) in [0, 1] -> () in [0, 1]."""
    variance = images.unflatten(0, (-1, group_size)).var(1).flatten(1).mean(1)
    return (2 * variance).sqrt().mean()


class Track(Protocol):
    """What the track of every method has: its record of how B images were painted."""

    SHARED: ClassVar[tuple[str, ...]]  # fields that belong to the rollout; all others have a row an episode

    images: Tensor  # (B, 3, H, W) finished, in [0, 1]
    drawn: dict[str, int]

    def select(self, index) -> Track: ...


@dataclass(frozen=True)
class Rollout:
    """B episodes, prompt-major. ``trace`` is None without thinking."""

    prompts: tuple[Prompt, ...]  # (B,)
    prompt_ids: list[list[int]]
    trace: Trace | None
    image: Track
    model_evaluations: int
    max_tokens: int  # length limit of a trace
    columns: dict[str, Tensor | list] = field(default_factory=dict)  # what a method adds: name -> (B, ...)

    def select(self, rows: list[int]) -> Rollout:
        return Rollout(
            tuple(self.prompts[i] for i in rows),
            [self.prompt_ids[i] for i in rows],
            None if self.trace is None else self.trace.select(rows),
            self.image.select(rows),
            self.model_evaluations,
            self.max_tokens,
            {name: rows_of(values, rows) for name, values in self.columns.items()},
        )


def rows_of(values: Tensor | list, rows: list[int]) -> Tensor | list:
    """These rows of a tensor (B, ...) or of a list of B."""
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


@dataclass(frozen=True)
class Replay:
    """What the losses compare: under old, new or reference weights."""

    logp: Tensor | None  # (B, T) nats per token
    entropy: Tensor | None  # (B, T) nats
    velocity: Tensor | None  # (B, S, *L), after guidance
    mean: Tensor | None  # (B, S, *L) mean of each stochastic transition
    log_prob: Tensor | None  # (B, S) mean nats per latent element
    std: Tensor | None  # (S,) transition std

    def detach(self) -> Replay:
        return Replay(*(None if x is None else x.detach() for x in vars(self).values()))


def stochastic_steps(rl: RLConfig, seed: int, index: int) -> Sequence[int]:
    """The window of rollout ``index``, the same for all its groups."""
    if rl.window == "progressive":
        return flow.moving_window(
            index, rl.window_size, rl.window_range, stay=lambda _: rl.window_rollouts, shift=rl.window_size
        )
    draw = seeding.generator(seed, "window", index)
    scattered = rl.window == "scattered"
    return flow.draw_window(draw, rl.window_size, rl.window_range, rl.n_steps, scattered=scattered)


@dataclass(frozen=True)
class Start:
    """B episodes with a trace and without an image yet."""

    prompts: tuple[Prompt, ...]  # (B,)
    prompt_ids: list[list[int]]
    trace: Trace | None
    context: Context
    times: Tensor  # (N+1,) the grid
    x: Tensor  # (B, *L) initial noise
    max_tokens: int  # length limit of a trace

    def finish(self, image: Track, evaluations: int) -> Rollout:
        """The rollout, after ``evaluations`` of the network per episode."""
        evaluations *= len(self.prompts)
        return Rollout(self.prompts, self.prompt_ids, self.trace, image, evaluations, self.max_tokens)


@torch.no_grad()
def think(
    model: UnifiedModel, prompts: list[Prompt], rl: RLConfig, max_tokens: int, seed: int, index: int, rows: list[int]
) -> Start:
    """Begin the episodes ``rows`` of a rollout of ``rl.group_size`` episodes of each prompt; ``index`` is the rollout's
    number in its run. An episode's draws do not depend on which others are begun with it."""
    groups, b = rl.group_size, len(prompts) * rl.group_size
    episodes = tuple(prompts[i // groups] for i in rows)
    ids = model.prompt_ids([p.text for p in prompts])
    prompt_ids = [ids[i // groups] for i in rows]
    if rl.thinking:
        uniforms = torch.rand(b, max_tokens, generator=seeding.generator(seed, "text", index))[rows].to(model.device)
        trace, context = model.think(prompt_ids, max_tokens, uniforms, rl.temperature)
    else:
        trace, context = None, model.read_prompts(prompt_ids)
    start = torch.randn(
        len(prompts),
        1 if rl.same_noise else groups,
        *model.latent_shape,
        generator=seeding.generator(seed, "start", index),
    )
    x = start.expand(-1, groups, -1, -1).reshape(b, *model.latent_shape)[rows].to(model.device)
    times = flow.time_grid(rl.steps, rl.shift, rl.grid).to(model.device)
    return Start(episodes, prompt_ids, trace, context, times, x, max_tokens)


@torch.no_grad()
def roll_out(
    model: UnifiedModel, prompts: list[Prompt], rl: RLConfig, max_tokens: int, seed: int, index: int
) -> Rollout:
    """This process's episodes, with a window of stochastic steps."""
    window = stochastic_steps(rl, seed, index)
    shape = len(prompts) * rl.group_size, len(window), *model.latent_shape
    drawn = torch.randn(shape, generator=seeding.generator(seed, "noise", index))

    def make(rows: list[int]) -> Rollout:
        begun = think(model, prompts, rl, max_tokens, seed, index, rows)
        noise = drawn[rows].to(model.device)
        final, states = paint(
            model,
            begun.context,
            begun.x,
            begun.times,
            guidance=rl.guidance,
            window=window,
            transition=rl.transition,
            noise_level=rl.noise_level,
            noise=noise,
        )
        latents, next_latents = (torch.stack(x, 1) for x in zip(*states, strict=True))
        image = ImageTrack(begun.times, window, latents, next_latents, noise, model.decode(final))
        return begun.finish(image, rl.n_steps * (2 if rl.guidance > 1 else 1))

    return in_parts(make, len(prompts), rl)


def in_parts(make: Callable[[list[int]], Rollout], n_prompts: int, rl: RLConfig) -> Rollout:
    """This process's episodes of a rollout of ``n_prompts`` prompts, made ``rl.rollout_batch`` at a time: memory
    holds keys, values and activations of that many."""
    rows = shares.local_rows(n_prompts, rl)
    size = rl.rollout_batch or len(rows)
    return joined([make(rows[i : i + size]) for i in range(0, len(rows), size)])


def joined(parts: list[Rollout]) -> Rollout:
    """One rollout of the episodes of several."""
    first = parts[0]
    if len(parts) == 1:
        return first
    values: dict[str, object] = {}
    for name in first.image.__dataclass_fields__:
        fields = [getattr(part.image, name) for part in parts]
        values[name] = fields[0] if name in first.image.SHARED else concatenated(fields)
    return Rollout(
        tuple(prompt for part in parts for prompt in part.prompts),
        [ids for part in parts for ids in part.prompt_ids],
        None if first.trace is None else stacked([part.trace for part in parts]),
        type(first.image)(**values),
        sum(part.model_evaluations for part in parts),
        first.max_tokens,
        {name: concatenated([part.columns[name] for part in parts]) for name in first.columns},
    )


def concatenated(parts: list[Tensor] | list[list]) -> Tensor | list:
    """Tensors (b, ...), or lists of b, one after the other."""
    return [row for part in parts for row in part] if isinstance(parts[0], list) else torch.cat(parts)


def stacked(traces: list[Trace]) -> Trace:
    """The rows of several traces, as wide as the widest."""
    width = max(trace.tokens.shape[1] for trace in traces)
    tokens, masks = ([pad(x, (0, width - x.shape[1])) for x in rows] for rows in zip(
        *((t.tokens, t.mask) for t in traces), strict=True))  # fmt: skip
    return Trace(torch.cat(tokens), torch.cat(masks))


def replay_text(model: UnifiedModel, rollout: Rollout, rl: RLConfig) -> tuple[Tensor | None, Tensor | None, Context]:
    """Log-probs and entropies (B, T) of the traces where the text is trained, and the context for painting, detached
    where the image loss stops at the stage boundary."""
    through, train_text = rl.gradient_through_context, "text" in rl.train
    with torch.set_grad_enabled(torch.is_grad_enabled() and (train_text or through)):
        hidden, context = model.encode(rollout.prompt_ids, rollout.trace)
    logp = entropy = None
    if train_text:
        logp, entropy = model.text_logp(hidden, rollout.trace, rl.temperature)
    return logp, entropy, context if through else context.detach()


def replay(model: UnifiedModel, rollout: Rollout, rl: RLConfig) -> Replay:
    """Evaluate recorded episodes under ``model``: the text once, the window's steps folded into the batch."""
    logp, entropy, context = replay_text(model, rollout, rl)
    velocity = mean = log_prob = std = None
    if "image" in rl.train:
        image, b, s = rollout.image, len(rollout.prompts), len(rollout.image.window)
        steps = torch.tensor(image.window, device=image.times.device)
        t, t_next = (image.times[steps + i].repeat_interleave(b) for i in (0, 1))  # (S*B,) step-major
        before, after = (x.transpose(0, 1).flatten(0, 1) for x in (image.latents, image.next_latents))
        folded = context.repeat(s)
        uncond = model.empty_context(s * b) if rl.guidance > 1 else None
        v = guided(model, folded, uncond, before, t, rl.guidance)
        recorded = {"prev": after, "noise_level": rl.noise_level, "t_max": image.times[1].item()}
        step = flow.sde_step(before, v, t, t_next, kind=rl.transition, **recorded)

        def by_sample(x: Tensor) -> Tensor:
            return x.unflatten(0, (s, b)).transpose(0, 1)

        velocity, mean, log_prob = by_sample(v), by_sample(step.mean), by_sample(step.log_prob)
        std = step.std.unflatten(0, (s, b))[:, 0]
    return Replay(logp, entropy, velocity, mean, log_prob, std)
