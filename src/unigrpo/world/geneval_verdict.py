"""GenEval: official prompts, detection filter and verdict (Ghosh et al., 2023; the paper's Table 2).

Prompts are generated, not stored: numpy's default generator at seed 43, drawn in the official order, gives
the published file byte for byte. Two verdicts live here and must never share a column:

* official: at least the asked count of each object (``exclude`` caps counting prompts). Extras are free.
* exact: exactly the asked count, ``exclude`` ignored, a graded score: the public reward server's rule.

Boxes and scores are compared in float32, as the official detector gives them: 0.30000001192 is not above
0.3. What differs: relations inside a reason are sorted, where the official text has a set's hash order.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unigrpo.core.errors import UserError
from unigrpo.core.records import Detection

_COCO = (
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|"
    "parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|"
    "handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|"
    "surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|"
    "broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|"
    "computer mouse|tv remote|computer keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|"
    "clock|vase|scissors|teddy bear|hair drier|toothbrush"
)
CLASSES = tuple(_COCO.split("|"))
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

PROMPT_SEED = 43
THRESHOLDS, MAX_OBJECTS = (0.3, 0.9), 16  # scores of all prompts but counting, and of counting
POSITION_THRESHOLD, DIRECTION_RATIO, COINCIDENT = 0.1, 0.5, 1e-3

Boxes = Mapping[str, Sequence[Sequence[float]]]
"""Class name -> rows (x0, y0, x1, y1, score), pixels and [0, 1], best score first."""
Colors = Mapping[str, Sequence[str]]
"""Class name -> colours, parallel to its boxes."""


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _clause(cls: str, count: int = 1, **facts) -> dict:
    return {"class": cls, "count": count, **facts}


def metadata() -> list[dict]:
    """The 553 official rows ``{tag, include, exclude?, prompt}``, in the published order."""
    rng = np.random.default_rng(PROMPT_SEED)
    rows: list[dict] = []

    def add(tag: str, include: list[dict], text: str, **more) -> None:
        rows.append({"tag": tag, "include": include, **more, "prompt": f"a photo of {text}"})

    def distinct(names: Sequence[str], n: int) -> list[str]:
        return [names[i] for i in rng.choice(len(names), size=n, replace=False)]

    for cls in distinct(CLASSES, 80):
        add("single_object", [_clause(cls)], with_article(cls))
    for _ in range(100):
        a, b = distinct(CLASSES, 2)
        add("two_object", [_clause(a), _clause(b)], f"{with_article(a)} and {with_article(b)}")
    for _ in range(100):
        cls, n = CLASSES[rng.choice(80)], int(rng.integers(2, 4, endpoint=True))
        add("counting", [_clause(cls, n)], f"{NUMBERS[n]} {plural(cls)}", exclude=[_clause(cls, n + 1)])
    for _ in range(100):
        cls, color = CLASSES[rng.choice(79) + 1], COLORS[rng.choice(10)]  # never a person
        add("colors", [_clause(cls, color=color)], f"{with_article(color)} {cls}")
    for _ in range(100):
        (moved, fixed), relation = distinct(CLASSES, 2), RELATIONS[rng.choice(4)]
        include = [_clause(fixed), _clause(moved, position=[relation, 0])]
        add("position", include, f"{with_article(moved)} {relation} {with_article(fixed)}")
    for _ in range(100):
        (a, b), (color_a, color_b) = distinct(CLASSES[1:], 2), distinct(COLORS, 2)
        include = [_clause(a, color=color_a), _clause(b, color=color_b)]
        add("color_attr", include, f"{with_article(color_a)} {a} and {with_article(color_b)} {b}")
    return [json.loads(line) for line in dict.fromkeys(map(json.dumps, rows))]


def _iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Overlap of two float32 boxes whose borders are inclusive pixels (one is added to each side)."""

    def area(x0, y0, x1, y1) -> np.float32:
        return max(x1 - x0 + 1, np.float32(0)) * max(y1 - y0 + 1, np.float32(0))

    inner = area(*np.maximum(a[:2], b[:2]), *np.minimum(a[2:4], b[2:4]))
    union = area(*a[:4]) + area(*b[:4]) - inner
    return inner / union if union else np.float32(0)


def kept_indices(
    boxes: Sequence[Sequence[float]], tag: str, max_overlap: float = 1.0, thresholds: tuple[float, float] = THRESHOLDS
) -> list[int]:
    """Which detections of one class the official filter keeps, best score first (of equals, the later one). Scores
    strictly above the first of ``thresholds`` (the second for counting prompts), the best 16, then, for ``max_overlap``
    below 1, greedy suppression of boxes whose overlap with a better one reaches it. Other thresholds than the default
    are those of another detector."""
    rows = np.asarray(boxes, dtype=np.float32).reshape(-1, 5)
    threshold = np.float32(thresholds[tag == "counting"])
    order = np.argsort(rows[:, 4], kind="stable")[::-1]
    order = [int(i) for i in order if rows[i, 4] > threshold][:MAX_OBJECTS]
    if max_overlap == 1:
        return order
    chosen: list[int] = []
    for i in order:
        if all(_iou(rows[j], rows[i]) < np.float32(max_overlap) for j in chosen):
            chosen.append(i)
    return chosen


def boxes_and_colors(detections: Sequence[Detection]) -> tuple[dict[str, list[list[float]]], dict[str, list[str]]]:
    """GenEval's form: class -> [[x0, y0, x1, y1, score], ...] by falling score, and class -> colours in that order."""
    boxes: dict[str, list[list[float]]] = {}
    colors: dict[str, list[str]] = {}
    for d in sorted(detections, key=lambda d: -d.score):
        boxes.setdefault(d.cls, []).append([*d.box, d.score])
        colors.setdefault(d.cls, []).append(d.color)
    return boxes, colors


class Verdict(NamedTuple):
    """``reason``: a line a failure, empty if correct, its relations sorted. ``score`` (exact rule only): at most 1."""

    correct: bool
    reason: str
    score: float | None = None


def relative_position(a: Sequence[float], b: Sequence[float], kind: type[np.floating] = np.float32) -> set[str]:
    """Relations that hold from box ``a`` to box ``b`` (at most two; none for near or equal centres), in arithmetic of
    that ``kind``. The centre distance is reduced per axis by 0.1 of the two sizes, then compared with half of the
    *unreduced* distance, so that close boxes may stand in no relation at all."""
    corners = np.array([a[:4], b[:4]], dtype=kind).reshape(2, 2, 2)  # box, corner, axis
    centers = corners.mean(axis=1)
    sizes = np.abs(corners[:, 1] - corners[:, 0])
    offset = centers[0] - centers[1]
    reduced = np.maximum(np.abs(offset) - POSITION_THRESHOLD * sizes.sum(axis=0), 0) * np.sign(offset)
    if np.all(np.abs(reduced) < COINCIDENT):
        return set()
    dx, dy = reduced / np.linalg.norm(offset)
    holds = (dx < -DIRECTION_RATIO, dx > DIRECTION_RATIO, dy < -DIRECTION_RATIO, dy > DIRECTION_RATIO)
    return {relation for relation, true in zip(RELATIONS, holds, strict=True) if true}


def _bad(meta: Mapping, where: str, problem: str) -> UserError:
    return UserError(f"GenEval metadata of {meta.get('prompt', 'a prompt without text')!r}: {where} {problem}")


def _class_and_count(meta: Mapping, name: str, index: int) -> tuple[str, int]:
    clause, where = meta[name][index], f"{name}[{index}]"
    cls, count = clause.get("class"), clause.get("count")
    if not isinstance(cls, str) or not cls:
        raise _bad(meta, where, f"needs 'class', a class name, found {cls!r}")
    if not isinstance(count, int) or count < 1:
        raise _bad(meta, where, f"needs 'count', a whole number above 0, found {count!r}")
    return cls, count


def _target(meta: Mapping, index: int, groups: list) -> tuple[str, Sequence | None]:
    """(relation, objects of the clause it points to; None if that clause failed)."""
    clause = meta["include"][index]
    match clause["position"]:
        case [str(relation), int(target)] if 0 <= target < index:
            return relation, groups[target]
        case found:
            where = f"include[{index}] ({clause['class']})"
            raise _bad(meta, where, f"needs 'position' [relation, index of an earlier clause], found {found!r}")


def check(meta: Mapping) -> None:
    """Raise UserError for the first clause that a verdict could stumble over, whatever the image shows."""
    for name in ("include", "exclude"):
        clauses = meta.get(name, [])
        if not isinstance(clauses, list) or not all(isinstance(clause, dict) for clause in clauses):
            raise _bad(meta, name, f"must be a list of clauses, found {clauses!r}")
        for index, clause in enumerate(clauses):
            _class_and_count(meta, name, index)
            if not isinstance(clause.get("color", ""), str):
                raise _bad(meta, f"{name}[{index}]", f"needs a name as 'color', found {clause['color']!r}")
            if name == "include" and "position" in clause:
                relation, _ = _target(meta, index, [None] * index)
                if relation not in RELATIONS:
                    expected = f"'position' with a relation among {', '.join(RELATIONS)}"
                    raise _bad(meta, f"{name}[{index}]", f"needs {expected}, found {relation!r}")


def _judge(meta: Mapping, detections: Boxes, colors: Colors, exact: bool) -> tuple[list[str], list[float]]:
    """The walk over ``include`` that both rules share -> (reasons, parts of the exact rule's score)."""
    reasons: list[str] = []
    parts: list[float] = []
    groups: list[Sequence | None] = []  # per clause its objects, None if it failed
    for index, clause in enumerate(meta.get("include", [])):
        cls, count = _class_and_count(meta, "include", index)
        found = list(detections.get(cls, ()))[: None if exact else count]
        failures: list[str] = []
        parts.append(1 - abs(count - len(found)) / count)
        if len(found) < count or (exact and len(found) > count):
            failures.append(f"expected {cls}{'==' if exact else '>='}{count}, found {len(found)}")
            if "color" in clause or "position" in clause:
                parts.append(0.0)
        else:
            if "color" in clause:
                color, seen = clause["color"], list(colors.get(cls, ()))[: len(found)]
                if len(seen) < len(found):
                    problem = f"expected one a detection ({len(found)}), found {len(seen)}"
                    raise UserError(f"GenEval colors of class '{cls}': {problem}")
                parts.append(1 - abs(count - seen.count(color)) / count)
                if seen.count(color) < count:
                    listed = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
                    failures.append(f"expected {color} {cls}>={count}, found {seen.count(color)} {color}; and {listed}")
            if "position" in clause and not failures:
                relation, targets = _target(meta, index, groups)
                if targets is None:
                    failures.append(f"no target for {cls} to be {relation}")
                    parts.append(0.0)
                else:
                    held = (relative_position(o, t) for o in found for t in targets)
                    wrong = next((relations for relations in held if relation not in relations), None)
                    if wrong is not None:  # of the first pair that misses the relation
                        failures.append(f"expected {cls} {relation} target, found {' and '.join(sorted(wrong))} target")
                        parts.append(0.0)  # NOTE: the reward server counts a failed relation as a 0 and a 1
                    parts.append(1.0)
        reasons += failures
        groups.append(None if failures else found)
    return reasons, parts


def official_verdict(meta: Mapping, detections: Boxes, colors: Colors) -> Verdict:
    """GenEval's verdict on filtered ``detections`` with ``colors`` parallel to them, class by class. Raises UserError
    on reaching a position clause that points to a clause not evaluated before it."""
    reasons, _ = _judge(meta, detections, colors, exact=False)
    for index in range(len(meta.get("exclude", []))):
        cls, count = _class_and_count(meta, "exclude", index)
        if (found := len(detections.get(cls, ()))) >= count:
            reasons.append(f"expected {cls}<{count}, found {found}")
    return Verdict(not reasons, "\n".join(reasons))


def exact_verdict(meta: Mapping, detections: Boxes, colors: Colors) -> Verdict:
    """The reward server's verdict: exact counts, no ``exclude``; score = mean of its parts, 0 without any."""
    reasons, parts = _judge(meta, detections, colors, exact=True)
    return Verdict(not reasons, "\n".join(reasons), sum(parts) / len(parts) if parts else 0.0)
