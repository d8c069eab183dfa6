"""Images with their traces and verdicts, for the figures that show pictures and for the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.report.data.marks import Line, marked
from unigrpo.report.data.results import Folder
from unigrpo.sampling import sample_folder

BENCHMARKS = ("geneval", "ta")


@dataclass(frozen=True)
class Sample:
    """One image (H, W, 3) uint8 and its trace, None if painted without one.

    ``correct``: official verdict, or every exam point, None if not judged; ``reason``: why not, one line a failure;
    ``scores``: metric -> value.
    """

    prompt_id: str
    prompt: str
    tag: str
    benchmark: str
    meta: dict
    image: np.ndarray
    trace: str | None
    correct: bool | None
    reason: str
    scores: dict[str, float]

    @cached_property
    def plan(self) -> list[Line] | None:
        """The trace's objects with the words marked that the verdict turned on; None without a well-formed trace."""
        return marked(self.trace, self.benchmark, self.meta, self.reason)

    @property
    def raw_trace(self) -> str:
        """The trace without its markers."""
        return (self.trace or "").replace("<think>", "").replace("</think>", "").strip()


def read_samples(folder: Folder, run: str, mode: str, guidance: str) -> dict[str, Sample]:
    """Prompt id -> first sample of the run's first seed, in manifest order; empty without images."""
    for path in folder.seed_folders(run).values():
        found = [path / "samples" / f"{b}.{mode}.{guidance}" for b in BENCHMARKS]
        found = [f for f in found if (f / "manifest.jsonl").exists()]
        if found:
            verdicts = _verdicts(path / "scores.jsonl", mode, guidance)
            return {s.prompt_id: s for f in found for s in _first_samples(f, verdicts)}
    return {}


def _first_samples(path, verdicts: dict):
    content = sample_folder.read(path)
    for row, image in zip(content.rows, content.images, strict=True):
        if row["sample"] == 0:
            fields = (row["prompt_id"], row["prompt"], row["tag"], content.protocol["benchmark"], row["meta"], image)
            yield Sample(*fields, row.get("trace"), *verdicts.get(row["prompt_id"], (None, "", {})))


def _verdicts(path, mode: str, guidance: str) -> dict[str, tuple[bool, str, dict[str, float]]]:
    """Prompt id -> (correct, reason, scores) of the first samples."""
    if not path.exists():
        return {}
    verdicts = {}
    for where, row in read_jsonl(path):
        try:
            if (row["mode"], row["guidance"], row["sample"]) == (mode, guidance, 0):
                headline = row["metrics"]["ta" if row["benchmark"] == "ta" else "official"]
                verdicts[row["prompt_id"]] = (headline == 1, row["reason"], row["metrics"])
        except KeyError as error:
            raise UserError(f"{where}: has no {error}") from None
    return verdicts
