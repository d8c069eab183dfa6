"""Validation: sample on the validation prompts and judge by the world's verifier.

Every choice (settings, guidance, stopping) is made on these numbers; evaluation prompts are never seen here.

``record`` writes a validation image by image, ``<update>.jsonl``, and the first image of every prompt side by side,
``<update>.png``. Tables and figures of over-optimisation read them.
"""

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image

from unigrpo.core import distributed
from unigrpo.core.errors import RewardFailed
from unigrpo.core.files import replacing, write_text
from unigrpo.core.records import SHEET_COLUMNS, Prompt
from unigrpo.judges.reward import scores_of
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling.engine import Decoding, Samples, sample
from unigrpo.sampling.validation_set import SEED, by_category, judge_each, validation_jobs
from unigrpo.study.config import RunConfig


@dataclass(frozen=True)
class Validation:
    """Images of validation prompts and the scores of each: ``rows`` (n), as judge_each gives them, with ``proxy``, the
    reward trained on, where one was given; ``means`` over them, with equal weights of the categories."""

    jobs: list[tuple[Prompt, int]]
    samples: Samples
    rows: list[dict[str, float]]
    means: dict[str, float]

    def beside(self, average: Self) -> Self:
        """These scores and, as ``average_<name>``, those of the average of the weights on the same prompts."""
        rows = [row | _named(other) for row, other in zip(self.rows, average.rows, strict=True)]
        return replace(self, rows=rows, means=self.means | _named(average.means))


def _named(scores: dict[str, float]) -> dict[str, float]:
    return {f"average_{name}": value for name, value in scores.items()}


def validate(
    model: UnifiedModel, cfg: RunConfig, decoding: Decoding, *, per_prompt: int = 1, proxy=None
) -> Validation | None:
    """Sample the validation prompts, in all processes, and judge them, in the main one; the others get None. ``proxy``
    is the reward trained on, whose mean is over images: where the run drops some, over those that have a score. Raises
    RewardFailed, in all processes, where it fails otherwise, or for all."""
    jobs = validation_jobs(per_prompt)
    samples = sample(model, jobs, cfg.sampling, decoding, SEED)
    with distributed.common(RewardFailed):
        if samples is None:
            return None
        rows, means = judge_each(jobs, samples)
        means = by_category(jobs, rows) | means
        if proxy is not None:
            images, prompts = to_float(samples.images), [p for p, _ in jobs]
            known = {"policy": model, "traces": samples.traces}
            with torch.no_grad():
                scores = scores_of(proxy, images, prompts, cfg.rl.reward_failure, **known)["reward"]
            if not len(found := scores[scores.isfinite()]):
                raise RewardFailed(f"reward {cfg.rl.reward}: failed for every validation prompt")
            means["proxy"] = float(found.mean())
            rows = [
                row | {"proxy": s} if math.isfinite(s) else row for row, s in zip(rows, scores.tolist(), strict=True)
            ]
    return Validation(jobs, samples, rows, means)


TILE = 96  # pixels: the largest side of an image in a sheet


def sheet(validation: Validation) -> Image.Image:
    """The first image of every prompt, in rows of SHEET_COLUMNS in the prompts' order, none larger than TILE."""
    first = [i for i, (_, number) in enumerate(validation.jobs) if number == 0]
    side = min(TILE, validation.samples.images.shape[1])
    canvas = Image.new("RGB", (SHEET_COLUMNS * side, math.ceil(len(first) / SHEET_COLUMNS) * side), "white")
    for place, index in enumerate(first):
        row, column = divmod(place, SHEET_COLUMNS)
        tile = Image.fromarray(validation.samples.images[index]).resize((side, side))
        canvas.paste(tile, (column * side, row * side))
    return canvas


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


def to_float(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (n, H, W, 3) -> float32 tensor (n, 3, H, W) in [0, 1]: the convention of rewards."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
