"""Renderer: scenes to anti-aliased uint8 images, many at a time (numpy only).

Every shape is a signed distance d in pixels (negative inside); a pixel's coverage is clip(1/2 - d, 0, 1). Distances are
evaluated on a window around each object, class by class, and composed over the background object by object.
"""

from collections.abc import Sequence

import numpy as np

from unigrpo.world.scenes import BACKGROUND, CLASSES, COLORS, RADIUS, Scene

STAR_INNER = 0.45  # inner over outer radius
CROSS_ARM = 0.34  # half width of an arm over the radius
SQUARE_SIDE = 0.88  # half side over the radius
RING_HOLE = 0.5  # inner over outer radius


def _distance(cls: str, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """From the edge of a shape of radius ``r`` about the origin, y pointing down; all in pixels."""
    right, down = np.abs(x), np.abs(y)  # every shape is symmetric about x = 0, some about y = 0
    match cls:
        case "circle":
            return np.hypot(x, y) - r
        case "square":
            return np.maximum(right, down) - SQUARE_SIDE * r
        case "triangle":  # apex (0, -r), base from (-r, r) to (r, r)
            return np.maximum((2 * right - y - r) / 5**0.5, y - r)
        case "cross":
            arm = CROSS_ARM * r
            return np.minimum(np.maximum(right - r, down - arm), np.maximum(right - arm, down - r))
        case "ring":
            return np.abs(np.hypot(x, y) - (1 + RING_HOLE) / 2 * r) - (1 - RING_HOLE) / 2 * r
        case "star":  # five points, one up: folded into half a point, where one line leads from tip to inner vertex
            half = np.pi / 5
            radius, angle = np.hypot(x, y), np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
            inner_x, inner_y = STAR_INNER * np.cos(half), STAR_INNER * np.sin(half)
            length = np.hypot(1 - inner_x, inner_y)
            return ((radius * np.cos(angle) - r) * inner_y + radius * np.sin(angle) * (1 - inner_x)) / length
        case "diamond":
            return (right + down - r) / 2**0.5
        case "heart":  # two lobes of radius r/2 about (+-r/2, -0.4 r), joined to the tip (0, r) by their tangents
            lobe_y = -0.4 * r
            lobe = np.hypot(right - r / 2, y - lobe_y) - r / 2
            # A tangent's angle to the line from the tip to the lobe's centre has sine (r/2)/distance.
            slope = np.arctan2(0.5, 1.4) + np.arcsin(0.5 / np.hypot(0.5, 1.4))
            sin, cos = np.sin(slope), np.cos(slope)
            beyond_tangent = right * cos + (y - r) * sin
            above_touch = (right - r / 2) * sin - (y - lobe_y) * cos  # beyond the radius to the tangent point
            return np.minimum(lobe, np.maximum(np.maximum(beyond_tangent, above_touch), lobe_y - y))


def render(scenes: Sequence[Scene], size: int = 48) -> np.ndarray:
    """uint8 images (n, size, size, 3) of the scenes."""
    n = len(scenes)
    objects = [(i, k, o) for i, scene in enumerate(scenes) for k, o in enumerate(scene.objects)]
    pad = int(np.ceil(RADIUS[1] * size)) + 2  # half a window; also the margin that keeps windows inside the canvas
    canvas = np.full((n, size + 2 * pad, size + 2 * pad, 3), BACKGROUND, dtype=np.float32)
    if objects:
        image, layer = np.array([(i, k) for i, k, _ in objects]).T
        cls = np.array([o.cls for _, _, o in objects])
        color = np.array([COLORS[o.color] for _, _, o in objects], dtype=np.float32)  # (m, 3)
        geometry = np.array([(o.x, o.y, o.radius) for _, _, o in objects], dtype=np.float32) * size  # (m, 3) px
        corner = np.floor(geometry[:, :2]).astype(int) - pad  # (m, 2) first pixel of the window
        offset = np.arange(2 * pad + 1, dtype=np.float32)
        x = (corner[:, :1] + 0.5 - geometry[:, :1] + offset)[:, None, :]  # (m, 1, w) pixel centre minus object centre
        y = (corner[:, 1:] + 0.5 - geometry[:, 1:2] + offset)[:, :, None]
        distance = np.empty((len(objects), offset.size, offset.size), dtype=np.float32)
        for name in CLASSES:
            of_class = np.flatnonzero(cls == name)
            distance[of_class] = _distance(name, x[of_class], y[of_class], geometry[of_class, 2, None, None])
        coverage = np.clip(0.5 - distance, 0, 1)[..., None]  # (m, w, w, 1)
        rows, columns = (corner[:, axis, None] + pad + np.arange(offset.size) for axis in (1, 0))
        for k in range(layer.max() + 1):  # objects of one layer belong to different images
            m = np.flatnonzero(layer == k)
            where = image[m, None, None], rows[m, :, None], columns[m, None, :]
            under = canvas[where]
            canvas[where] = under + coverage[m] * (color[m, None, None, :] - under)
    return np.rint(canvas[:, pad : pad + size, pad : pad + size]).astype(np.uint8)
