"""Judge: what a prompt states against what an image shows. The gold reward is defined here and nowhere else.

`strict`: the scene is exactly what was asked, with nothing else in it. `soft`: the share of stated facts that
hold. `gold = (strict + max(0, soft - 0.2 * extra)) / 2`, where `extra` counts objects beyond those asked for.
GenEval's official verdict, which allows clutter, is `unigrpo.world.geneval_verdict`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unigrpo.core.records import Detection
from unigrpo.world.prompts import stated_facts
from unigrpo.world.scenes import relation_holds

EXTRA_PENALTY = 0.2


@dataclass(frozen=True)
class Judgement:
    """Verdict on one image; ``soft`` and ``gold`` in [0, 1], ``facts`` in the order of
    ``prompts.stated_facts``.
    """

    strict: bool
    soft: float
    gold: float
    facts: tuple[tuple[str, bool], ...]


def gold_reward(strict: bool, soft: float, extra: int) -> float:
    return 0.5 * strict + 0.5 * max(0.0, soft - EXTRA_PENALTY * extra)


def _matches(clause: dict, detections: Sequence[Detection]) -> list[Detection]:
    """Detections a clause speaks of: of its class and, where any has it, its colour."""
    of_class = [d for d in detections if d.cls == clause["class"]]
    return [d for d in of_class if d.color == clause.get("color")] or of_class


def _related(relation: str, described: Detection, reference: Detection) -> bool:
    boxes = described.box, reference.box
    centers = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
    sizes = [sum(b[axis + 2] - b[axis] for b in boxes) for axis in (0, 1)]
    return relation_holds(relation, *centers, sizes)


def judge(meta: dict, detections: Sequence[Detection]) -> Judgement:
    """Judge detections by GenEval metadata.

    Facts, per clause: the number of objects of the class is exactly what all clauses on it ask for; at least
    ``count`` of them have the stated colour; every one stands in the stated relation to every reference
    object. Raises ValueError if the metadata has no clause.
    """
    include = meta["include"]
    if not include:
        raise ValueError(f"{meta.get('prompt', '')!r}: the metadata states nothing that could be judged")
    asked: Counter = Counter()
    for clause in include:
        asked[clause["class"]] += clause["count"]
    found = Counter(d.cls for d in detections)
    colored = Counter((d.cls, d.color) for d in detections)
    verdicts = []
    for clause in include:
        cls = clause["class"]
        verdicts.append(found[cls] == asked[cls])
        if "color" in clause:
            verdicts.append(colored[cls, clause["color"]] >= clause["count"])
        if "position" in clause:
            relation, index = clause["position"]
            pairs = [(a, b) for a in _matches(clause, detections) for b in _matches(include[index], detections)]
            verdicts.append(bool(pairs) and all(_related(relation, a, b) for a, b in pairs))
    extra = sum((found - asked).values())
    strict = all(verdicts) and extra == 0
    soft = sum(verdicts) / len(verdicts)
    facts = tuple(zip(stated_facts(include), verdicts, strict=True))
    return Judgement(strict, soft, gold_reward(strict, soft, extra), facts)
