"""Inspector: pixels to detections, by geometry and from the image alone (no part is learned).

A pixel over the background B covered by a share a of colour C is B - a (B - C): its length along the nearest colour of
the palette is the coverage, so that anti-aliased edges keep their object's shape. Connected covered pixels are a
candidate; its coverage map, brought to a canonical size, is correlated with those of rendered shapes. The score is the
correlation. What is no shape as a whole is looked at colour by colour (objects that touch), and what then is left once
more as a whole. The *direction* of B - pixel over an object names its colour afterwards, or leaves it ``UNSURE``. What
fits neither an object nor the background is the artefact area.
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
ALIGNED = 0.95  # least cosine between an object's direction and that of the colour that names it
MIXED = 0.75  # angle to the nearest colour over that to the second, from which the nearest is not clear
UNSURE = "unsure"  # colour of an object that has none of the palette's
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
    label: int
    box: tuple[float, float, float, float]
    density: float
    canonical: np.ndarray  # (CANONICAL ** 2,) coverage


class _Planes(NamedTuple):
    """Masks (p, H, W) in which connected pixels are candidates, and the image (p,) that each is of."""

    masks: np.ndarray
    image: np.ndarray


def _coverage(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background - pixel (n, H, W, 3); coverage (n, H, W), 0 in the background; nearest colour there, else 0."""
    missing = np.array(BACKGROUND, dtype=np.float32) - images
    length = np.sqrt(np.einsum("nhwc,nhwc->nhw", missing, missing))
    foreground = length > FAINT
    projection = missing[foreground] @ _DIRECTIONS  # (m, 8)
    color = projection.argmax(axis=1)
    along = np.take_along_axis(projection, color[:, None], axis=1)[:, 0]
    coverage = np.zeros(images.shape[:3], dtype=np.float32)
    coverage[foreground] = np.clip(along / _LENGTHS[color], 0, 1)
    colors = np.zeros(images.shape[:3], dtype=np.int8)
    colors[foreground] = color
    return missing, coverage, colors


def _planes(solid: np.ndarray, colors: np.ndarray | None = None) -> _Planes:
    """Of solid pixels (n, H, W), a plane for each image that has enough of them for an object; with nearest ``colors``
    (n, H, W) for each image and colour."""
    least = MIN_AREA * solid.shape[1] * solid.shape[2]
    image = np.flatnonzero(solid.sum(axis=(1, 2)) >= least)
    if colors is None:
        return _Planes(solid[image], image)
    each = np.arange(len(COLOR_NAMES), dtype=colors.dtype)[:, None, None]
    masks = (solid[image, None] & (colors[image, None] == each)).reshape(-1, *solid.shape[1:])
    enough = masks.sum(axis=(1, 2)) >= least
    return _Planes(masks[enough], np.repeat(image, len(COLOR_NAMES))[enough])


def _resampler(center: float, half: float, first: int, count: int) -> np.ndarray:
    """(CANONICAL, count) linear interpolation from pixels first.. to the canonical samples of center +- half."""
    low, high = center - half, center + half
    step = (high - low) / CANONICAL
    at = low + step * (np.arange(CANONICAL) + 0.5)
    width = max(step, 1.0)
    pixels = first + 0.5 + np.arange(count)
    return np.maximum(1 - np.abs(at[:, None] - pixels) / width, 0) / width


def _edges(profile: np.ndarray, first: int) -> tuple[float, float]:
    """Sub-pixel ends of a run of pixels; ``profile``: the greatest coverage per column, two faint ones either side."""
    (solid,) = (profile >= SOLID).nonzero()
    low, high = solid[0], solid[-1]
    before = profile[low - 1] if low else 0.0
    after = profile[high + 1] if high + 1 < profile.size else 0.0
    return first + low + 1 - profile[low] - before, first + high + profile[high] + after


def _candidates(coverage: np.ndarray, planes: _Planes) -> tuple[list[_Candidate], np.ndarray]:
    """Candidates, and the label map (p, H, W) of each plane."""
    height, width = coverage.shape[1:]
    labels, count = ndimage.label(planes.masks, _IN_PLANE)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    found = []
    for label, slices in enumerate(ndimage.find_objects(labels) if count else [], 1):
        plane, rows, columns = slices[0].start, slices[1], slices[2]
        side = max(rows.stop - rows.start, columns.stop - columns.start)
        if areas[label] < MIN_AREA * height * width or side > MAX_SIDE * max(height, width):
            continue
        top, left = max(rows.start - 2, 0), max(columns.start - 2, 0)
        window = slice(top, rows.stop + 2), slice(left, columns.stop + 2)
        inside = labels[plane][window] == label
        crop = coverage[planes.image[plane]][window]
        crop = np.where(inside | (crop < SOLID), crop, 0)
        x0, x1 = _edges(crop.max(axis=0), left)
        y0, y1 = _edges(crop.max(axis=1), top)
        half, cx, cy = MARGIN / 2 * max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2
        down, across = _resampler(cy, half, top, crop.shape[0]), _resampler(cx, half, left, crop.shape[1])
        canonical = (down @ crop @ across.T).ravel()
        density = float(np.sort(crop[inside])[-(areas[label] // 4) - 1])
        found.append(_Candidate(int(planes.image[plane]), label, (x0, y0, x1, y1), density, canonical))
    return found, labels


def _unit(found: list[_Candidate]) -> np.ndarray:
    """Canonical maps (m, CANONICAL ** 2), centred and of unit length: products of two are correlations."""
    maps = np.stack([c.canonical for c in found])
    maps -= maps.mean(axis=1, keepdims=True)
    return maps / np.linalg.norm(maps, axis=1, keepdims=True)


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
    _, coverage, _ = _coverage(images)
    found, _ = _candidates(coverage, _planes(coverage >= SOLID))
    classes = np.array([CLASSES.index(scenes[c.image % len(scenes)].objects[0].cls) for c in found])
    return _unit(found), classes


def _color_names(missing: np.ndarray, colors: np.ndarray, planes: _Planes, labels: np.ndarray) -> list[str]:
    """Colour of each label (0 first), from background - pixel (n, H, W, 3) and the nearest colour (n, H, W) of pixels.
    ``UNSURE`` where the mean direction is far from every colour's or lies between two, or most pixels have another."""
    plane, y, x = np.nonzero(labels)
    label, at = labels[plane, y, x], (planes.image[plane], y, x)
    total = np.stack([np.bincount(label, of_channel) for of_channel in missing[at].T], axis=1)  # (labels, 3)
    cosine = total @ _DIRECTIONS / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1)
    kinds = len(COLOR_NAMES)
    votes = np.bincount(label * kinds + colors[at], minlength=len(total) * kinds).reshape(-1, kinds)
    best, angles = cosine.argmax(axis=1), np.sort(np.arccos(np.clip(cosine, -1, 1)), axis=1)
    clear = (cosine.max(axis=1) >= ALIGNED) & (angles[:, 0] < MIXED * angles[:, 1])
    clear &= 2 * np.take_along_axis(votes, best[:, None], axis=1)[:, 0] > votes.sum(axis=1)
    return [COLOR_NAMES[color] if sure else UNSURE for color, sure in zip(best, clear, strict=True)]


def inspect_images(images: np.ndarray) -> list[Inspection]:
    """Inspect uint8 images (n, H, W, 3). Boxes are in pixels, detections sorted by falling score. Raises ValueError for
    another shape or type."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images (n, H, W, 3), got {images.dtype} {images.shape}")
    missing, coverage, colors = _coverage(images)
    templates, classes = _templates()
    per_image: list[list[Detection]] = [[] for _ in images]
    unread, objects = coverage >= SOLID, np.zeros(coverage.shape, dtype=bool)
    for split in (None, colors, None):
        planes = _planes(unread, split)
        found, labels = _candidates(coverage, planes)
        if not found:
            continue
        names = _color_names(missing, colors, planes, labels)
        read = np.zeros(labels.max() + 1, dtype=bool)
        scores = _unit(found) @ templates.T  # (m, k)
        for candidate, best, score in zip(found, scores.argmax(axis=1), scores.max(axis=1), strict=True):
            x0, y0, x1, y1 = candidate.box
            square = min(x1 - x0, y1 - y0) >= MIN_ASPECT * max(x1 - x0, y1 - y0)
            if square and score >= MIN_SCORE and candidate.density >= MIN_COVERAGE:
                read[candidate.label] = True
                box = tuple(float(v) for v in candidate.box)
                detection = Detection(CLASSES[classes[best]], names[candidate.label], box, min(float(score), 1.0))
                per_image[candidate.image].append(detection)
        for mask, image in zip(read[labels], planes.image, strict=True):
            objects[image] |= mask
        unread &= ~objects
    objects = ndimage.binary_dilation(objects, _IN_PLANE)  # an object's soft edge belongs to it
    deviant = np.einsum("nhwc,nhwc->nhw", missing, missing) > DEVIANT**2
    artefact = (deviant & ~objects).mean(axis=(1, 2)).tolist()
    best_first = [sorted(detections, key=lambda d: -d.score) for detections in per_image]
    return [Inspection(*both) for both in zip(best_first, artefact, strict=True)]
