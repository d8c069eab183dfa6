"""Moving averages of weights."""

import torch
from torch import nn


def ema_share(step: int, decay: float) -> float:
    """What an average keeps of itself at optimiser step number ``step`` (from 0): min((1 + step) / (10 + step), decay),
    the warm-up of Flow-GRPO, short-sighted at first. With decay 1 the average sees the last tenth or so of any course:
    the mean age of what is in it is step / 10."""
    return min((1 + step) / (10 + step), decay)


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, share: float) -> None:
    """average <- share average + (1 - share) model, of every parameter; shared ones stay."""
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        if mean is not value:
            mean.copy_(value.lerp(mean, share))
