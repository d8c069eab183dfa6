"""GenEval's two verdicts and its detection filter, compared in float32 as the official detector computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.conformance.checking import Case, Check, Settings, same
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.world.geneval_verdict import Verdict, exact_verdict, kept_indices, official_verdict

NOTES = ("id", "dtype", "dtype_sensitive", "metadata.*", "detections.*", "colors.*", "verdict.*", "kept.*")
OF_COLOURS = ("correct", "reason")  # of a filter's case that asks for colours, which are not recorded


def verdict_cases(path: Path) -> Iterator[Case]:
    for _, line in read_jsonl(path):
        row = Settings(line)
        yield Case("geneval_cases/official", str(row["id"]), lambda row=row: _official(row), row, NOTES)
        if "raises" not in row["verdict"]:  # recorded for the official rule alone
            yield Case("geneval_cases/strict", str(row["id"]), lambda row=row: _strict(row), row, NOTES)


def filter_cases(path: Path) -> Iterator[Case]:
    for _, line in read_jsonl(path):
        row = Settings(line)
        yield Case("geneval_filter_cases", str(row["id"]), lambda row=row: _filter(row), row, NOTES + OF_COLOURS)


def _judged(rule: Callable[..., Verdict], row: dict) -> Verdict | None:
    """None if we refuse the metadata."""
    try:
        return rule(row["metadata"], row["detections"], row["colors"])
    except UserError:
        return None


def _official(row: dict) -> list[Check]:
    ours, theirs = _judged(official_verdict, row), row["verdict"]
    if ours is None or "raises" in theirs:
        return [same("refused", ours is None, "raises" in theirs)]
    return [
        same("correct", ours.correct, theirs["correct"]),
        same("reason", ours.reason, theirs["reason_canonical"]),
    ]


def _strict(row: dict) -> list[Check]:
    ours, theirs = _judged(exact_verdict, row), row["verdict"]
    if ours is None:
        return [same("refused", True, False)]
    error = abs(ours.score - theirs["reward_score"])
    return [
        same("correct", ours.correct, theirs["strict_correct"]),
        same("reason", ours.reason, theirs["strict_reason_canonical"]),
        Check("score", math.inf if math.isnan(error) else error, 1e-6),
    ]


def _filter(row: dict) -> list[Check]:
    meta = row["metadata"]
    kept = {}  # float32, as the official filter hands them on, without empty classes
    for cls, boxes in zip(row["classnames"], row["raw"], strict=True):
        if chosen := kept_indices(boxes, meta["tag"], row["max_overlap"]):
            kept[cls] = np.asarray(boxes, dtype=np.float32)[chosen].tolist()
    checks = [same("kept", kept, row["kept"])]
    if not any("color" in clause for clause in meta["include"]):  # no colours are recorded here
        verdict = official_verdict(meta, kept, {})
        checks += [
            same("correct", verdict.correct, row["correct"]),
            same("reason", verdict.reason, row["reason"]),
        ]
    return checks
