"""The world's verifier: the gold reward, read from pixels. In [0, 1], not differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unigrpo.core.lazy import lazy
from unigrpo.core.records import Prompt
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy("torch")
gold = lazy("unigrpo.world.gold")
inspector = lazy("unigrpo.world.inspector")

FACTS = RewardFacts(what="the world's gold reward, read from the pixels", range=(0.0, 1.0), reads="statements")


def build():
    return score


def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Gold reward (B,) of images (B, 3, H, W) in [0, 1]."""
    pixels = (images.detach().permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    found = inspector.inspect_images(pixels)
    return torch.tensor([gold.judge(p.meta, f.detections).gold for p, f in zip(prompts, found, strict=True)])
