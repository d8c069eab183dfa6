"""The words of a trace that the verdict turned on: which fact of the prompt was denied, and by whom.

A fact is an exam point of unigrpo.world.exam_points. The benchmark's verdict is asked twice: on the image (its reason
is in scores.jsonl) and on the plan of the trace, as if it had been painted to the letter. A denied fact marks the words
of the trace that speak of it:

* PLAN: the trace already contradicts the prompt
* PAINT: the trace is right, the image is not

A malformed trace, or one in free text, has no marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unigrpo.core.records import Detection
from unigrpo.world.benchmark_verdicts import VERDICTS
from unigrpo.world.exam_points import ExamPoint, Group, exam_points
from unigrpo.world.scenes import NOMINAL_SIZE, PLACES, cell_center
from unigrpo.world.traces import Plan, parse_trace

PLAN, PAINT = "plan", "paint"
COLOR, CLASS, PLACE = range(3)

Line = list[tuple[str, str]]
"""The words of one object of a trace, each with its mark, '' for none."""


def _denials(point: ExamPoint) -> tuple[str, ...]:
    """How the line of a verdict's reason begins that denies this point; TA's reason is the question itself."""
    cls, color = point.group.cls, point.group.color
    official = {
        "object": (f"expected {cls}>=",),
        "count": (f"expected {cls}>=", f"expected {cls}<"),
        "attribute": (f"expected {color} {cls}>=",),
        "position": (f"expected {cls} {point.relation} target",),
    }
    return (point.question, *official[point.skill])


def denied(meta: Mapping, reason: str) -> set[ExamPoint]:
    """The stated facts that a verdict's reason, one line a failure, denies."""
    lines = reason.split("\n")
    return {p for p in exam_points(meta) if any(line.startswith(_denials(p)) for line in lines)}


def painted_to_the_letter(plan: Plan) -> list[Detection]:
    """The plan as detections: boxes of the usual size in the middle of their cells, image side 1."""
    half = NOMINAL_SIZE / 2
    centers = [cell_center(PLACES.index(place)) for _, _, place in plan]
    boxes = [(x - half, y - half, x + half, y + half) for x, y in centers]
    return [Detection(cls, color, box, 1.0) for (color, cls, _), box in zip(plan, boxes, strict=True)]


def _words(point: ExamPoint, plan: Plan, asked: set[str]) -> Iterator[tuple[int, int]]:
    """(object, word) of the plan that speak of a fact; where its class is not planned, of classes nobody asked for."""

    of_class = [i for i, entry in enumerate(plan) if entry[CLASS] == point.group.cls]
    match point.skill:
        case "object" | "count":
            unasked = [i for i, entry in enumerate(plan) if entry[CLASS] not in asked]
            yield from ((i, CLASS) for i in of_class or unasked)
        case "attribute":
            wrong = [i for i in of_class if plan[i][COLOR] != point.group.color]
            yield from ((i, COLOR) for i in wrong or of_class)
        case "position":  # a relation whose one side is missing failed for that, not for its places
            sides = [[i for i, entry in enumerate(plan) if _is(entry, group)] for group in (point.group, point.target)]
            yield from ((i, PLACE) for i in sides[0] + sides[1] if all(sides))


def _is(entry: tuple[str, str, str], group: Group) -> bool:
    return entry[CLASS] == group.cls and group.color in (None, entry[COLOR])


def marked(trace: str | None, benchmark: str, meta: Mapping, reason: str) -> list[Line] | None:
    """The objects of a trace, each word with its mark; None where the trace states no plan.

    ``reason`` is the verdict's on the image, empty where it was right or not judged.
    """
    plan = parse_trace(trace or "")
    if plan is None:
        return None
    verdict, _ = VERDICTS[benchmark]
    planned = denied(meta, verdict(meta, painted_to_the_letter(plan))["reason"])
    painted = denied(meta, reason) - planned
    asked = {clause["class"] for clause in meta["include"]}
    marks = [["", "", ""] for _ in plan]
    for kind, points in ((PAINT, painted), (PLAN, planned)):  # a word of both belongs to the plan
        for point in points:
            for row, word in _words(point, plan, asked):
                marks[row][word] = kind
    return [list(zip(entry, words, strict=True)) for entry, words in zip(plan, marks, strict=True)]
