"""The world's verifier: the gold reward, read from pixels. In [0, 1], not differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unigrpo.core.records import Prompt
from unigrpo.world.gold import judge
from unigrpo.world.inspector import inspect_images

WHAT = "the world's gold reward, read from the pixels"
WEIGHTS = "none"
LICENCE = "none"
RANGE = (0.0, 1.0)
INPUT_SIZE = None
DIFFERENTIABLE = False


def build():
    return score


def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Gold reward (B,) of images (B, 3, H, W) in [0, 1]."""
    pixels = (images.detach().permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    found = inspect_images(pixels)
    return torch.tensor([judge(p.meta, f.detections).gold for p, f in zip(prompts, found, strict=True)])
