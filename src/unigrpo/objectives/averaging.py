"""Moving average of weights during reinforcement learning, with the warm-up and the interval of Flow-GRPO."""

from __future__ import annotations

from torch import Tensor


def ema_update(average: Tensor, value: Tensor, step: int, *, decay: float, every: int) -> Tensor:
    """The average after optimiser step number ``step`` (from 0), which left ``value``; both of one shape.

    It moves only at each ``every``-th step, to d * average + (1 - d) * value with d = min((1 + step) / (10 + step),
    decay): short-sighted at first, since the start weighs little then.
    """
    if (step + 1) % every:
        return average
    return value.lerp(average, min((1 + step) / (10 + step), decay))
