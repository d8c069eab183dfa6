"""Images with their traces and verdicts, for the grid figure and the gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unigrpo import sample_folder
from unigrpo.files import read_jsonl
from unigrpo.report.results import Folder
from unigrpo.types import UserError

BENCHMARKS = ("geneval", "ta")


@dataclass(frozen=True)
class Sample:
    """One image (H, W, 3) uint8. ``correct``: official verdict, or every exam point; None if not judged."""

    prompt_id: str
    prompt: str
    tag: str
    image: np.ndarray
    trace: str | None
    correct: bool | None
    reason: str


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
            correct, reason = verdicts.get(row["prompt_id"], (None, ""))
            yield Sample(row["prompt_id"], row["prompt"], row["tag"], image, row.get("trace"), correct, reason)


def _verdicts(path, mode: str, guidance: str) -> dict[str, tuple[bool, str]]:
    """Prompt id -> (correct, reason) of the first samples."""
    if not path.exists():
        return {}
    verdicts = {}
    for where, row in read_jsonl(path):
        try:
            if (row["mode"], row["guidance"], row["sample"]) == (mode, guidance, 0):
                headline = row["metrics"]["ta" if row["benchmark"] == "ta" else "official"]
                verdicts[row["prompt_id"]] = (headline == 1, row["reason"])
        except KeyError as error:
            raise UserError(f"{where}: has no {error}") from None
    return verdicts


def trace_lines(trace: str | None) -> list[str]:
    """The objects of a trace, one a line, without its markers."""
    if not trace:
        return []
    inner = trace.replace("<think>", "").replace("</think>", "")
    return [part.strip() for part in inner.split(",")]
