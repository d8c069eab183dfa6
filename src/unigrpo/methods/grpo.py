"""GRPO on a rollout: FlowGRPO (image part), TextGRPO (text part) and UniGRPO (both) are settings of one update.

J = J_text + lambda J_flow - regularisers (paper, section 3); both parts share one advantage per episode. Old
quantities come from a replay without gradient over the very slices that are updated, so every ratio is exactly 1
before the first update. Reference velocities are computed once per rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.backbones.unified import UnifiedModel
from unigrpo.config import RLConfig
from unigrpo.losses import (
    flow_grpo_loss,
    latent_kl,
    plain_log_ratio,
    ratio_norm_log_ratio,
    velocity_mse,
)
from unigrpo.rollout import Replay, Rollout, replay
from unigrpo.text_losses import TextObjective, text_grpo_loss


@dataclass(frozen=True)
class Slice:
    """Episodes of one backward pass, with everything that stays fixed during the updates."""

    rollout: Rollout
    advantages: Tensor  # (b,)
    share: float  # of the optimiser step's denominator
    old: Replay
    reference: Replay | None
    token_denominator: Tensor | None  # 0-d, what some text reductions divide by: this slice's share of the step's


def optimizer_steps(rl: RLConfig) -> list[list[int]]:
    """Episode numbers of each optimiser step of a rollout. ``halves``: disjoint parts, whole groups each;
    ``repeat``: all episodes every time."""
    n = rl.prompts_per_rollout * rl.group_size
    if rl.epoch_convention == "repeat":
        return [list(range(n))] * rl.epochs
    size = n // rl.epochs
    return [list(range(k * size, (k + 1) * size)) for k in range(rl.epochs)]


@torch.no_grad()
def make_slices(
    model: UnifiedModel, reference: UnifiedModel, rollout: Rollout, advantages: Tensor, rl: RLConfig
) -> list[list[Slice]]:
    """Slices per optimiser step. Episodes without advantage are left out only where no regulariser needs them; they
    keep their share of the denominator either way."""
    needs_reference = ("image" in rl.train and rl.regulariser != "none") or ("text" in rl.train and rl.kl_text > 0)
    cache: dict[tuple[int, ...], Slice] = {}
    steps = []
    for rows in optimizer_steps(rl):
        kept = rows if needs_reference else [i for i in rows if advantages[i] != 0]
        slices = []
        for start in range(0, len(kept), rl.micro_batch):
            part = tuple(kept[start : start + rl.micro_batch])
            if part not in cache:
                episodes, share = rollout.select(list(part)), len(part) / len(rows)
                denominator = token_denominator(rollout, rows, rl)
                cache[part] = Slice(
                    episodes,
                    advantages[list(part)].to(model.device),
                    share,
                    replay(model, episodes, rl),
                    replay(reference, episodes, rl) if needs_reference else None,
                    None if denominator is None else denominator * share,
                )
            slices.append(cache[part])
        steps.append(slices)
    return steps


def token_denominator(rollout: Rollout, rows: list[int], rl: RLConfig) -> Tensor | None:
    """What an optimiser step on these episodes divides its token sum by; None where the reduction needs nothing."""
    if "text" not in rl.train or rl.text_reduction == "grpo":
        return None
    mask = rollout.trace.mask[rows]
    return mask.sum().clamp(min=1) if rl.text_reduction == "dapo" else torch.tensor(len(rows) * rollout.max_tokens)


def slice_losses(model: UnifiedModel, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Yield (part, loss, metrics) for each trained part; losses are means over the slice, to be weighted by share."""
    new = replay(model, s.rollout, rl)
    if "text" in rl.train:
        mask = s.rollout.trace.mask
        loss, metrics = text_grpo_loss(
            new.logp,
            s.old.logp,
            mask,
            s.advantages,
            TextObjective(rl.clip_text, rl.clip_text, reduction=rl.text_reduction, kl_weight=rl.kl_text),
            logp_ref=None if s.reference is None else s.reference.logp,
            denominator=s.token_denominator,
        )
        entropy = new.entropy.detach().sum() / mask.sum()
        yield "text", loss, {**metrics, "entropy": entropy}
    if "image" in rl.train:
        if rl.ratio == "ratio_norm":
            log_ratio = ratio_norm_log_ratio(new.mean, s.old.mean, s.rollout.image.noise)
        else:
            log_ratio = plain_log_ratio(new.log_prob, s.old.log_prob)
        loss, metrics = flow_grpo_loss(log_ratio, s.advantages, clip_range=rl.clip_image)
        loss = rl.image_scale * loss.mean()
        if rl.regulariser != "none":
            distance = velocity_mse(new.velocity, s.reference.velocity).mean()
            metrics["velocity_mse"] = distance.detach()
            if rl.regulariser == "velocity_mse":
                loss = loss + rl.velocity_mse_weight * distance
            else:
                loss = loss + rl.latent_kl_weight * latent_kl(new.mean, s.reference.mean, new.std).mean()
        yield "image", rl.image_weight * loss, metrics


def accumulate(model: UnifiedModel, s: Slice, rl: RLConfig, accelerator) -> dict[str, Tensor]:
    """Add the gradients of one slice. At a stage boundary the image loss reaches the denoising expert only."""
    experts = model.mot.expert_parameters()
    metrics, joint = {}, []
    for part, loss, measured in slice_losses(model, s, rl):
        metrics |= {f"{part}_{name}": value for name, value in measured.items()} | {f"{part}_loss": loss.detach()}
        if part == "image" and not rl.gradient_through_context:
            accelerator.backward(loss * s.share, inputs=experts["image"])
        else:
            joint.append(loss * s.share)
    if joint:
        accelerator.backward(sum(joint))
    return metrics
