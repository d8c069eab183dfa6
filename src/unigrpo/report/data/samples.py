"""Images with their traces and verdicts, and the words of a trace that the verdict turned on.

The benchmark's verdict is asked twice: on the image (its reason is in scores.jsonl) and on the plan of the trace, as if
it had been painted to the letter. A denied fact of the prompt (an exam point) marks the words of the trace that speak
of it: PLAN where the trace already contradicts the prompt, PAINT where the trace is right and the image is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from unigrpo.report.data.results import Folder
from unigrpo.report.data.rows import read_scores
from unigrpo.sampling import sample_folder
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.world.exam_points import ExamPoint, exam_points
from unigrpo.world.gold import VERDICTS
from unigrpo.world.scenes import truth
from unigrpo.world.traces import Plan, paint_to_the_letter, parse_trace

PLAN, PAINT = "plan", "paint"
COLOR, CLASS, PLACE = range(3)  # words of an object of a plan

Entry = list[tuple[str, str]]  # the words of one object of a trace, each with its mark, '' for none
Key = tuple[str, str]  # benchmark and prompt id


@dataclass(frozen=True)
class Sample:
    """One image (H, W, 3) uint8 and its trace, None if painted without one. ``correct``: whether the verdict is right
    in all, None without one; ``reason``: why not, one line a failure; ``scores``: metric -> value."""

    prompt_id: str
    prompt: str
    tag: str
    benchmark: str
    judge: str
    meta: dict
    image: np.ndarray
    trace: str | None
    correct: bool | None = None
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def plan(self) -> list[Entry] | None:
        """The trace's objects with the words marked that the verdict turned on; None without a well-formed trace."""
        return marked(self.trace, self.judge, self.meta, self.reason)

    @property
    def disputed(self) -> bool:
        """Do the world's two instruments give it different verdicts?"""
        headline = VERDICTS[self.judge][1] if self.judge in VERDICTS else None
        return "second" in self.scores and self.scores["second"] != self.scores.get(headline)

    @property
    def raw_trace(self) -> str:
        """The trace without its markers."""
        return (self.trace or "").replace("<think>", "").replace("</think>", "").strip()


def read_samples(folder: Folder, run: str, mode: str, guidance: str) -> dict[Key, Sample]:
    """The first sample of each prompt of the run's first seed, by benchmark in manifest order; empty without images.
    Sets of a group of benchmarks lie in samples_<group>, beside their scores."""
    for path in folder.seed_folders(run).values():
        found = {}
        for name, benchmark in folder.benchmarks.items():
            sets = path / (f"samples_{benchmark.group}" if benchmark.group else "samples")
            if (sets / f"{name}.{mode}.{guidance}" / "manifest.jsonl").exists():
                scores = (sets if benchmark.group else path) / "scores.jsonl"
                samples = _first_samples(sets / f"{name}.{mode}.{guidance}", name, benchmark, scores)
                found |= {(s.benchmark, s.prompt_id): s for s in samples}
        if found:
            return found
    return {}


def _first_samples(path: Path, name: str, benchmark: Benchmark, scores: Path) -> Iterator[Sample]:
    content, verdicts = sample_folder.read(path), _verdicts(scores, *path.name.split(".")[1:])
    for number, row in enumerate(content.rows):
        if row["sample"] == 0:
            what = (row["prompt_id"], row["prompt"], row["tag"], name, benchmark.judge, row["meta"])
            reason, scores = verdicts.get((name, row["prompt_id"]), ("", {}))
            correct = scores.get(benchmark.metrics[0]) == 1 if scores and benchmark.verdict else None
            yield Sample(*what, content.images[number], row.get("trace"), correct, reason, scores)


def _verdicts(path: Path, mode: str, guidance: str) -> dict[Key, tuple[str, dict[str, float]]]:
    """(reason, scores) of the first samples."""
    verdicts = {}
    for _, row in read_scores(path) if path.exists() else ():
        if (row["mode"], row["guidance"], row["sample"]) == (mode, guidance, 0):
            verdicts[row["benchmark"], row["prompt_id"]] = row.get("reason", ""), row["metrics"]
    return verdicts


# ------------------------------------------------------------------------------------------ marks


def denied(meta: Mapping, reason: str) -> set[ExamPoint]:
    """The stated facts that a verdict's reason, one line a failure, denies."""
    lines = reason.split("\n")
    return {p for p in exam_points(meta) if any(line.startswith(_denials(p)) for line in lines)}


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


def _words(point: ExamPoint, plan: Plan, asked: set[str]) -> list[tuple[int, int]]:
    """(object, word) of the plan that speak of a fact; where its class is not planned, of classes nobody asked for."""

    def planned(cls: str, color: str | None = None) -> list[int]:
        return [i for i, entry in enumerate(plan) if entry[CLASS] == cls and color in (None, entry[COLOR])]

    of_class = planned(point.group.cls)
    if point.skill == "attribute":
        wrong = [i for i in of_class if plan[i][COLOR] != point.group.color]
        return [(i, COLOR) for i in wrong or of_class]
    if point.skill == "position":  # a relation whose one side is missing failed for that, not for its places
        sides = [planned(group.cls, group.color) for group in (point.group, point.target)]
        return [(i, PLACE) for i in sides[0] + sides[1] if all(sides)]
    unasked = [i for i, entry in enumerate(plan) if entry[CLASS] not in asked]
    return [(i, CLASS) for i in of_class or unasked]


def marked(trace: str | None, judge: str, meta: Mapping, reason: str) -> list[Entry] | None:
    """The objects of a trace, each word with its mark; None where it is malformed or free text. A reward marks nothing.
    ``reason`` is the verdict's on the image, empty where it was right or not judged."""
    plan = parse_trace(trace or "")
    if plan is None:
        return None
    if judge not in VERDICTS:
        return [[(word, "") for word in entry] for entry in plan]
    planned = denied(meta, VERDICTS[judge][0](meta, truth(paint_to_the_letter(plan)))["reason"])
    painted = denied(meta, reason) - planned
    asked = {clause["class"] for clause in meta["include"]}
    marks = [["", "", ""] for _ in plan]
    for kind, points in ((PAINT, painted), (PLAN, planned)):  # a word of both belongs to the plan
        for point in points:
            for row, word in _words(point, plan, asked):
                marks[row][word] = kind
    return [list(zip(entry, words, strict=True)) for entry, words in zip(plan, marks, strict=True)]
