"""Several images in one picture file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from unigrpo.core.errors import UserError

GAP = 2  # pixels between the images


def picture_sheet(images: Sequence[Image.Image], columns: int, enlarge: int) -> Image.Image:
    """Images of one size in rows of ``columns``, each enlarged by an integer factor."""
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return sheet.resize((sheet.width * enlarge, sheet.height * enlarge), Image.Resampling.BICUBIC)


def picture_format(path: Path) -> str:
    """The format that the ending of ``path`` names. Raises UserError for one that no picture can be written in."""
    try:
        name = Image.registered_extensions()[path.suffix.lower()]
        Image.new("RGB", (1, 1)).save(io.BytesIO(), format=name)
    except (KeyError, OSError, ValueError):
        raise UserError(f"--out {path}: expected the ending of a picture format, such as .png") from None
    return name
