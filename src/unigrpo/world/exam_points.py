"""TA, text alignment: a prompt's exam points and their answers (the paper's section 4; TA in Table 1).

Every stated fact is one exam point: the class, the colour and the number of each group (a number above
one), and the relation between two groups. A point is a question with its expected answer, worded so that a
vision-language model can answer it from the image; here the detections of an instrument answer. An image's
score is the mean over its points, the benchmark's the mean over images. Rows have GenEval 2's format.

What differs from the paper: its 150 prompts and its judge are closed; ours are the synthetic world's 150
compound prompts, and "left of" means what GenEval's position rule says.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unigrpo.core.records import Detection, Prompt
from unigrpo.world.geneval_verdict import NUMBERS, plural, relative_position, with_article
from unigrpo.world.prompts import Group

VERSION = "2"
PLURALS = {"sheep": "sheep", "knife": "knives", "mouse": "mice", "person": "people"}
UNITS = {"scissors": "pair", "skis": "pair", "broccoli": "piece"}  # what is counted of them


class ExamPoint(NamedTuple):
    """One stated fact. ``skill``: object, attribute, count or position; ``target``: what a relation is to."""

    question: str
    expected: str
    skill: str
    group: Group
    relation: str | None = None
    target: Group | None = None


def exam_points(meta: Mapping) -> list[ExamPoint]:
    """The points of GenEval-like metadata, clause by clause: class, colour, count, relation."""
    groups = [Group(c["count"], c.get("color"), c["class"]) for c in meta["include"]]
    points = []
    for clause, group in zip(meta["include"], groups, strict=True):
        bare = Group(group.count, None, group.cls)
        points.append(ExamPoint(_existence(bare), "yes", "object", bare))
        if group.color:
            points.append(ExamPoint(_existence(group), "yes", "attribute", group))
        if group.count > 1:
            question = f"How many {_noun(group)} are in the image?"
            points.append(ExamPoint(question, _number(group.count), "count", group))
        if "position" in clause:
            relation, index = clause["position"]
            verb = "Are" if group.count > 1 else "Is"
            question = f"{verb} the {_noun(group)} {relation} the {_noun(groups[index])}?"
            points.append(ExamPoint(question, "yes", "position", group, relation, groups[index]))
    return points


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _noun(group: Group) -> str:
    """As people say it of the world's and of GenEval's classes, whose official prompts have "knifes" and "benchs"."""
    noun, several = f"{group.color} {group.cls}" if group.color else group.cls, group.count > 1
    if unit := UNITS.get(group.cls):
        return f"{plural(unit) if several else unit} of {noun}"
    last = noun.split()[-1]
    regular = f"{last}es" if last.endswith(("ch", "sh")) else plural(last)
    return noun.removesuffix(last) + PLURALS.get(last, regular) if several else noun


def _existence(group: Group) -> str:
    asked = f"Are there {_noun(group)}" if group.count > 1 else f"Is there {with_article(_noun(group))}"
    return f"{asked} in the image?"


def row(prompt: Prompt) -> dict:
    """GenEval 2's row of a prompt: ``{prompt, atom_count, vqa_list: [[question, answer], ...], skills}``."""
    points = exam_points(prompt.meta)
    return {
        "prompt": prompt.text,
        "atom_count": len(points),
        "vqa_list": [[p.question, p.expected] for p in points],
        "skills": [p.skill for p in points],
    }


def answer(point: ExamPoint, detections: Sequence[Detection]) -> str:
    """What one image's detections answer, in words: "yes", "no", "two". A relation holds when it holds, by GenEval's
    rule, between every pair of the best-scored objects of both groups, as many as are asked for."""

    def among(group: Group) -> list[Detection]:
        """Those of a group's class and, where stated, its colour, best first."""
        fitting = [d for d in detections if d.cls == group.cls and group.color in (None, d.color)]
        return sorted(fitting, key=lambda d: -d.score)

    found = among(point.group)
    if point.skill == "count":
        return _number(len(found))
    holds = bool(found)
    if point.skill == "position":
        targets = among(point.target)[: point.target.count]
        pairs = [(o.box, t.box) for o in found[: point.group.count] for t in targets]
        holds = bool(pairs) and all(point.relation in relative_position(o, t) for o, t in pairs)
    return "yes" if holds else "no"


def score(meta: Mapping, detections: Sequence[Detection]) -> dict:
    """Of one image: ``ta``, the share (0-1) of its ``atoms`` points that are answered as expected, 1 for a prompt that
    states nothing; ``reason``: the other questions, one a line."""
    points = exam_points(meta)
    failed = [p.question for p in points if answer(p, detections) != p.expected]
    share = 1 - len(failed) / len(points) if points else 1.0
    return {"ta": share, "atoms": len(points), "reason": "\n".join(failed)}
