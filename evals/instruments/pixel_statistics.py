"""Numbers of a picture that need no judge: edges, darkness, colours, and how unlike the pictures of a prompt are.

They show a collapse that a judge may like: one flat colour, one picture for all, edges everywhere. Large pictures are
reduced first, so that numbers of several sizes compare. Imports no torch.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from PIL import Image

LONGEST = 128  # pixels of the longer side
EDGE = 0.1  # difference of brightness between neighbours
DARK = 0.2  # brightness
LEVELS = 8  # of each channel, whose entropy is taken
MINIATURE = 16  # pixels a side, by which pictures are compared
SHAPE = (MINIATURE, MINIATURE, 3)
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue


def measured(images: Sequence[np.ndarray | Image.Image]) -> list[dict[str, float]]:
    """Of 8-bit RGB ``images`` (H, W, 3) of one size: ``edge_density``, ``dark``, ``color_entropy`` and ``saturation``
    (``unigrpo.study.facts.STATISTICS``), each in [0, 1]."""
    pictures = map(_picture, images)
    pixels = np.stack([np.asarray(picture.reduce(-(-max(picture.size) // LONGEST))) for picture in pictures])
    red, green, blue = channels = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))  # (3, n, h, w)
    bright = sum(part * np.float32(weight / 255) for part, weight in zip(channels, LUMINANCE, strict=True))
    edges = np.zeros(bright.shape, dtype=bool)
    edges[:, :, :-1] |= abs(bright[:, :, 1:] - bright[:, :, :-1]) > EDGE
    edges[:, :-1] |= abs(bright[:, 1:] - bright[:, :-1]) > EDGE
    most, least = (pick(pick(red, green), blue).astype(np.float32) for pick in (np.maximum, np.minimum))
    columns = {
        "edge_density": edges.mean((1, 2)),
        "dark": (bright < DARK).mean((1, 2)),
        "color_entropy": _entropies(channels // (256 // LEVELS)) / (3 * np.log2(LEVELS)),
        "saturation": ((most - least) / np.maximum(most, 1)).mean((1, 2)),
    }
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]


def _picture(image: np.ndarray | Image.Image) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _entropies(levels: np.ndarray) -> np.ndarray:
    """In bits, of the colours of n pictures, whose channels (3, n, h, w) have LEVELS levels."""
    red, green, blue = levels.astype(np.int32).reshape(3, levels.shape[1], -1)
    colors = (np.arange(len(red))[:, None] * LEVELS**3) + (red * LEVELS + green) * LEVELS + blue
    counts = np.bincount(colors.ravel(), minlength=len(red) * LEVELS**3).reshape(len(red), -1)
    shares = counts / red.shape[1]
    return np.maximum(-(shares * np.log2(np.where(counts, shares, 1))).sum(1), 0)


def miniature(image: np.ndarray | Image.Image) -> np.ndarray:
    """What of a picture is compared: (MINIATURE, MINIATURE, 3) uint8."""
    return np.asarray(_picture(image).resize((MINIATURE, MINIATURE), Image.Resampling.BOX))


def diversity(prompts: Sequence[Hashable], miniatures: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Of each picture ``diversity``: the root mean square difference to another one of its prompt, mean over these, in
    [0, 1]; nothing where there is no other."""
    places, found = defaultdict(list), [{} for _ in prompts]
    for place, prompt in enumerate(prompts):
        places[prompt].append(place)
    for those in places.values():
        each = np.stack([miniatures[i] for i in those]).reshape(len(those), -1).astype(np.float32) / 255
        apart = np.sqrt(((each[:, None] - each[None]) ** 2).mean(-1)).sum(1)  # (n,)
        for place, value in zip(those, apart, strict=True):
            found[place] = {"diversity": float(value) / (len(those) - 1)} if len(those) > 1 else {}
    return found
