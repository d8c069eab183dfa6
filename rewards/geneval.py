"""GenEval as reward: its verdict on what a detector finds in the image.

``rule: exact`` is the graded score that reward servers give (exact counts, clutter of other classes is free), ``rule:
official`` the benchmark's own verdict, 0 or 1. ``detector: world`` is the world's inspector; ``detector: real`` is for
real images, the instruments of the GenEval-style evaluation, with ``detector_options: {detector, clip, device}``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL.Image import fromarray
from torch import Tensor

from rewards.pixels import to_uint8
from rewards.weights import in_batches
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.world.geneval_verdict import Boxes, Verdict, exact_verdict, official_verdict
from unigrpo.world.inspector import inspect_images, to_geneval

WHAT = "GenEval's verdict, graded (exact) or 0 and 1 (official)"
WEIGHTS = "none (the world's inspector); of `detector: real`, those of docs/evals.md"
LICENCE = "none"
RANGE = (-float("inf"), 1.0)  # a count far too high takes the exact rule below 0
INPUT_SIZE = None
DIFFERENTIABLE = False

Found = tuple[Boxes, Mapping[str, Sequence[str]]]
"""Filtered boxes by class, and their colours, as the verdicts take them."""
Detect = Callable[[np.ndarray, Sequence[Prompt]], list[Found]]
"""uint8 images (n, H, W, 3) and their prompts -> what is found in each."""


def world(pixels: np.ndarray, prompts: Sequence[Prompt]) -> list[Found]:
    return [to_geneval(seen.detections) for seen in inspect_images(pixels)]


def _real(**options) -> Detect:
    """Raises UserError for an unknown option, and a checkpoint that is not there or does not fit."""
    from evals.benchmarks import geneval as style

    known = inspect.signature(style.instruments).parameters
    if odd := [name for name in options if name not in known]:
        raise UserError(f"reward geneval: detector_options.{odd[0]}: expected {', '.join(known)}")
    look = style.instruments(**options).look
    return lambda pixels, prompts: look([fromarray(image) for image in pixels], prompts)


DETECTORS: dict[str, Callable[..., Detect]] = {"world": lambda: world, "real": _real}
"""Name -> what builds the detector from ``detector_options``."""


def _exact(verdict: Verdict) -> float:
    return verdict.score


def _official(verdict: Verdict) -> float:
    return float(verdict.correct)


RULES = {"exact": (exact_verdict, _exact), "official": (official_verdict, _official)}


def build(
    rule: str = "exact",
    detector: str = "world",
    detector_options: Mapping | None = None,
    batch_size: int = 8,
):
    """``batch_size``: images that the detector sees at once. Raises UserError for an unknown rule or detector."""
    for name, value, known in (("rule", rule, RULES), ("detector", detector, DETECTORS)):
        if value not in known:
            raise UserError(f"reward geneval: {name}: expected {' or '.join(known)}, got {value!r}")
    detect, (judge, read) = DETECTORS[detector](**(detector_options or {})), RULES[rule]

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        found = detect(to_uint8(images), prompts)
        return torch.tensor([read(judge(p.meta, *seen)) for p, seen in zip(prompts, found, strict=True)])

    return in_batches(score, batch_size)
