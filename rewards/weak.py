"""The learned reward after less training: a proxy that gives way, for the study of over-optimisation.

The same network on the same data; what it is denied (steps, samples) are the settings ``weak_reward`` of a scale, which
otherwise are those of ``reward``.
"""

from __future__ import annotations

from pathlib import Path

from rewards import learned

WHAT = "the world's learned reward after less training, for the study of over-optimisation"
WEIGHTS = learned.WEIGHTS
LICENCE = learned.LICENCE
RANGE = learned.RANGE
INPUT_SIZE = learned.INPUT_SIZE
DIFFERENTIABLE = learned.DIFFERENTIABLE


def build(path: str | Path, device: str = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    return learned.build(path, device)
