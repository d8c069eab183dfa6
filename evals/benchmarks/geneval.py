"""GenEval-style: GenEval's prompts, filter and verdict with a detector and a CLIP that install anywhere.

The official tool needs mmdet 2 and CUDA. Here the detector is transformers' Mask2Former (the same architecture and
data, published by its authors rather than by mmdet), colours are read by open_clip's copy of the same CLIP. Numbers
are close to the official tool's and not the same; each carries the hashes of both sets of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from evals.benchmarks import mean
from unigrpo.core.errors import UserError
from unigrpo.core.lazy import lazy
from unigrpo.core.records import same_text
from unigrpo.core.settings import Device
from unigrpo.study.facts import BenchmarkFacts

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.instruments.eyes import Eyes
    from evals.instruments.picture_files import Picture

eyes_of = lazy("evals.instruments.eyes")
verdicts = lazy("unigrpo.world.geneval_verdict")

FACTS = BenchmarkFacts(
    title="GenEval-style",
    version="1",
    caveat="GenEval has drifted from human judgement, by up to 17.7 points on current models (arXiv 2512.16853):"
    " compare methods judged by the same version, and do not read these numbers as people's opinion.",
    by_task=True,
    shares=("official", "exact"),
    averages_pictures=True,
    samples=4,
)


class GenEval:
    """The judge: what its eyes see, decided by ``unigrpo.world.geneval_verdict``."""

    def __init__(self, eyes: Eyes):
        self.eyes = eyes
        self.prompts = {same_text(meta["prompt"]): meta["tag"] for meta in verdicts.metadata()}
        self.version = f"geneval-style-{FACTS.version} {eyes.version}"

    def check(self, picture: Picture) -> None:
        meta = picture.prompt.meta
        if not meta.get("include"):
            raise UserError(f"metadata needs 'include', the clauses to judge, found {meta!r}")
        verdicts.check(meta)
        for clause in [*meta["include"], *meta.get("exclude", [])]:
            for key, known in (("class", verdicts.CLASSES), ("color", verdicts.COLORS)):
                if key in clause and clause[key] not in known:
                    raise UserError(f"metadata: {key} {clause[key]!r} is none of GenEval's {len(known)}")

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict]:
        prompts = [picture.prompt for picture in pictures]
        rows = []
        for prompt, (boxes, colors) in zip(prompts, self.eyes.look(images, prompts), strict=True):
            official = verdicts.official_verdict(prompt.meta, boxes, colors)
            exact = verdicts.exact_verdict(prompt.meta, boxes, colors)
            rows.append(
                {
                    "metrics": {"official": float(official.correct), "exact": float(exact.correct)},
                    "reason": official.reason,
                    "detections": {cls: [[round(v, 4) for v in box] for box in b] for cls, b in boxes.items()},
                    "colors": colors,
                }
            )
        return rows

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        """Share of correct images, of prompts with a correct image, and the mean over tasks of the prompts' means."""
        prompts, tasks = {}, {}
        for row in rows:
            correct = row["metrics"]["official"]
            prompts.setdefault(row["prompt_id"], []).append(correct)
            tasks.setdefault(row["tag"], []).append(row)
        per_task = {
            tag: {"score": mean(t, "official"), "exact": mean(t, "exact"), "images": len(t)} for tag, t in tasks.items()
        }
        numbers = {
            "overall": fmean(task["score"] for task in per_task.values()),
            "overall_exact": fmean(task["exact"] for task in per_task.values()),
            "correct_images": fmean(row["metrics"]["official"] for row in rows),
            "correct_prompts": fmean(float(any(values)) for values in prompts.values()),
            "prompts": len(prompts),
            "tasks": per_task,
        }
        lines = [
            f"correct images: {numbers['correct_images']:.2%}",
            f"prompts with a correct image: {numbers['correct_prompts']:.2%} of {len(prompts)}",
            *(f"{tag:<16} = {t['score']:.2%} ({t['images']} images)" for tag, t in per_task.items()),
            f"overall (mean over tasks): {numbers['overall']:.5f}; counts exact: {numbers['overall_exact']:.5f}",
        ]
        return numbers, lines


def build(
    detector: Annotated[
        str | None, typer.Option(help="Mask2Former or OWLv2: folder, or hub id (default: Mask2Former Swin-S).")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="open_clip model that reads colours: folder, or hub id (default: ViT-L/14).")
    ] = None,
    device: Annotated[Device, typer.Option(help="cpu, cuda, cuda:1 ...; auto is CUDA where there is one.")] = "auto",
) -> GenEval:
    """The judge with the checkpoints of these folders or repositories of the hub. Raises UserError."""
    return GenEval(eyes_of.build(detector, clip, device))
