"""GenEval-style: GenEval's prompts, filter and verdict with a detector and a CLIP that install anywhere.

The official tool needs mmdet 2 and CUDA. Here the detector is transformers' Mask2Former (the same architecture and
data, published by its authors rather than by mmdet), colours are read by open_clip's copy of the same CLIP. Numbers
are close to the official tool's and not the same; each carries the hashes of both sets of weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL.Image import Image

from evals.benchmarks import add_device_options, mean
from evals.colours import DEFAULT as CLIP
from evals.colours import ColourReader, cut_out
from evals.detectors import DEFAULT as DETECTOR
from evals.detectors import Detector, Found, load
from evals.pictures import Picture
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.world import geneval_verdict
from unigrpo.world.geneval_verdict import CLASSES, COLORS, Boxes

TITLE = "GenEval-style"
VERSION = "1"
CAVEAT = (
    "GenEval has drifted from human judgement, by up to 17.7 points on current models (arXiv 2512.16853): compare"
    " methods judged by the same version, and do not read these numbers as people's opinion."
)


class GenEval:
    """The judge; ``seen`` by detector and colour reader, decided by ``unigrpo.world.geneval_verdict``."""

    def __init__(self, detector: Detector, reader: ColourReader):
        self.detector, self.reader = detector, reader
        self.version = f"geneval-style-{VERSION} {detector.name}:{detector.digest} clip:{reader.digest}"

    def check(self, picture: Picture) -> None:
        meta = picture.prompt.meta
        if not meta.get("include"):
            raise UserError(f"metadata needs 'include', the clauses to judge, found {meta!r}")
        geneval_verdict.check(meta)
        for clause in [*meta["include"], *meta.get("exclude", [])]:
            for key, known in (("class", CLASSES), ("color", COLORS)):
                if key in clause and clause[key] not in known:
                    raise UserError(f"metadata: {key} {clause[key]!r} is none of GenEval's {len(known)}")

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict]:
        prompts = [picture.prompt for picture in pictures]
        rows = []
        for prompt, (boxes, colors) in zip(prompts, self.look(images, prompts), strict=True):
            official = geneval_verdict.official_verdict(prompt.meta, boxes, colors)
            exact = geneval_verdict.exact_verdict(prompt.meta, boxes, colors)
            rows.append(
                {
                    "metrics": {"official": float(official.correct), "exact": float(exact.correct)},
                    "reason": official.reason,
                    "detections": {cls: [[round(v, 4) for v in box] for box in b] for cls, b in boxes.items()},
                    "colors": colors,
                }
            )
        return rows

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[tuple[Boxes, dict[str, list[str]]]]:
        """(boxes, colours) of each image, as the verdicts take them."""
        found = self.detector.detect(images, [prompt.tag for prompt in prompts])
        return [(seen.boxes, c) for seen, c in zip(found, self._colors(prompts, images, found), strict=True)]

    def _colors(
        self, prompts: Sequence[Prompt], images: Sequence[Image], found: Sequence[Found]
    ) -> list[dict[str, list[str]]]:
        """Of the objects whose class a prompt gives a colour; all crops of the images are read together."""
        crops, classes, owners = [], [], []
        for number, (prompt, image, seen) in enumerate(zip(prompts, images, found, strict=True)):
            for cls in dict.fromkeys(c["class"] for c in prompt.meta["include"] if "color" in c):
                for box, mask in zip(seen.boxes.get(cls, ()), seen.masks.get(cls, ()), strict=True):
                    crops.append(cut_out(image, box, mask))
                    classes.append(cls)
                    owners.append(number)
        colors: list[dict[str, list[str]]] = [{} for _ in prompts]
        for owner, cls, color in zip(owners, classes, self.reader.read(crops, classes), strict=True):
            colors[owner].setdefault(cls, []).append(color)
        return colors

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        """The official summary: share of correct images, of prompts with a correct image, and the mean over tasks."""
        prompts, tasks = {}, {}
        for row in rows:
            correct = row["metrics"]["official"]
            prompts.setdefault(row["prompt_id"], []).append(correct)
            tasks.setdefault(row["tag"], []).append((correct, row["metrics"]["exact"]))
        per_task = {
            tag: {"score": mean([c for c, _ in t]), "exact": mean([e for _, e in t]), "images": len(t)}
            for tag, t in tasks.items()
        }
        numbers = {
            "overall": mean([task["score"] for task in per_task.values()]),
            "overall_exact": mean([task["exact"] for task in per_task.values()]),
            "correct_images": mean([row["metrics"]["official"] for row in rows]),
            "correct_prompts": mean([float(any(values)) for values in prompts.values()]),
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", default=DETECTOR, metavar="NAME", help="Mask2Former or OWLv2: folder, or hub id")
    parser.add_argument("--clip", default=CLIP, metavar="NAME", help="open_clip model that tells colours")
    add_device_options(parser)


def build(args: argparse.Namespace) -> GenEval:
    return instruments(args.detector, args.clip, args.device)


def instruments(detector: str = DETECTOR, clip: str = CLIP, device: str = "auto") -> GenEval:
    """The judge with the checkpoints of these folders or repositories of the hub. Raises UserError."""
    return GenEval(load(detector, device), ColourReader(clip, device))
