"""Judge: what a prompt states against what an image shows. The gold reward is defined here and nowhere else.

`strict`: the scene is exactly what was asked, with nothing else in it. `soft`: the share of stated facts that
hold. `gold = (strict + max(0, soft - 0.2 * extra)) / 2`, where `extra` counts objects beyond those asked for.
What benchmarks make of the same detections is in VERDICTS; GenEval's official verdict allows clutter.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unigrpo.core.records import Detection
from unigrpo.world import exam_points, geneval_verdict
from unigrpo.world.scenes import COLOR_NAMES

EXTRA_PENALTY = 0.2


class Judgement(NamedTuple):
    """Of one image; ``soft`` and ``gold`` in [0, 1]; ``facts`` clause by clause: count, colour, relation; ``extra``
    objects, beyond those asked for."""

    strict: bool
    soft: float
    gold: float
    facts: tuple[bool, ...]
    extra: int


def _matches(clause: dict, detections: Sequence[Detection]) -> list[Detection]:
    """Detections a clause speaks of: of its class and, where any has it, its colour."""
    of_class = [d for d in detections if d.cls == clause["class"]]
    return [d for d in of_class if d.color == clause.get("color")] or of_class


def judge(meta: dict, detections: Sequence[Detection]) -> Judgement:
    """Judge detections by GenEval metadata. Facts, per clause: the number of objects of the class is exactly what all
    clauses on it ask for; at least ``count`` of them have the stated colour; every one stands in the stated relation to
    every reference object. Raises ValueError if the metadata has no clause."""
    include = meta["include"]
    if not include:
        raise ValueError(f"{meta.get('prompt', '')!r}: the metadata states nothing that could be judged")
    asked = sum((Counter({clause["class"]: clause["count"]}) for clause in include), Counter())
    found = Counter(d.cls for d in detections)
    colored = Counter((d.cls, d.color) for d in detections)
    facts = []
    for clause in include:
        cls = clause["class"]
        facts.append(found[cls] == asked[cls])
        if "color" in clause:
            facts.append(colored[cls, clause["color"]] >= clause["count"])
        if "position" in clause:
            relation, index = clause["position"]
            pairs = itertools.product(_matches(clause, detections), _matches(include[index], detections))
            related = [relation in geneval_verdict.relative_position(a.box, b.box, np.float64) for a, b in pairs]
            facts.append(bool(related) and all(related))
    extra = sum((found - asked).values())
    strict = all(facts) and extra == 0
    soft = sum(facts) / len(facts)
    return Judgement(strict, soft, 0.5 * strict + 0.5 * max(0.0, soft - EXTRA_PENALTY * extra), tuple(facts), extra)


def wrong_hues(meta: dict, detections: Sequence[Detection]) -> int:
    """Objects without a nameable colour, or, where each clause on their class states one, of another."""
    stated = defaultdict(set)
    for clause in meta["include"]:
        stated[clause["class"]].add(clause.get("color"))
    asked = {cls: hues for cls, hues in stated.items() if None not in hues}
    return sum(d.color not in (asked.get(d.cls) or COLOR_NAMES) for d in detections)


def _official(meta: dict, detections: Sequence[Detection]) -> dict:
    verdict = geneval_verdict.official_verdict(meta, *geneval_verdict.boxes_and_colors(detections))
    return {"official": float(verdict.correct), "reason": verdict.reason}


VERDICTS = {"official": (_official, "official"), "exam_points": (exam_points.score, "ta")}
"""Judge of a benchmark -> its verdict on detections, and the metric that is its headline."""

MEANINGS = {
    "official": "is GenEval's official verdict (at least what was asked; extra objects are free)",
    "ta": "is the share of satisfied facts",
    "strict": "wants exactly what was asked",
    "soft": "is the share of facts",
    "gold": "is the mean of strict and of the share of facts less a penalty for extras",
    "artefact": "is the share of the image that fits neither object nor background",
    "second": "is the verdict on what the second evaluator finds",
    "proxy": "is the learned reward",
}
"""Metric of an image that a verdict judges -> what it says."""
