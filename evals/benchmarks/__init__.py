"""Benchmarks on real images: one file each, found by its name.

A file declares ``FACTS`` (``unigrpo.study.facts.BenchmarkFacts``) and a function ``build`` that makes its judge. The
arguments of ``build``, annotated by type and ``typer.Option``, are the benchmark's options on the command line.
A file whose pictures have a layout of their own defines ``read(images, **options)``, which gives them
(``evals.instruments.picture_files.Pictures``).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from PIL.Image import Image

from evals.instruments.picture_files import Picture
from unigrpo.core.errors import UserError


class Judge(Protocol):
    """``version`` names the benchmark's version, its prompts' hash, and instruments with the hashes of their weights:
    numbers of different versions never share a table. ``prompts`` are those of the whole benchmark, as
    ``unigrpo.core.records.same_text`` writes them, with their categories ('' without); None: not known."""

    version: str
    prompts: Mapping[str, str] | None

    def check(self, picture: Picture) -> None:
        """Raise UserError for a picture that cannot be judged, whatever it shows."""

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        """For each of these ``images``, which are of one size: ``metrics`` (numbers by name), ``reason`` (empty where
        nothing is wrong) and what was seen; or why it could not be judged."""

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        """Numbers over the rows of judged images, by name, and the lines that report them."""


def mean(rows: Sequence[dict], metric: str, by_task: bool = False, pictures: bool = False) -> float:
    """Of a metric over prompts, of each the mean over its pictures; ``by_task``: the mean of the tasks' means;
    ``pictures``: over all pictures in place of prompts."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        unit = (row["prompt_id"], row["sample"]) if pictures else row["prompt_id"]
        groups.setdefault((row["tag"] if by_task else "", unit), []).append(row["metrics"][metric])
    tasks: dict[str, list[float]] = {}
    for (task, _), values in groups.items():
        tasks.setdefault(task, []).append(fmean(values))
    return fmean(map(fmean, tasks.values()))
