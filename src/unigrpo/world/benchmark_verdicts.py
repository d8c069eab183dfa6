"""What the world's benchmarks make of the detections in an image. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.core.records import Detection
from unigrpo.world import exam_points, geneval_verdict
from unigrpo.world.inspector import to_geneval


def _geneval(meta: dict, detections: Sequence[Detection]) -> dict:
    verdict = geneval_verdict.official_verdict(meta, *to_geneval(list(detections)))
    return {"official": float(verdict.correct), "reason": verdict.reason}


def _ta(meta: dict, detections: Sequence[Detection]) -> dict:
    score = exam_points.score(meta, exam_points.answer_from(detections))
    return {"ta": score.value, "atoms": score.atoms, "reason": "\n".join(score.failed)}


VERDICTS = {"geneval": (_geneval, "official"), "ta": (_ta, "ta")}
"""Benchmark -> its verdict on detections, and the metric that is its headline."""
