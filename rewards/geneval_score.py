"""GenEval as reward: its verdict on what a detector finds in the image.

``rule: exact`` is the graded score that reward servers give (exact counts, clutter of other classes is free), ``rule:
official`` the benchmark's verdict, 0 or 1. ``detector: world`` is the world's inspector; ``detector: real`` is for
real images, the instruments of the GenEval-style evaluation, with ``detector_options: {detector, clip, device}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from unigrpo.core.lazy import lazy
from unigrpo.core.records import Prompt
from unigrpo.core.settings import Count, Device, Published, Settings
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from unigrpo.world.geneval_verdict import Boxes

    Found = tuple[Boxes, Mapping[str, Sequence[str]]]
    """Filtered boxes by class, and their colours, as the verdicts take them."""
    Detect = Callable[[np.ndarray, Sequence[Prompt]], list[Found]]
    """uint8 images (n, H, W, 3) and their prompts -> what is found in each."""

eyes = lazy("evals.instruments.eyes")
inspector = lazy("unigrpo.world.inspector")
verdicts = lazy("unigrpo.world.geneval_verdict")

FACTS = RewardFacts(
    what="GenEval's verdict, graded (exact) or 0 and 1 (official)",
    weights="none (the world's inspector); of `detector: real`, those of docs/evals.md",
    range=(-float("inf"), 1.0),  # a count far too high takes the exact rule below 0
    reads="statements",
)


class RealOptions(Settings):
    """Of `detector: real`; see docs/evals.md."""

    detector: Published | None = None
    clip: Published | None = None
    device: Device = "auto"


def world(pixels: np.ndarray, prompts: Sequence[Prompt]) -> list[Found]:
    return [verdicts.boxes_and_colors(seen.detections) for seen in inspector.inspect_images(pixels)]


def real(options: Mapping) -> Detect:
    """Raises UserError for a checkpoint that is not there or does not fit."""
    from PIL.Image import fromarray

    look = eyes.build(**options).look
    return lambda pixels, prompts: look([fromarray(image) for image in pixels], prompts)


def judged(rule: str, meta: dict, found: Found) -> float:
    if rule == "exact":
        return verdicts.exact_verdict(meta, *found).score
    return float(verdicts.official_verdict(meta, *found).correct)


def build(
    rule: Literal["exact", "official"] = "exact",
    detector: Literal["world", "real"] = "world",
    detector_options: RealOptions | None = None,
    batch_size: Count = 8,
):
    """``batch_size``: images that the detector sees at once. Raises UserError."""
    import torch

    from rewards._support.pixels import to_uint8
    from rewards._support.published_weights import in_batches

    detect = world if detector == "world" else real(detector_options or {})

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        found = detect(to_uint8(images), prompts)
        return torch.tensor([judged(rule, p.meta, seen) for p, seen in zip(prompts, found, strict=True)])

    return in_batches(score, batch_size)
