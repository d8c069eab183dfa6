"""Moving averages of weights, with the warm-up of Flow-GRPO."""

import torch
from torch import Tensor, nn


def ema_update(average: Tensor, value: Tensor, step: int, decay: float) -> Tensor:
    """The average after optimiser step number ``step`` (from 0), which left ``value``; both of one shape: d * average +
    (1 - d) * value with d = min((1 + step) / (10 + step), decay), short-sighted at first."""
    return value.lerp(average, min((1 + step) / (10 + step), decay))


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move every parameter of ``average`` after step number ``step`` (from 0) of ``model``; shared ones stay."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        if mean is not value:
            mean.copy_(ema_update(mean, value, step, decay))
