"""Group-relative advantages (UniGRPO section 2): A_i = (R_i - mean of its group) / spread.

One advantage per episode, shared by all its text tokens and all its denoising steps. Public codes differ in the spread:
Flow-GRPO has ddof 0 and eps 1e-4, TRL ddof 1 and eps 1e-4, DanceGRPO ddof 1 and eps 1e-8. At group size 24 the choice
of ``ddof`` alone moves A by 2.1 %.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from unigrpo.core.errors import UserError


def group_advantages(
    rewards: Tensor,
    groups: Sequence[Hashable],
    *,
    ddof: int,
    eps: float,
    scale: Literal["group", "batch", "none"] = "group",
    clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Advantages (B,) float32 of rewards (B,), centred per group.

    groups: B keys in any order, one per sample; equal keys are one group (prompt ids; consecutive groups of size G are
    ``[i // G for i in range(B)]``). ``scale``: divide by the spread of the group, of the batch, or not at all. spread =
    std + eps, whose variance has denominator n - ddof. ``clip``: then clamp to +-clip. Arithmetic is float64. A group
    of equal rewards gets exactly 0.

    Metrics: groups, zero_spread_groups (counts), reward_mean, reward_std (population, over the batch).
    Raises UserError for a non-finite reward (naming the sample) and for a group of one.
    """
    if rewards.shape != (len(groups),):
        raise UserError(f"advantages: {len(groups)} group keys for rewards of shape {tuple(rewards.shape)}")
    values = rewards.detach().double()
    members: dict[Hashable, list[int]] = {}
    for index, key in enumerate(groups):
        if not torch.isfinite(values[index]):
            got = values[index].item()
            raise UserError(f"reward of sample {index} (group {key}) is {got}, expected a finite number")
        members.setdefault(key, []).append(index)
    advantages, zero_spread = torch.zeros_like(values), 0
    for key, rows in members.items():
        if len(rows) < 2:
            raise UserError(f"group {key} has a single sample ({rows[0]}): a relative advantage needs at least two")
        group = values[rows]
        if (group == group[0]).all():
            zero_spread += 1
            continue
        advantages[rows] = group - group.mean()
        if scale != "none":
            spread_over = group if scale == "group" else values
            advantages[rows] /= torch.sqrt(spread_over.var(correction=ddof)) + eps
    if clip is not None:
        advantages = advantages.clamp(-clip, clip)
    metrics = {
        "groups": len(members),
        "zero_spread_groups": zero_spread,
        "reward_mean": values.mean().item(),
        "reward_std": values.std(correction=0).item(),
    }
    return advantages.float(), metrics
