"""Validation: sample on the validation prompts and judge by the world's verifier.

Every choice (settings, guidance, stopping) is made on these numbers; evaluation prompts are never seen here.

``record`` keeps a validation image by image, ``<update>.jsonl``, with its first image of every prompt side by side in
``<update>.png``: what tables and figures of over-optimisation read.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unigrpo.core import distributed
from unigrpo.core.files import replacing, write_text
from unigrpo.core.records import SHEET_COLUMNS, Prompt
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling.engine import Decoding, Samples, joined, sample
from unigrpo.study.config import RunConfig
from unigrpo.world import gold, inspector, prompts, traces
from unigrpo.world.geneval_verdict import official_verdict

SEED = 1  # of validation noise: fixed, so that runs and updates are compared on the same draws


def validation_jobs(per_prompt: int) -> list[tuple[Prompt, int]]:
    """(prompt, sample number) for every validation prompt."""
    return [(p, k) for p in prompts.prompt_set("val") for k in range(per_prompt)]


def judge_each(jobs: list[tuple[Prompt, int]], samples: Samples) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Of every image: gold, strict, soft, official, artefact, and with a trace trace_correct, whether it is right for
    its prompt. Over painted objects of valid plans: the share found in their cell (cell_hit), with the right colour,
    with the right class; and image_given_trace, the share of images that match their trace in everything."""
    rows: list[dict[str, float]] = []
    parts: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), found, text in zip(jobs, inspector.inspect_images(samples.images), samples.traces, strict=True):
        verdict = gold.judge(prompt.meta, found.detections)
        official = official_verdict(prompt.meta, *inspector.to_geneval(found.detections)).correct
        row = {
            "gold": verdict.gold,
            "strict": float(verdict.strict),
            "soft": verdict.soft,
            "artefact": found.artefact,
            "official": float(official),
        }
        if text is not None:
            plan = traces.parse_trace(text)
            row["trace_correct"] = float(plan is not None and traces.trace_matches(prompt.meta, plan))
            if plan:
                hits = traces.image_matches_trace(plan, found.detections, samples.images.shape[1])
                for name, values in zip(("cell_hit", "color_hit", "class_hit"), zip(*hits, strict=True), strict=True):
                    parts[name] += values
                whole = len(found.detections) == len(plan) and all(all(h) for h in hits)
                parts["image_given_trace"].append(whole)
        rows.append(row)
    return rows, {name: float(np.mean(values)) for name, values in parts.items()}


def by_category(jobs: list[tuple[Prompt, int]], rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over images of each metric, categories weighted equally."""
    tags = [prompt.tag for prompt, _ in jobs]
    kept = {name: [[r[name] for r, t in zip(rows, tags, strict=True) if t == tag] for tag in dict.fromkeys(tags)]
            for name in sorted(rows[0])}  # fmt: skip
    return {name: float(np.mean([np.mean(values) for values in groups])) for name, groups in kept.items()}


@dataclass(frozen=True)
class Validation:
    """Images of validation prompts and what was said of each: ``rows`` (n), as judge_each gives them, with ``proxy``,
    the reward trained on, where one was asked; ``means`` over them, categories weighted equally."""

    jobs: list[tuple[Prompt, int]]
    samples: Samples
    rows: list[dict[str, float]]
    means: dict[str, float]


def validate(model: UnifiedModel, cfg: RunConfig, decoding: Decoding, *, per_prompt: int = 1, proxy=None) -> Validation:
    """Sample the validation prompts and judge them; ``proxy`` is the reward trained on, whose mean is over images.
    Several processes sample a share each, and all of them return the whole."""
    jobs = validation_jobs(per_prompt)
    parts = distributed.collect([sample(model, distributed.share(jobs), cfg.sampling, decoding, SEED)])
    samples = joined(parts)
    rows, painted = judge_each(jobs, samples)
    means = by_category(jobs, rows) | painted
    if proxy is not None:
        scores = proxy(to_float(samples.images), [p for p, _ in jobs])
        means["proxy"] = float(scores.mean())
        rows = [row | {"proxy": score} for row, score in zip(rows, scores.tolist(), strict=True)]
    return Validation(jobs, samples, rows, means)


TILE = 96  # pixels: the largest side of an image in a sheet


def sheet(validation: Validation) -> Image.Image:
    """The first image of every prompt, in rows of SHEET_COLUMNS in the prompts' order, none larger than TILE."""
    first = [i for i, (_, number) in enumerate(validation.jobs) if number == 0]
    side = min(TILE, validation.samples.images.shape[1])
    whole = Image.new("RGB", (SHEET_COLUMNS * side, math.ceil(len(first) / SHEET_COLUMNS) * side), "white")
    for place, index in enumerate(first):
        row, column = divmod(place, SHEET_COLUMNS)
        tile = Image.fromarray(validation.samples.images[index]).resize((side, side))
        whole.paste(tile, (column * side, row * side))
    return whole


def record(validation: Validation, folder: Path, update: int) -> None:
    """Write ``<update>.jsonl``, one image a line, and ``<update>.png``, its sheet, into ``folder``, which starts anew
    at update 0. Raises UserError where they cannot be written."""
    if update == 0:
        shutil.rmtree(folder, ignore_errors=True)
    rows = [
        {"prompt_id": p.id, "tag": p.tag, "sample": number} | {name: round(v, 6) for name, v in row.items()}
        for (p, number), row in zip(validation.jobs, validation.rows, strict=True)
    ]
    write_text(folder / f"{update:06d}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with replacing(folder / f"{update:06d}.png") as temporary:
        sheet(validation).save(temporary, format="png")


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> float32 tensor (n, 3, H, W) in [0, 1]: the convention of rewards."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
