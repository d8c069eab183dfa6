"""Text rendering, the OCR reward of Flow-GRPO (arXiv 2505.05470): how much of the asked text is read in the image.

1 - min(edit distance, n) / n for n characters asked, letters' case and white space aside; 1 where what is read contains
what was asked (``unigrpo.world.prompts``). rapidocr ships the networks that read (PP-OCR through onnxruntime).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.instruments.text_reader import DETECTION_SIDE, agreement, reader
from unigrpo.core.errors import UserError
from unigrpo.core.lazy import lazy
from unigrpo.core.records import Prompt
from unigrpo.core.settings import Count
from unigrpo.study.facts import RewardFacts
from unigrpo.world.prompts import asked_text

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy("torch")

FACTS = RewardFacts(
    what="OCR: share of the asked text that is read in the image",
    weights="rapidocr (in the package)",
    licence="Apache-2.0",
    range=(0.0, 1.0),
    reads="text",
)


def build(detection_side: Count = DETECTION_SIDE, threads: Count = 1):
    """A smaller ``detection_side`` is faster and misses small text; ``threads`` are the reader's."""
    from rewards._support.pixels import to_uint8

    read = reader(detection_side, threads)

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        try:
            asked = [asked_text(p) for p in prompts]
        except UserError as error:
            raise UserError(f"reward ocr: {error}") from None
        pairs = zip(asked, to_uint8(images), strict=True)
        return torch.tensor([agreement(a, read(p)) for a, p in pairs])

    return score
