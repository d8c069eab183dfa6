"""One reader of picture files, for images of the world and from elsewhere: 8-bit RGB, upright. Imports no torch."""

import os
import re
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import opened

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")  # none for which another program is started
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel
LEAST_SIDE, MOST_PIXELS = 16, 2**26  # 8192 x 8192
TURNS = dict(enumerate((0, 3, 1, 5, 4, 6, 2), 2))  # orientation in EXIF -> how Pillow turns it upright
ORIENTATION = 0x0112


def path_in(folder: Path, name: object) -> Path:
    """The picture ``name`` of ``folder``. Raises UserError for what is no path, or one that is not below the folder."""
    root = os.path.abspath(folder)
    if not isinstance(name, str) or not Path(os.path.normpath(os.path.join(root, name))).is_relative_to(root):
        raise UserError(f"expected the path of an image in {folder}, found {name!r}")
    return folder / name


def read_picture(path: Path) -> Image.Image:
    """A picture file as :func:`as_rgb`, turned as its EXIF block says. ``info["lossy"]`` is the name of a format that
    loses pixels. Raises UserError for what cannot be read, whatever a library makes of it."""
    what = "an image"
    with reading(path, what), opened(path, what) as file, Image.open(file, formats=FORMATS) as image:
        _check(image, f"{path}")
        lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _is_lossy(file))
        turn = TURNS.get(image.getexif().get(ORIENTATION))
        pixels = as_rgb(image, f"{path}")
        pixels = pixels if turn is None else pixels.transpose(turn)
        pixels.info = {"lossy": image.format} if lossy else {}
        return pixels


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """``image`` in RGB, alpha dropped as by the official tool. Raises UserError for other pixels and odd sizes."""
    _check(image, name)
    image.info.pop("transparency", None)  # it would colour what is transparent
    return image.convert("RGB")


def _check(image: Image.Image, name: str) -> None:
    """Before pixels are decoded: what the header says of them."""
    if image.mode not in MODES or re.search(";16|', 65535", str(getattr(image, "tile", ""))):  # of PNG and TIFF, of PPM
        kind = f"mode {image.mode}" if image.mode not in MODES else "16 bits"
        raise UserError(f"{name}: is of {kind}, expected 8 bits a channel ({', '.join(sorted(MODES))})")
    if min(image.size) < LEAST_SIDE or image.width * image.height > MOST_PIXELS:
        expected = f"at least {LEAST_SIDE} pixels a side and at most {MOST_PIXELS} in all"
        raise UserError(f"{name}: is {image.width}x{image.height}, expected {expected}")


def _is_lossy(file: BinaryIO) -> bool:
    file.seek(0)
    return b"VP8L" not in file.read(64)  # the chunk of pixels that WebP keeps as they are
