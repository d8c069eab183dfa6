"""Text rendering, the OCR reward of Flow-GRPO (arXiv 2505.05470): how much of the asked text is read in the image.

1 - min(edit distance, n) / n for n characters asked, letters' case and white space aside; 1 where what is read contains
what was asked (``unigrpo.world.asked_text``). rapidocr ships the networks that read (PP-OCR through onnxruntime).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rewards.pixels import to_uint8
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.world.asked_text import asked_text

WHAT = "OCR: share of the asked text that is read in the image"
WEIGHTS = "rapidocr (in the package)"
LICENCE = "Apache-2.0"
RANGE = (0.0, 1.0)
INPUT_SIZE = None
DIFFERENTIABLE = False

DETECTION_SIDE = 736  # pixels: the shorter side is enlarged to it before text is looked for; rapidocr's own default


def plain(text: str) -> str:
    """What is compared: small letters, no white space."""
    return "".join(text.lower().split())


def edit_distance(a: str, b: str) -> int:
    """Least number of characters to insert, remove or replace that makes one of the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def agreement(asked: str, read: str) -> float:
    """In [0, 1]; ``asked`` is not empty."""
    asked, read = plain(asked), plain(read)
    return 1.0 if asked in read else 1 - min(edit_distance(asked, read), len(asked)) / len(asked)


def reader(detection_side: int = DETECTION_SIDE, threads: int = 1) -> Callable[[np.ndarray], str]:
    """Reads the text in an image (H, W, 3) of 8-bit RGB, its lines joined by blanks. A smaller ``detection_side`` is
    faster and misses small text. Raises UserError where rapidocr is not there."""
    if not all(isinstance(value, int) and value > 0 for value in (detection_side, threads)):
        raise UserError(f"reward ocr: expected whole numbers above 0, got {detection_side!r} and {threads!r}")
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise UserError(f"reward ocr: expected an installed rapidocr with onnxruntime ({error})") from None
    engine = RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,  # the direction of lines: text upside down is not what was asked
            "Det.limit_side_len": detection_side,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": threads,
        }
    )

    def read(pixels: np.ndarray) -> str:
        found = engine(np.ascontiguousarray(pixels[..., ::-1]))  # blue first
        return " ".join(found.txts or ())

    return read


def build(detection_side: int = DETECTION_SIDE, threads: int = 1):
    """Options as :func:`reader` has them."""
    read = reader(detection_side, threads)

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        try:
            asked = [asked_text(p) for p in prompts]
        except UserError as error:
            raise UserError(f"reward ocr: {error}") from None
        return torch.tensor([agreement(a, read(p)) for a, p in zip(asked, to_uint8(images), strict=True)])

    return score
