"""JPEG compressibility (DDPO, arXiv 2305.13301): minus the kilobytes of the image as a JPEG file."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from rewards.pixels import to_uint8
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt

WHAT = "JPEG compressibility: minus the file's kilobytes"
WEIGHTS = "none"
LICENCE = "none"
RANGE = (-float("inf"), 0.0)
INPUT_SIZE = None
DIFFERENTIABLE = False

QUALITY = 95


def kilobytes(pixels, quality: int) -> float:
    """Size in 1000 bytes of a uint8 image (H, W, 3) as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.tell() / 1000


def build(quality: int = QUALITY):
    """``quality``: of the JPEG encoder, 1 to 95. Raises UserError."""
    if not isinstance(quality, int) or not 1 <= quality <= 95:
        raise UserError(f"reward jpeg: quality: expected a whole number from 1 to 95, got {quality!r}")

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor([-kilobytes(pixels, quality) for pixels in to_uint8(images)])

    return score
