"""What a row of results must be, wherever one is read: types, and each metric within its range."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from unigrpo.core.errors import UserError
from unigrpo.core.files import in_order, json_lines, read_result
from unigrpo.core.lazy import lazy
from unigrpo.core.registry import declarations
from unigrpo.core.settings import CountOrNone, NotNegative, Settings, Share, checked, distinct
from unigrpo.study.facts import BENCHMARKS, REWARDS, STATISTICS

gold, training_inputs = lazy("unigrpo.world.gold"), lazy("unigrpo.study.training_inputs")
KEYS = ("benchmark", "version", "mode", "guidance", "prompt_id", "tag", "sample")
ROUNDING = 1e-5  # by which a value written with six digits may leave its range
Lines = Iterator[tuple[str, dict]]  # ("file, line n", row)


class ScoreRow(Settings, extra="ignore"):
    """Of scores.jsonl: an image and its metrics."""

    benchmark: str
    version: str
    mode: Literal["think", "direct"]
    guidance: str
    prompt_id: str
    tag: str
    sample: CountOrNone
    metrics: Annotated[dict[str, float], Field(min_length=1)]
    reason: str = ""
    prompt: str = ""
    part: str = ""


class ValidationRow(Settings, extra="ignore"):
    """Of validation/<update>.jsonl: an image; ``proxy`` is absent where the reward failed and the run went on,
    ``image_given_trace`` without a trace."""

    prompt_id: str
    tag: str
    gold: Share
    strict: Share
    artefact: Share
    sample: CountOrNone
    proxy: float = math.nan
    image_given_trace: Share = math.nan
    extra: NotNegative = math.nan
    wrong_hues: NotNegative = math.nan


class CourseRow(Settings, extra="allow"):
    """Of metrics.jsonl: a rollout or step, a validation, or the end by a collapse; None is what had no number."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)
    kind: Literal["train", "validation", "collapse"]
    reason: str = ""
    thinking: bool = False
    rollout: Annotated[int, Field(ge=-1)] = 0
    step: Annotated[int, Field(ge=-1)] = 0
    update: CountOrNone = 0
    images: CountOrNone = 0
    gold: Share | None = None
    strict: Share | None = None
    soft: Share | None = None
    official: Share | None = None
    artefact: Share | None = None


@cache
@declarations()
def range_of(benchmark: str, metric: str) -> tuple[float, float]:
    """Least and largest value of a benchmark's metric, or of a reward, its own metric; endless where not declared."""
    name = training_inputs.trained_as("reward") if metric == "proxy" else metric.partition("=")[0]
    if name in REWARDS.names():
        return REWARDS.load(name).FACTS.range
    shares = BENCHMARKS.load(benchmark).FACTS.shares if benchmark in BENCHMARKS.names() else ()
    return (0.0, 1.0) if metric in (*gold.MEANINGS, *STATISTICS, *shares) else (-math.inf, math.inf)


def check_range(where: str, benchmark: str, metric: str, *values: float) -> None:
    """Raise UserError, which begins with ``where``, for the first of the values that the metric cannot have."""
    least, largest = range_of(benchmark, metric)
    for value in values:
        if not (math.isfinite(value) and least - ROUNDING <= value <= largest + ROUNDING):
            raise UserError(f"{where}: {metric}: expected a number from {least:g} to {largest:g}, got {value:g}")


def read_scores(path: Path) -> Lines:
    """The rows of scores.jsonl. Raises UserError naming the line of one that is none, or whose image came before."""
    for where, row in distinct(ScoreRow, json_lines(read_result(path), path), *KEYS):
        for name, value in row["metrics"].items():
            check_range(where, row["benchmark"], name, value)
        yield where, row


def read_validation(path: Path) -> Lines:
    """The rows of a validation. Raises UserError as ``read_scores``."""
    return distinct(ValidationRow, json_lines(read_result(path), path), "prompt_id", "tag", "sample")


def read_course(path: Path) -> Lines:
    """The rows of metrics.jsonl. Raises UserError as ``read_scores``, and naming a row that comes twice."""
    return in_order((where, checked(CourseRow, row, where)) for where, row in json_lines(read_result(path), path))
