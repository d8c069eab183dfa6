"""JPEG compressibility (DDPO, arXiv 2305.13301): minus the kilobytes of the image as a JPEG file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from unigrpo.core.records import Prompt
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    from torch import Tensor

FACTS = RewardFacts(what="JPEG compressibility: minus the file's kilobytes", range=(-float("inf"), 0.0))
QUALITY = 95


def kilobytes(pixels, quality: int) -> float:
    """Size in 1000 bytes of a uint8 image (H, W, 3) as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.tell() / 1000


def build(quality: Annotated[int, Field(ge=1, le=95)] = QUALITY):
    """``quality``: of the JPEG encoder."""
    import torch

    from rewards._support.pixels import to_uint8

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.tensor([-kilobytes(pixels, quality) for pixels in to_uint8(images)])

    return score
