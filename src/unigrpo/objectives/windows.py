"""Which denoising steps of a rollout are stochastic (paper, section 3.2): drawn at random, or moving along the grid.

A window is a sequence of increasing step numbers inside a range [lo, hi), hi excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from unigrpo.core.errors import UserError


def draw_window(
    generator: torch.Generator, size: int, window_range: Sequence[int], n_steps: int, *, scattered: bool = False
) -> Sequence[int]:
    """``size`` stochastic steps inside window_range = (lo, hi), hi excluded.

    One contiguous run (Flow-GRPO-Fast), whose start is uniform over the integers lo .. hi - size, both included: size
    3 in (0, 5) starts at 0, 1, 2. ``scattered``: any steps of the range, all subsets equally likely (UniRL).
    Raises UserError if the window is empty or does not fit its range, or the range leaves the n_steps steps.
    """
    lo, hi = window_range
    if size < 1:
        raise UserError(f"SDE window: size {size} must be at least 1")
    if not 0 <= lo < hi <= n_steps:
        raise UserError(f"SDE window: range [{lo}, {hi}] must be non-empty and inside the {n_steps} steps of the grid")
    if size > hi - lo:
        raise UserError(f"SDE window: size {size} does not fit into the range [{lo}, {hi}]")
    if scattered:
        return sorted((lo + torch.randperm(hi - lo, generator=generator)[:size]).tolist())
    start = int(torch.randint(lo, hi - size + 1, (), generator=generator))
    return range(start, start + size)


def moving_window(
    index: int, size: int, window_range: Sequence[int], *, stay: Callable[[int], int], shift: int
) -> range:
    """The window of rollout number ``index`` where it moves along the grid with training (MixGRPO).

    It starts at lo, stays stay(start) >= 1 rollouts, moves on by ``shift``, and starts over where it would begin at hi
    or later. A window that reaches past hi is cut there, so the last ones may be shorter than ``size``.
    """
    lo, hi = window_range
    starts = [start for start in range(lo, hi, shift) for _ in range(stay(start))]
    start = starts[index % len(starts)]
    return range(start, min(start + size, hi))
