"""Inspector: pixels to detections, by geometry and from the image alone (no part is learned).

A pixel over the background B covered by a share a of colour C is B - a (B - C): the *direction* of B - pixel names the
colour, its length the coverage, so that anti-aliased edges keep their object's colour. Connected pixels of one colour
are a candidate; its coverage map, brought to a canonical size, is correlated with those of rendered shapes. The score
is the correlation. What fits neither an object nor the background is the artefact area.
"""

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from unigrpo.core.records import Detection
from unigrpo.world.render import render
from unigrpo.world.scenes import BACKGROUND, CLASSES, COLOR_NAMES, COLORS, RADIUS, Obj, Scene

CANONICAL = 16  # side of the canonical coverage map
MARGIN = 1.3  # its extent over the object's box
FAINT = 30.0  # |background - pixel| below this is background (0-255, Euclidean over RGB)
DEVIANT = 48.0  # ... from which a pixel outside every detection is artefact
BLURS = (0.0, 0.6, 1.0)  # of the templates, pixels of 48: a decoder that softens edges must not change the class
SOLID = 0.4  # coverage from which a pixel belongs to a candidate
ALIGNED = 0.92  # least cosine between a pixel's direction and its colour's
MIN_SCORE = 0.9  # least correlation of a detection
MIN_ASPECT = 0.75  # shorter over longer side of its box
MIN_COVERAGE = 0.6  # least coverage of the densest quarter of a detection: paler ones are ghosts
MIN_AREA = 0.005  # least area of a detection, share of the image
MAX_SIDE = 0.5  # greatest side of a detection's box, share of the image side

_VECTORS = np.array(BACKGROUND, dtype=np.float32) - np.array(list(COLORS.values()), dtype=np.float32)  # (8, 3)
_LENGTHS = np.linalg.norm(_VECTORS, axis=1)
_DIRECTIONS = (_VECTORS / _LENGTHS[:, None]).T  # (3, 8)
_IN_PLANE = np.pad(np.ones((1, 3, 3), dtype=bool), ((1, 1), (0, 0), (0, 0)))  # eight neighbours in the same image


class Inspection(NamedTuple):
    """What one image shows. ``artefact`` is the share of its area (0-1) that fits no object and no background."""

    detections: list[Detection]
    artefact: float


class _Candidate(NamedTuple):
    image: int
    color: int
    label: int
    box: tuple[float, float, float, float]
    density: float
    canonical: np.ndarray  # (CANONICAL ** 2,) centred, unit length


def _coverage(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel (n, H, W): coverage, colour index (-1: background, or no known one), is it far off the background?"""
    missing = np.array(BACKGROUND, dtype=np.float32) - images
    length = np.sqrt(np.einsum("nhwc,nhwc->nhw", missing, missing))
    foreground = length > FAINT
    projection = missing[foreground] @ _DIRECTIONS  # (m, 8)
    color = projection.argmax(axis=1)
    along = np.take_along_axis(projection, color[:, None], axis=1)[:, 0]
    coverage = np.zeros(images.shape[:3], dtype=np.float32)
    coverage[foreground] = np.clip(along / _LENGTHS[color], 0, 1)
    colors = np.full(images.shape[:3], -1, dtype=np.int8)
    colors[foreground] = np.where(along > ALIGNED * length[foreground], color, -1)
    return coverage, colors, length > DEVIANT


def _resampler(center: float, half: float, first: int, count: int) -> np.ndarray:
    """(CANONICAL, count) linear interpolation from pixels first.. to the canonical samples of center +- half."""
    low, high = center - half, center + half
    step = (high - low) / CANONICAL
    at = low + step * (np.arange(CANONICAL) + 0.5)
    width = max(step, 1.0)
    pixels = first + 0.5 + np.arange(count)
    return np.clip(1 - np.abs(at[:, None] - pixels) / width, 0, 1) / width


def _edges(profile: np.ndarray, first: int) -> tuple[float, float]:
    """Sub-pixel ends of a run of pixels; ``profile``: the greatest coverage per column, two faint ones either side."""
    solid = np.flatnonzero(profile >= SOLID)
    low, high = solid[0], solid[-1]
    before = profile[low - 1] if low else 0.0
    after = profile[high + 1] if high + 1 < profile.size else 0.0
    return first + low + 1 - profile[low] - before, first + high + profile[high] + after


def _candidates(coverage: np.ndarray, colors: np.ndarray) -> tuple[list[_Candidate], np.ndarray, np.ndarray]:
    """Candidates, the label map (p, H, W) of each (image, colour) pair present, each pair's image (p,)."""
    n, height, width = coverage.shape
    image, y, x = np.nonzero((coverage >= SOLID) & (colors >= 0))
    key = image * len(COLOR_NAMES) + colors[image, y, x]
    least = MIN_AREA * height * width
    present = np.flatnonzero(np.bincount(key, minlength=n * len(COLOR_NAMES)) >= least)
    slot = np.full(n * len(COLOR_NAMES), -1)
    slot[present] = np.arange(present.size)
    large = slot[key] >= 0
    solid = np.zeros((present.size, height, width), dtype=bool)
    solid[slot[key[large]], y[large], x[large]] = True
    labels, count = ndimage.label(solid, _IN_PLANE)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    found = []
    for label, slices in enumerate(ndimage.find_objects(labels) if count else [], 1):
        plane, rows, columns = slices[0].start, slices[1], slices[2]
        side = max(rows.stop - rows.start, columns.stop - columns.start)
        if areas[label] < least or side > MAX_SIDE * max(height, width):
            continue
        top, left = max(rows.start - 2, 0), max(columns.start - 2, 0)
        window = slice(top, rows.stop + 2), slice(left, columns.stop + 2)
        inside = labels[plane][window] == label
        picture, color = divmod(int(present[plane]), len(COLOR_NAMES))
        crop = coverage[picture][window]
        crop = np.where(inside | (crop < SOLID), crop, 0)
        x0, x1 = _edges(crop.max(axis=0), left)
        y0, y1 = _edges(crop.max(axis=1), top)
        half, cx, cy = MARGIN / 2 * max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2
        down, across = _resampler(cy, half, top, crop.shape[0]), _resampler(cx, half, left, crop.shape[1])
        canonical = (down @ crop @ across.T).ravel()
        canonical = canonical - canonical.mean()
        canonical /= np.linalg.norm(canonical)
        density = float(np.sort(crop[inside])[-(areas[label] // 4) - 1])
        found.append(_Candidate(picture, color, label, (x0, y0, x1, y1), density, canonical))
    return found, labels, present // len(COLOR_NAMES)


@cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Canonical maps (k, CANONICAL ** 2) of shapes at several radii, sub-pixel places and blurs; their classes (k,)."""
    size = 48
    centers = [0.5 + i / 3 / size for i in range(3)]
    radii = np.linspace(0.9 * RADIUS[0], RADIUS[1], 3)
    kinds = itertools.product(CLASSES, radii, centers, centers)
    scenes = [Scene((Obj(cls, "black", x, y, radius),)) for cls, radius, x, y in kinds]
    sharp = render(scenes, size)
    images = np.concatenate([ndimage.gaussian_filter(sharp, (0, blur, blur, 0)) for blur in BLURS])
    found, _, _ = _candidates(*_coverage(images)[:2])
    classes = np.array([CLASSES.index(scenes[c.image % len(scenes)].objects[0].cls) for c in found])
    return np.stack([c.canonical for c in found]), classes


def inspect_images(images: np.ndarray) -> list[Inspection]:
    """Inspect uint8 images (n, H, W, 3). Boxes are in pixels, detections sorted by falling score. Raises ValueError for
    another shape or type."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images (n, H, W, 3), got {images.dtype} {images.shape}")
    coverage, colors, deviant = _coverage(images)
    found, labels, plane_image = _candidates(coverage, colors)
    per_image: list[list[Detection]] = [[] for _ in images]
    explained = np.zeros(labels.max(initial=0) + 1, dtype=bool)
    if found:
        templates, classes = _templates()
        scores = np.stack([c.canonical for c in found]) @ templates.T  # (m, k)
        for candidate, best, score in zip(found, scores.argmax(axis=1), scores.max(axis=1), strict=True):
            x0, y0, x1, y1 = candidate.box
            square = min(x1 - x0, y1 - y0) >= MIN_ASPECT * max(x1 - x0, y1 - y0)
            if square and score >= MIN_SCORE and candidate.density >= MIN_COVERAGE:
                explained[candidate.label] = True
                cls, color = CLASSES[classes[best]], COLOR_NAMES[candidate.color]
                box = tuple(float(v) for v in candidate.box)
                per_image[candidate.image].append(Detection(cls, color, box, min(float(score), 1.0)))
    objects = np.zeros(deviant.shape, dtype=bool)
    for plane, image in zip(labels, plane_image, strict=True):
        objects[image] |= explained[plane]
    objects = ndimage.binary_dilation(objects, _IN_PLANE)  # an object's soft edge belongs to it
    artefact = (deviant & ~objects).mean(axis=(1, 2)).tolist()
    best_first = [sorted(detections, key=lambda d: -d.score) for detections in per_image]
    return [Inspection(*both) for both in zip(best_first, artefact, strict=True)]
