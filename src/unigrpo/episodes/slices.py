"""Parts of a rollout as an optimiser step takes them: episodes with everything that stays fixed during the updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unigrpo.core import distributed
from unigrpo.core.records import Prompt
from unigrpo.episodes.rollout import Replay, Rollout
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives.image_losses import flow_grpo_loss, plain_log_ratio, ratio_norm_log_ratio, velocity_mse
from unigrpo.objectives.text_losses import TextObjective, text_grpo_loss
from unigrpo.study.config import RLConfig
from unigrpo.study.facts import REGULARISERS


class SupervisedData(Protocol):
    """The data of supervised fine-tuning, as a method may ask for them."""

    def example(self, prompt: Prompt, rng: np.random.Generator, thinking: bool) -> Any:
        """An example for ``prompt``, with its trace where ``thinking``: its ``prompt``, ``trace`` and ``scene``."""

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) flow times in (0, 1), as that stage draws them."""


@dataclass(frozen=True)
class Networks:
    """The trained policy, the frozen checkpoint that it started from, the reward, and where the method needs them an
    older copy of the policy and the data of supervised fine-tuning."""

    model: UnifiedModel
    reference: UnifiedModel
    reward: Callable[[Tensor, list], Tensor]
    old: UnifiedModel | None = None
    data: SupervisedData | None = None

    @property
    def even(self) -> bool:
        """Whether all processes must make equally many slices: each computes its part of a network that is split."""
        return any(distributed.is_split(p) for p in self.model.parameters())


@dataclass
class Slice:
    """Episodes of one backward pass, with everything that stays fixed during the updates."""

    rollout: Rollout
    advantages: Tensor  # (b,)
    share: float  # of the optimiser step's denominator
    old: Replay | None  # None until the first losses where these are taken before any update
    reference: Replay | None
    token_denominator: Tensor | None  # 0-d, what some text reductions divide by: this slice's share of the step's

    def before(self, new: Replay) -> Replay:
        """The replay under the weights that made the rollout, which ``new``, the replay under the policy, is compared
        with. Before any update these are the weights of the policy; steps that use the slice again find the result."""
        if self.old is None:
            self.old = new.detach()
        return self.old


def optimizer_steps(rl: RLConfig) -> list[list[int]]:
    """Which of this process's episodes each optimiser step of a rollout uses. ``halves``: disjoint parts of
    complete groups; ``repeat``: all episodes every time."""
    n = rl.prompts_per_rollout * rl.group_size // distributed.count()
    if rl.epoch_convention == "repeat":
        return [list(range(n))] * rl.epochs
    size = n // rl.epochs
    return [list(range(k * size, (k + 1) * size)) for k in range(rl.epochs)]


@torch.no_grad()
def slices(
    nets: Networks,
    rollout: Rollout,
    advantages: Tensor,
    rl: RLConfig,
    old: Callable[[Rollout], Replay | None],
    reference: Callable[[Rollout], Replay],
    *,
    keep_all: bool = False,
) -> list[list[Slice]]:
    """Slices per optimiser step, ``old`` and, where a regulariser needs it, ``reference`` evaluated once for each.
    A policy that made its rollout itself is still the old one in the first step, whose slices need no ``old``. Without
    ``keep_all`` and a regulariser, episodes without advantage are left out; they still count in the denominator."""
    cache: dict[tuple[int, ...], Slice] = {}
    steps = []
    for number, rows in enumerate(optimizer_steps(rl)):
        on_policy = number == 0 and nets.old is None
        useful = rows if keep_all or nets.even or rl.needs_reference else [i for i in rows if advantages[i] != 0]
        parts = []
        for start in range(0, len(useful), rl.micro_batch):
            part = tuple(useful[start : start + rl.micro_batch])
            if part not in cache:
                episodes, share = rollout.select(list(part)), len(part) / len(rows)
                denominator = token_denominator(rollout, rows, rl)
                cache[part] = Slice(
                    episodes,
                    advantages[list(part)].to(nets.model.device),
                    share,
                    None if on_policy else old(episodes),
                    reference(episodes) if rl.needs_reference else None,
                    None if denominator is None else denominator * share,
                )
            parts.append(cache[part])
        steps.append(parts)
    return steps


def token_denominator(rollout: Rollout, rows: list[int], rl: RLConfig) -> Tensor | None:
    """What an optimiser step on these episodes divides its token sum by; None where the reduction needs nothing. Of
    several processes each divides by the mean of their tokens."""
    if "text" not in rl.train or rl.text_reduction == "grpo":
        return None
    if rl.text_reduction == "dr_grpo":
        return torch.tensor(len(rows) * rollout.max_tokens)
    mask = rollout.trace.mask[rows]
    return distributed.mean(mask.sum()).to(mask.device).clamp(min=1)


def text_loss(new: Replay, s: Slice, rl: RLConfig) -> tuple[str, Tensor, dict[str, Tensor]]:
    """The text's part of every joint update: TextGRPO."""
    mask = s.rollout.trace.mask
    loss, metrics = text_grpo_loss(
        new.logp,
        s.before(new).logp,
        mask,
        s.advantages,
        TextObjective(rl.clip_text, rl.clip_text, reduction=rl.text_reduction, kl_weight=rl.kl_text),
        logp_ref=None if s.reference is None else s.reference.logp,
        denominator=s.token_denominator,
    )
    entropy = new.entropy.detach().sum() / mask.sum()
    return "text", loss, {**metrics, "entropy": entropy}


def regulariser(rl: RLConfig) -> tuple[float, Callable[[Replay, Replay], Tensor]]:
    """The weight of the run's regulariser, and its distance (B, S) between replays under policy and reference."""
    plugin = REGULARISERS.load(rl.regulariser, "rl.regulariser")
    return getattr(rl, plugin.FACTS.weight), plugin.distance


def penalty(new: Replay, s: Slice, rl: RLConfig, metrics: dict[str, Tensor]) -> Tensor | float:
    """The weighted regulariser of rules without noise inside the trajectory, a mean over the slice, with the velocity
    MSE noted in ``metrics``; 0 without one."""
    if rl.regulariser == "none":
        return 0.0
    metrics["velocity_mse"] = velocity_mse(new.velocity.detach(), s.reference.velocity).mean()
    weight, distance = regulariser(rl)
    return weight * distance(new, s.reference).mean()


def window_loss(new: Replay, s: Slice, rl: RLConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy gradient of the window's steps, a mean over the slice."""
    old = s.before(new)
    if rl.ratio == "ratio_norm":
        log_ratio = ratio_norm_log_ratio(new.mean, old.mean, s.rollout.image.noise)
    else:
        log_ratio = plain_log_ratio(new.log_prob, old.log_prob)
    loss, metrics = flow_grpo_loss(log_ratio, s.advantages, clip_range=rl.clip_image)
    return rl.image_scale * loss.mean(), metrics


def window_penalty(new: Replay, s: Slice, rl: RLConfig, metrics: dict[str, Tensor]) -> Tensor:
    """The weighted distance to the reference (b, S) of each sample and step; the velocity MSE is noted in ``metrics``
    whichever it is."""
    metrics["velocity_mse"] = velocity_mse(new.velocity.detach(), s.reference.velocity).mean()
    weight, distance = regulariser(rl)
    return weight * distance(new, s.reference)
