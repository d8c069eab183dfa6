"""Renderer: scenes to anti-aliased uint8 images, many at a time (numpy only).

Every shape is a signed distance d in pixels (negative inside); a pixel's coverage is clip(1/2 - d, 0, 1).
Distances are evaluated on a window around each object, class by class, and composed over the background
object by object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unigrpo.world.scenes import BACKGROUND, CLASSES, COLORS, RADIUS, Scene

STAR_INNER = 0.45  # inner over outer radius
CROSS_ARM = 0.34  # half width of an arm over the radius
SQUARE_SIDE = 0.88  # half side over the radius
RING_HOLE = 0.5  # inner over outer radius

_CLASS_INDEX = {cls: i for i, cls in enumerate(CLASSES)}
_COLOR_INDEX = {color: i for i, color in enumerate(COLORS)}
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)


def _circle(x, y, r):
    return np.hypot(x, y) - r


def _square(x, y, r):
    return np.maximum(np.abs(x), np.abs(y)) - SQUARE_SIDE * r


def _triangle(x, y, r):
    """Apex (0, -r), base from (-r, r) to (r, r)."""
    return np.maximum((2 * np.abs(x) - y - r) / 5**0.5, y - r)


def _cross(x, y, r):
    x, y, arm = np.abs(x), np.abs(y), CROSS_ARM * r
    return np.minimum(np.maximum(x - r, y - arm), np.maximum(x - arm, y - r))


def _ring(x, y, r):
    return np.abs(np.hypot(x, y) - (1 + RING_HOLE) / 2 * r) - (1 - RING_HOLE) / 2 * r


def _star(x, y, r):
    """Five points, one up: fold into half a point, where the edge from tip to inner vertex is one line."""
    half = np.pi / 5
    radius, angle = np.hypot(x, y), np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    inner_x, inner_y = STAR_INNER * np.cos(half), STAR_INNER * np.sin(half)
    length = np.hypot(1 - inner_x, inner_y)
    return ((radius * np.cos(angle) - r) * inner_y + radius * np.sin(angle) * (1 - inner_x)) / length


def _diamond(x, y, r):
    return (np.abs(x) + np.abs(y) - r) / 2**0.5


def _heart(x, y, r):
    """Two lobes of radius r/2 about (+-r/2, -0.4 r), joined to the tip (0, r) by their tangents."""
    x, lobe_y = np.abs(x), -0.4 * r
    lobe = np.hypot(x - r / 2, y - lobe_y) - r / 2
    # Tangent from the tip: its angle to the line tip-lobe centre has sine (r/2)/distance.
    to_lobe = np.arctan2(0.5, 1.4)
    slope = to_lobe + np.arcsin(0.5 / np.hypot(0.5, 1.4))
    sin, cos = np.sin(slope), np.cos(slope)
    right = x * cos + (y - r) * sin  # beyond the tangent
    above = (x - r / 2) * sin - (y - lobe_y) * cos  # beyond the radius to the tangent point
    return np.minimum(lobe, np.maximum(np.maximum(right, above), lobe_y - y))


_DISTANCE = (_circle, _square, _triangle, _cross, _ring, _star, _diamond, _heart)


def render(scenes: Sequence[Scene], size: int = 48) -> np.ndarray:
    """uint8 images (n, size, size, 3) of the scenes."""
    n = len(scenes)
    objects = [(i, k, o) for i, scene in enumerate(scenes) for k, o in enumerate(scene.objects)]
    pad = int(np.ceil(RADIUS[1] * size)) + 2  # half a window; also the margin that keeps windows inside the canvas
    canvas = np.full((n, size + 2 * pad, size + 2 * pad, 3), BACKGROUND, dtype=np.float32)
    if objects:
        image = np.array([i for i, _, _ in objects])
        layer = np.array([k for _, k, _ in objects])
        cls = np.array([_CLASS_INDEX[o.cls] for _, _, o in objects])
        color = _PALETTE[[_COLOR_INDEX[o.color] for _, _, o in objects]]  # (m, 3)
        geometry = np.array([(o.x, o.y, o.radius) for _, _, o in objects], dtype=np.float32) * size  # (m, 3) px
        corner = np.floor(geometry[:, :2]).astype(int) - pad  # (m, 2) first pixel of the window
        offset = np.arange(2 * pad + 1, dtype=np.float32)
        x = (corner[:, :1] + 0.5 - geometry[:, :1] + offset)[:, None, :]  # (m, 1, w) pixel centre minus object centre
        y = (corner[:, 1:] + 0.5 - geometry[:, 1:2] + offset)[:, :, None]
        distance = np.empty((len(objects), offset.size, offset.size), dtype=np.float32)
        for index, function in enumerate(_DISTANCE):
            of_class = np.flatnonzero(cls == index)
            distance[of_class] = function(x[of_class], y[of_class], geometry[of_class, 2, None, None])
        coverage = np.clip(0.5 - distance, 0, 1)[..., None]  # (m, w, w, 1)
        rows, columns = (corner[:, axis, None] + pad + np.arange(offset.size) for axis in (1, 0))
        for k in range(layer.max() + 1):  # objects of one layer belong to different images
            m = np.flatnonzero(layer == k)
            where = image[m, None, None], rows[m, :, None], columns[m, None, :]
            under = canvas[where]
            canvas[where] = under + coverage[m] * (color[m, None, None, :] - under)
    return np.rint(canvas[:, pad : pad + size, pad : pad + size]).astype(np.uint8)
