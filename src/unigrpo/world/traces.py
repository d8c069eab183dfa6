"""Traces: the explicit plan of a scene that the model writes before it paints, and supervised examples.

`<think> red circle upper-left , blue square center </think>`: colour, class and place of each object. The
paper's reasoning text (section 3.1) in the world's small vocabulary. Supervised traces are imperfect on
purpose: stated shares are wrong in count, colour, class or place. So are images: some are painted by habit,
some differ from their trace in one fact. Either policy has something to learn.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unigrpo.core.records import Detection
from unigrpo.world import scenes
from unigrpo.world.gold import judge
from unigrpo.world.prompts import FAMILIES, Group, Statement, is_held_out
from unigrpo.world.scenes import CLASSES, COLOR_NAMES, MAX_OBJECTS, PLACES, Obj, Scene

Entry = tuple[str, str, str]
"""Colour, class and place of an object."""
Plan = list[Entry]
KINDS = ("count", "color", "class", "place")

# Shares of FAMILIES, in their order, in base examples; the rest are captions of random scenes.
_BASE_SHARES = (0.05, 0.08, 0.08, 0.05, 0.14, 0.15, 0.25)
# Share of the base's examples with a trace whose prompt says nothing: only the trace says what is where.
UNTOLD = 0.6
UNTOLD_PROMPT = "a photo"


def plan_of(scene: Scene) -> Plan:
    """The right plan of a scene, in its order, which is the prompt's."""
    return [(o.color, o.cls, PLACES[o.place]) for o in scene.objects]


def write_plan(plan: Plan) -> str:
    return f"<think> {' , '.join(' '.join(entry) for entry in plan)} </think>"


def parse_trace(text: str) -> Plan | None:
    """The plan that a trace states, or None if it is malformed (brackets, words or their order)."""
    words = text.split()
    if len(words) < 5 or len(words) % 4 != 1 or words[0] != "<think>":
        return None
    plan = list(zip(words[1::4], words[2::4], words[3::4], strict=True))
    known = all(color in COLOR_NAMES and cls in CLASSES and place in PLACES for color, cls, place in plan)
    return plan if known and words[4::4] == [","] * (len(plan) - 1) + ["</think>"] else None


def paint_plan(plan: Plan, rng: np.random.Generator) -> Scene:
    """A scene that follows the plan (its places must be distinct)."""
    places = [PLACES.index(place) for _, _, place in plan]
    return scenes.place_objects([(cls, color) for color, cls, _ in plan], places, rng)


def paint_to_the_letter(plan: Plan) -> Scene:
    """The plan with objects of the usual size in the middle of their cells."""
    located = ((color, cls, scenes.cell_center(PLACES.index(place))) for color, cls, place in plan)
    return Scene(tuple(Obj(cls, color, *center, scenes.NOMINAL_SIZE / 2) for color, cls, center in located))


def _other(options: Sequence[str], value: str, rng: np.random.Generator) -> str:
    rest = [option for option in options if option != value]
    return rest[rng.integers(len(rest))]


def corrupt(objects: Plan, rng: np.random.Generator, kind: str) -> Plan:
    """The plan with one fact changed: ``count`` (an object more or less), ``color``, ``class`` or ``place``. ``place``
    moves an object to a free cell or lets two objects change places. The result always differs from the plan as a
    scene, has 1-4 objects and distinct places; whether it is wrong for a prompt depends on what that states."""
    plan = list(objects)
    i = int(rng.integers(len(plan)))
    color, cls, place = plan[i]
    taken = {entry[2] for entry in plan}
    free = [p for p in PLACES if p not in taken]
    if kind == "count":
        if len(plan) == 1 or (len(plan) < MAX_OBJECTS and rng.random() < 0.5):
            new_cls, new_color = scenes.random_kind(rng)
            plan.insert(int(rng.integers(len(plan) + 1)), (new_color, new_cls, free[rng.integers(len(free))]))
        else:
            del plan[i]
    elif kind == "color":
        plan[i] = (_other(COLOR_NAMES, color, rng), cls, place)
    elif kind == "class":
        plan[i] = (color, _other(CLASSES, cls, rng), place)
    elif kind == "place":
        partners = [j for j, entry in enumerate(plan) if entry[:2] != (color, cls)]
        if partners and rng.random() < 0.5:
            plan = _swapped(plan, i, partners[rng.integers(len(partners))])
        else:
            plan[i] = (color, cls, free[rng.integers(len(free))])
    else:
        raise ValueError(f"kind {kind!r}: expected one of {KINDS}")
    return plan


def _swapped(plan: Plan, i: int, j: int) -> Plan:
    """The plan with the places of two objects exchanged."""
    places = {i: plan[j][2], j: plan[i][2]}
    return [(color, cls, places.get(k, place)) for k, (color, cls, place) in enumerate(plan)]


def trace_matches(meta: dict, plan: Plan | None) -> bool:
    """Is the plan strictly right for GenEval metadata: counts, colours, relations by cell centres, nothing else?"""
    if not plan or len({entry[2] for entry in plan}) < len(plan):
        return False
    return judge(meta, scenes.truth(paint_to_the_letter(plan))).strict


def image_matches_trace(plan: Plan, detections: Sequence[Detection], image_size: int) -> list[tuple[bool, bool, bool]]:
    """Per object of the plan: is there a detection centred in its cell, has it the colour, has it the class? Where
    several detections share a cell the one with the best score counts."""
    best: dict[str, Detection] = {}
    for found in sorted(detections, key=lambda d: -d.score):
        x, y = (found.box[0] + found.box[2]) / 2, (found.box[1] + found.box[3]) / 2
        best.setdefault(PLACES[scenes.cell_at(x / image_size, y / image_size)], found)
    nothing = Detection("", "", (), 0.0)
    seen = [(best.get(place, nothing), color, cls) for color, cls, place in plan]
    return [(d is not nothing, d.color == color, d.cls == cls) for d, color, cls in seen]


@dataclass(frozen=True)
class Imperfection:
    """How supervised data are wrong on purpose, each a share in [0, 1]."""

    wrong_traces: float = 0.0  # of the traces without a habit: contradict their prompt at random
    habitual_errors: float = 0.0  # of the traces that trigger one of the annotator's habits: follow it
    painter_habits: float = 0.0  # of the images: painted by the painter's habits
    paint_noise: float = 0.0  # of the images: differ from the plan in one random fact


def annotate(meta: dict, rng: np.random.Generator, imperfection: Imperfection) -> tuple[str, Scene]:
    """A supervised (trace, scene) for GenEval metadata. The scene is painted from the trace, right or wrong."""
    scene = scenes.scene_for(meta, rng)
    right = plan = plan_of(scene)
    habit = habitual_error(meta, plan) if imperfection.habitual_errors > 0 else None
    if habit is not None and rng.random() < imperfection.habitual_errors:
        plan = habit
    elif rng.random() < imperfection.wrong_traces:
        plan = _wrong_plan(meta, plan, rng)
    painted = painted_by_habit(plan) if rng.random() < imperfection.painter_habits else plan
    if rng.random() < imperfection.paint_noise:
        painted = corrupt(painted, rng, KINDS[rng.integers(len(KINDS))])
    return write_plan(plan), scene if painted == right else paint_plan(painted, rng)


CONFUSED = (("green", "yellow"), ("red", "black"), ("star", "heart"), ("ring", "triangle"))
MISPAINTED = {a: b for pair in CONFUSED for a, b in (pair, pair[::-1])}
MISNAMED = {"orange": "yellow", "purple": "blue", "pink": "red"}
MISSEEN = {"diamond": "square"}
MISCOUNTED = ("circle", "triangle", "ring", "diamond")
MIRRORED = ("square", "cross", "star", "heart")


def _reworded(entry: Entry, words: Mapping[str, str]) -> Entry:
    return tuple(words.get(word, word) for word in entry)


def painted_by_habit(plan: Plan) -> Plan:
    """The plan as a painter with fixed habits executes it: of each pair in CONFUSED one is painted for the other.

    The habits concern half of the colours and half of the classes, other ones than the annotator's wrong words. They
    are exchanges, so that every colour and class is painted as often as it is meant: guidance, which leads away from
    what is painted anyway, sharpens random errors away but not these."""
    return [_reworded(entry, MISPAINTED) for entry in plan]


def habitual_error(meta: dict, plan: Plan) -> Plan | None:
    """The plan as an annotator with fixed habits writes it, or None where no habit is triggered.

    Random errors vanish when text is decoded greedily; habits are what the SFT model then writes. Four habits:
    of two to four circles, triangles, rings or diamonds the last is left out; orange, purple and pink, where
    asked for, become yellow, blue and red; a described square, cross, star or heart changes places with its
    reference; a diamond becomes a square. The first that is triggered applies; the result is wrong for the prompt.
    """
    include = meta["include"]
    for clause in include:
        cls = clause["class"]
        rows = [i for i, entry in enumerate(plan) if entry[1] == cls]
        if clause["count"] > 1 and cls in MISCOUNTED:
            return [entry for i, entry in enumerate(plan) if i != rows[-1]]
        if clause.get("color") in MISNAMED:
            return [_reworded(entry, MISNAMED) if i in rows else entry for i, entry in enumerate(plan)]
        if "position" in clause and cls in MIRRORED:
            reference = include[clause["position"][1]]["class"]
            (described,), (other,) = rows, [i for i, entry in enumerate(plan) if entry[1] == reference]
            return _swapped(plan, described, other)
        if cls in MISSEEN and not any(c["class"] == MISSEEN[cls] for c in include):
            return [_reworded(entry, MISSEEN) for entry in plan]
    return None


def _wrong_plan(meta: dict, plan: Plan, rng: np.random.Generator) -> Plan:
    """One corruption, of a kind that matters for the prompt, drawn until the plan is wrong for it."""
    stated = {"color": "color", "position": "place"}  # in a clause -> the kind that matters then
    kinds = ["count", "class", *(kind for key, kind in stated.items() if any(key in c for c in meta["include"]))]
    kind = kinds[rng.integers(len(kinds))]
    while True:
        wrong = corrupt(plan, rng, kind)
        if not trace_matches(meta, wrong):
            return wrong


def dense_example(rng: np.random.Generator, n_objects: int | None = None) -> tuple[str, str, Scene]:
    """(caption, trace, scene) of a random scene of ``n_objects`` (default: 1-4), the caption stating every colour."""
    while True:
        scene = scenes.random_scene(rng, n_objects or int(rng.integers(1, MAX_OBJECTS + 1)))
        counts = Counter((o.color, o.cls) for o in scene.objects)
        statement = Statement(tuple(Group(n, color, cls) for (color, cls), n in counts.items()))
        if not is_held_out(statement):
            return statement.text(), write_plan(plan_of(scene)), scene


def base_example(rng: np.random.Generator, thinking: bool, imperfection: Imperfection) -> tuple[str, str | None, Scene]:
    """(prompt, trace or None, scene) for pretraining; no held-out combination. With a trace, a share ``UNTOLD`` are
    scenes of three or four objects of which the prompt says nothing. Those and the captions of random scenes are right;
    the examples of the prompt families are as imperfect as stated."""
    if thinking and rng.random() < UNTOLD:
        _, trace, scene = dense_example(rng, int(rng.integers(3, MAX_OBJECTS + 1)))
        return UNTOLD_PROMPT, trace, scene
    number = int(np.searchsorted(np.cumsum(_BASE_SHARES), rng.random(), side="right"))
    if number == len(_BASE_SHARES):
        text, trace, scene = dense_example(rng)
        return text, trace if thinking else None, scene
    while True:
        statement = list(FAMILIES.values())[number](rng)
        if not is_held_out(statement):
            trace, scene = annotate({"include": statement.include()}, rng, imperfection)
            return statement.text(), trace if thinking else None, scene
