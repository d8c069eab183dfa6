"""The text in an image, by the networks that rapidocr ships, and how far it is what was asked. Imports no torch."""

from collections.abc import Callable

import numpy as np

from unigrpo.core.errors import UserError

DETECTION_SIDE = 736  # pixels: the shorter side is enlarged to it before text is looked for; rapidocr's own default
LONGEST = 4  # times as long as broad: a longer picture gets a border, so that it is enlarged within bounds


def edit_distance(a: str, b: str) -> int:
    """Least number of characters to insert, remove or replace that makes one of the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def agreement(asked: str, read: str) -> float:
    """In [0, 1], letters' case and white space aside; ``asked`` is not empty."""
    asked, read = ("".join(text.lower().split()) for text in (asked, read))
    return 1.0 if asked in read else 1 - min(edit_distance(asked, read), len(asked)) / len(asked)


def bordered(pixels: np.ndarray) -> np.ndarray:
    """An image (H, W, 3), in black at both long sides where it is more than LONGEST times as long as broad."""
    sides = pixels.shape[:2]
    lack = [max(0, -(-max(sides) // LONGEST) - side) for side in sides]
    return np.pad(pixels, [*((n // 2, n - n // 2) for n in lack), (0, 0)])


def reader(detection_side: int = DETECTION_SIDE, threads: int = 1) -> Callable[[np.ndarray], str]:
    """Reads the text in an image (H, W, 3) of 8-bit RGB, its lines joined by blanks. A smaller ``detection_side`` is
    faster and misses small text; the longer side is enlarged to LONGEST times as much at most. Raises UserError where
    rapidocr is not there."""
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise UserError(f"reading text: expected an installed rapidocr with onnxruntime ({error})") from None
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
        found = engine(np.ascontiguousarray(bordered(pixels)[..., ::-1]))  # blue first
        return " ".join(found.txts or ())

    return read
