"""Scenes: 1-4 coloured shapes on a light background, each in another cell of a 3x3 grid (numpy only).

Positions and sizes are continuous: centres jitter by up to 15 % of a cell, diameters are 62-78 % of a cell, so neither
an object nor a latent patch sits exactly on the grid. Coordinates are fractions of the image side, y pointing down.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unigrpo.core.records import Detection

CLASSES = ("circle", "square", "triangle", "cross", "ring", "star", "diamond", "heart")
# Told apart by the direction background - colour, which half-covered edge pixels keep.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 35),
    "orange": (245, 135, 10),
    "yellow": (240, 220, 20),
    "green": (25, 175, 50),
    "blue": (20, 90, 235),
    "purple": (130, 20, 190),
    "pink": (245, 120, 195),
    "black": (15, 15, 15),
}
BACKGROUND = (240, 240, 240)
PLACES = (
    "upper-left", "upper-middle", "upper-right",
    "middle-left", "center", "middle-right",
    "lower-left", "lower-middle", "lower-right",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
GRID = 3
MAX_OBJECTS = 4
JITTER = 0.15 / GRID  # of the image side, either way
RADIUS = (0.31 / GRID, 0.39 / GRID)
GAP = 0.02  # least distance between the boxes of two objects, about one pixel of 48
NOMINAL_SIZE = 0.7 / GRID  # box side assumed when only the cell of an object is known
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True, slots=True)
class Obj:
    """One shape: centre and radius as fractions of the image side; the radius is half its bounding box."""

    cls: str
    color: str
    x: float
    y: float
    radius: float

    @property
    def place(self) -> int:
        return cell_at(self.x, self.y)


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in the order in which the prompt mentions them."""

    objects: tuple[Obj, ...]


def truth(scene: Scene) -> list[Detection]:
    """The objects of a scene as perfect detections, boxes in units of the image side."""
    return [
        Detection(o.cls, o.color, (o.x - o.radius, o.y - o.radius, o.x + o.radius, o.y + o.radius), 1.0)
        for o in scene.objects
    ]


def cell_at(x: float, y: float) -> int:
    """Row-major index (0-8) of the cell that holds a point, given as fractions of the image side."""
    return min(int(y * GRID), GRID - 1) * GRID + min(int(x * GRID), GRID - 1)


def cell_center(place: int) -> tuple[float, float]:
    """(x, y) of a cell's centre as fractions of the image side."""
    return (place % GRID + 0.5) / GRID, (place // GRID + 0.5) / GRID


def clearly(relation: str, described: int, reference: int) -> bool:
    """Does the relation hold between two cells whatever the jitter: right side, and that axis dominates?"""
    dx, dy = described % GRID - reference % GRID, described // GRID - reference // GRID
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > abs(across)


def mention_order(include: Sequence[dict]) -> list[int]:
    """Clause indices in the order the text mentions them: a described object precedes its reference."""
    order = list(range(len(include)))
    for index, clause in enumerate(include):
        if "position" in clause:
            order.remove(index)
            order.insert(order.index(clause["position"][1]), index)
    return order


def place_objects(kinds: Sequence[tuple[str, str]], places: Sequence[int], rng: np.random.Generator) -> Scene:
    """Scene with one (class, colour) per cell; jitter is redrawn until no two objects come closer than ``GAP``."""
    while True:
        objects = []
        draws = rng.random((len(kinds), 3)).tolist()
        for (cls, color), place, (right, down, size) in zip(kinds, places, draws, strict=True):
            x, y = cell_center(place)
            x, y = x + JITTER * (2 * right - 1), y + JITTER * (2 * down - 1)
            objects.append(Obj(cls, color, x, y, RADIUS[0] + (RADIUS[1] - RADIUS[0]) * size))
        pairs = itertools.combinations(objects, 2)
        if all(max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + GAP for a, b in pairs):
            return Scene(tuple(objects))


def random_kind(rng: np.random.Generator) -> tuple[str, str]:
    """A random (class, colour)."""
    draw = int(rng.integers(len(CLASSES) * len(COLORS)))
    return CLASSES[draw // len(COLORS)], COLOR_NAMES[draw % len(COLORS)]


def random_scene(rng: np.random.Generator, n_objects: int) -> Scene:
    """``n_objects`` random shapes in random distinct cells."""
    places = rng.permutation(GRID * GRID)[:n_objects].tolist()
    return place_objects([random_kind(rng) for _ in range(n_objects)], places, rng)


def scene_for(meta: dict, rng: np.random.Generator) -> Scene:
    """A scene that satisfies GenEval metadata exactly, with nothing else in it; relations hold with a margin. Colours
    that the metadata leaves open are random. Raises ValueError if no layout satisfies the relations or the objects
    outnumber the cells."""
    include = meta["include"]
    kinds: list[tuple[str, str]] = []
    slots: dict[int, range] = {}  # clause -> its objects
    for index in mention_order(include):
        clause = include[index]
        slots[index] = range(len(kinds), len(kinds) + clause["count"])
        for _ in slots[index]:
            kinds.append((clause["class"], clause.get("color") or COLOR_NAMES[int(rng.integers(len(COLORS)))]))
    if len(kinds) > GRID * GRID:
        raise ValueError(f"{meta.get('prompt', include)!r} asks for more than {GRID * GRID} objects")
    relations = []
    for index, clause in enumerate(include):
        if "position" in clause:
            relation, reference = clause["position"]
            relations += itertools.product([relation], slots[index], slots[reference])
    for _ in range(2000):
        places = rng.permutation(GRID * GRID)[: len(kinds)].tolist()
        if all(clearly(relation, places[a], places[b]) for relation, a, b in relations):
            return place_objects(kinds, places, rng)
    raise ValueError(f"{meta.get('prompt', include)!r}: no layout satisfies its relations")
