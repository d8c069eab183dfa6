"""Parts of a rollout as an optimiser step takes them: episodes with everything that stays fixed during the updates."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unigrpo.core import distributed
from unigrpo.core.records import Prompt
from unigrpo.episodes import monitor
from unigrpo.episodes.rollout import Replay, Rollout, unguided
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives.image_losses import flow_grpo_loss, plain_log_ratio, ratio_norm_log_ratio, velocity_mse
from unigrpo.objectives.text_losses import TextObjective, masked_mean, text_grpo_loss
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
    """The trained policy, the frozen checkpoint that it started from, the reward, further copies of the policy by name
    (``MethodFacts.copies``), and, where the method needs them, the data of supervised fine-tuning."""

    model: UnifiedModel
    reference: UnifiedModel
    reward: Callable[..., Tensor]
    copies: dict[str, UnifiedModel] = field(default_factory=dict)
    data: SupervisedData | None = None

    @property
    def even(self) -> bool:
        """Whether all processes must make equally many slices: each computes its part of a network that is split."""
        return any(distributed.is_split(p) for p in self.model.parameters())


@dataclass
class Slice:
    """Episodes of one backward pass, with everything that stays fixed during the updates."""

    rollout: Rollout
    advantages: dict[str, Tensor]  # (b,) by part
    share: float  # of the optimiser step's denominator
    old: Replay | None  # None until the first losses where these are taken before any update
    reference: Replay | None
    token_denominator: Tensor | None  # 0-d, what some text reductions divide by: this slice's share of the step's
    unmatched: set[str] = field(init=False)  # parts whose first losses are still to come, before any update

    def __post_init__(self):
        self.unmatched = {"text", "image"} if self.old is None else set()

    def first(self, part: str) -> bool:
        """Whether these are the first losses of a part, before any update; says so once."""
        found = part in self.unmatched
        self.unmatched.discard(part)
        return found

    def before(self, new: Replay) -> Replay:
        """The replay under the weights that made the rollout, which ``new``, the replay under the policy, is compared
        with. Before any update these are the weights of the policy; steps that use the slice again find the result."""
        if self.old is None:
            self.old = new.detach()
        return self.old

    def compared(self, new: Replay, part: str) -> Iterator[tuple]:
        """(segment, new, old, reference) of every segment of a part; old and reference are None where there is none."""
        nothing = Replay((None,) * len(new.segments))
        replays = (new, self.old or nothing, self.reference or nothing)
        for segment, *found in zip(self.rollout.segments, *(r.segments for r in replays), strict=True):
            if segment.part == part:
                yield segment, *found


def optimizer_steps(rl: RLConfig) -> list[list[int]]:
    """Which of this process's episodes each optimiser step of a rollout uses. ``halves``: disjoint parts of
    the rollout, each of complete groups over all processes; ``repeat``: all episodes every time."""
    n = rl.prompts_per_rollout * rl.group_size // distributed.count()
    if rl.epoch_convention == "repeat":
        return [list(range(n))] * rl.epochs
    size = n // rl.epochs
    return [list(range(k * size, (k + 1) * size)) for k in range(rl.epochs)]


@torch.no_grad()
def slices(
    nets: Networks,
    rollout: Rollout,
    advantages: dict[str, Tensor],
    rl: RLConfig,
    old: Callable[[Rollout], Replay | None],
    reference: Callable[[Rollout], Replay],
    *,
    keep_all: bool = False,
    on_policy: bool = True,
) -> list[list[Slice]]:
    """Slices per optimiser step, ``old`` and, where a regulariser needs it, ``reference`` evaluated once for each.
    A policy that made its rollout itself (``on_policy``) is still the old one in the first step, whose slices need no
    ``old``. Without ``keep_all`` and a regulariser, episodes without advantage are left out; they still count in the
    denominator. Those whose advantage is NaN, of groups without rewards, are left out and count nowhere."""
    cache: dict[tuple[int, ...], Slice] = {}
    steps, drops = [], rl.reward_failure == "drop"
    lost = {i for a in advantages.values() for i in a.isnan().nonzero().flatten().tolist()} if drops else set()
    for number, rows in enumerate(optimizer_steps(rl)):
        rows = [i for i in rows if i not in lost]
        size = distributed.mean(torch.tensor(float(len(rows)))).item() if drops else len(rows)
        denominator = token_denominator(rollout, rows, size, rl)
        needed = keep_all or nets.even or rl.needs_reference
        useful = [i for i in rows if needed or any(values[i] != 0 for values in advantages.values())]
        parts = []
        for start in range(0, len(useful), rl.micro_batch):
            part = tuple(useful[start : start + rl.micro_batch])
            if part not in cache:
                episodes, share = rollout.select(list(part)), len(part) / size
                cache[part] = Slice(
                    episodes,
                    {name: values[list(part)].to(nets.model.device) for name, values in advantages.items()},
                    share,
                    None if on_policy and number == 0 else old(episodes),
                    reference(episodes) if rl.needs_reference else None,
                    None if denominator is None else denominator * share,
                )
            parts.append(cache[part])
        steps.append(parts)
    return steps


def token_denominator(rollout: Rollout, rows: list[int], size: float, rl: RLConfig) -> Tensor | None:
    """What an optimiser step on these episodes, ``size`` a process in the mean, divides its token sum by; None where
    the reduction needs nothing. Of several processes each divides by the mean of their tokens."""
    if "text" not in rl.train or rl.text_reduction in ("grpo", "bnpo"):
        return None
    if rl.text_reduction == "dr_grpo":
        return torch.tensor(size * rollout.max_tokens)
    mask = rollout.trace.mask[rows]
    return distributed.mean(mask.sum()).to(mask.device).clamp(min=1)


def text_loss(new: Replay, s: Slice, rl: RLConfig) -> tuple[str, Tensor, dict[str, Tensor]]:
    """The text's part of every joint update: TextGRPO, summed over an episode's texts."""
    first, found = s.first("text"), []
    s.before(new)
    for trace, after, before, reference in s.compared(new, "text"):
        loss, metrics = text_grpo_loss(
            after.logp,
            before.logp,
            trace.mask,
            s.advantages["text"],
            text_objective(rl),
            logp_ref=None if reference is None else reference.logp,
            entropy=after.entropy,
            denominator=s.token_denominator,
        )
        metrics["entropy"] = masked_mean(after.entropy.detach(), trace.mask)
        if first:
            metrics |= monitor.text(trace, before)
        found.append((loss, metrics))
    return "text", sum(loss for loss, _ in found), averaged([metrics for _, metrics in found])


def text_objective(rl: RLConfig) -> TextObjective:
    """The settings of the text's loss."""
    low = rl.clip_text if rl.clip_text_low is None else rl.clip_text_low
    high = rl.clip_text if rl.clip_text_high is None else rl.clip_text_high
    return TextObjective(
        low,
        high,
        surrogate=rl.text_surrogate,
        level=rl.text_level,
        ratio_cap=math.inf if rl.text_ratio_cap is None else rl.text_ratio_cap,
        reduction=rl.text_reduction,
        kl_weight=rl.kl_text,
        kl_corrected=rl.kl_text_corrected,
        entropy_share=rl.entropy_share,
        entropy_weight=rl.entropy_weight,
    )


def averaged(metrics: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means of metrics over the segments of a part, and the maxima where so named."""
    if len(metrics) == 1:
        return metrics[0]
    values = {name: torch.stack([m[name] for m in metrics]) for name in metrics[0]}
    return {name: v.max() if name.endswith("_max") else v.mean() for name, v in values.items()}


def penalty(new: Replay, s: Slice, rl: RLConfig, metrics: dict[str, Tensor]) -> Tensor | float:
    """The weighted regulariser of rules without noise inside the trajectory, a mean over the slice, with the velocity
    MSE noted in ``metrics``; 0 without one."""
    return 0.0 if rl.regulariser == "none" else window_penalty(new, s, rl, metrics).mean()


def window_loss(new: Replay, s: Slice, rl: RLConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy gradient of the window's steps, a mean over the slice and over an episode's images."""
    first, found = s.first("image"), []
    s.before(new)
    for track, after, before, _ in s.compared(new, "image"):
        if rl.ratio == "ratio_norm":
            log_ratio = ratio_norm_log_ratio(after.mean, before.mean, track.noise)
        else:
            log_ratio = plain_log_ratio(after.log_prob, before.log_prob)
        loss, metrics = flow_grpo_loss(log_ratio, s.advantages["image"], clip_range=rl.clip_image)
        if first:
            metrics |= monitor.image(track, before, rl)
        found.append((loss.mean(), metrics))
    loss = sum(loss for loss, _ in found) / len(found)
    return rl.image_scale * loss, averaged([metrics for _, metrics in found])


def window_penalty(new: Replay, s: Slice, rl: RLConfig, metrics: dict[str, Tensor]) -> Tensor:
    """The weighted distance to the reference (b, S) of each sample and step, those of several images one after the
    other; the velocity MSE is noted in ``metrics`` whichever it is."""
    chosen, pairs = REGULARISERS.load(rl.regulariser, "rl.regulariser"), []
    for track, after, _, reference in s.compared(new, "image"):
        pair = after, reference
        pairs.append(pair if rl.penalty_guided else tuple(unguided(track, one, rl) for one in pair))
    mse = [velocity_mse(after.velocity.detach(), reference.velocity) for after, reference in pairs]
    metrics["velocity_mse"] = torch.cat(mse, 1).mean()
    return getattr(rl, chosen.FACTS.weight) * torch.cat([chosen.distance(*pair, rl) for pair in pairs], 1)
