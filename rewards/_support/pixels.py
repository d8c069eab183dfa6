"""What models are shown of an image: resized, cropped, normalised; differentiable in the pixels where stated."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def square(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, side, side) in [0, 1]: the shorter side resized to ``side`` (bicubic, antialiased), then
    the middle. Differentiable, but where the resizing left [0, 1]."""
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    short = min(height, width)
    size = (max(side, height * side // short), max(side, width * side // short))
    resized = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((length - side) // 2 for length in size)
    return resized[..., top : top + side, left : left + side]


def letterboxed(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, side, side) in [0, 1]: the longer side resized to ``side`` (bicubic, antialiased), black
    above and below or at both sides. Differentiable, but where the resizing left [0, 1]."""
    longest = max(images.shape[-2:])
    size = tuple(round(length * side / longest) for length in images.shape[-2:])
    if size != tuple(images.shape[-2:]):
        images = interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    (top, left), (down, right) = zip(*((n // 2, n - n // 2) for n in (side - length for length in size)), strict=True)
    return pad(images, (left, right, top, down))


def clip_input(images: Tensor, side: int, fit: Callable[[Tensor, int], Tensor] = square) -> Tensor:
    """Pixels as CLIP and its descendants are shown them: (B, 3, side, side), normalised per channel."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (fit(images.float(), side) - mean) / std


def to_uint8(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8, as an image file would hold them."""
    pixels = images.detach().clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())
