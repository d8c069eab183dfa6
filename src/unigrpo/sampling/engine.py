"""Evaluation sampling: prompts -> traces and images, deterministic per (seed, prompt id, sample number)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.records import Prompt
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives import flow
from unigrpo.sampling.painting import paint
from unigrpo.study.config import SamplingConfig


@dataclass(frozen=True)
class Decoding:
    """Knobs of sampling. guidance 1 = none; temperature of the text, 0 = greedy."""

    thinking: bool
    guidance: float
    temperature: float


def read_decoding(path: str | Path) -> Decoding:
    """The choice in decoding.json, with thinking. Raises UserError naming a key that is missing or no possible scale or
    temperature."""
    chosen = read_json(path, "guidance", "temperature")
    for key, least in (("guidance", 1), ("temperature", 0)):
        value = chosen[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise UserError(f"{path}: {key}: expected a number of at least {least}, got {value!r}")
    return Decoding(True, chosen["guidance"], chosen["temperature"])


@dataclass(frozen=True)
class Samples:
    """images (n, H, W, 3) uint8; traces, None without thinking; network evaluations spent on images."""

    images: np.ndarray
    traces: list[str | None]
    model_evaluations: int


def joined(parts: list[Samples]) -> Samples:
    """The samples of several calls, one after the other."""
    images, traces = np.concatenate([p.images for p in parts]), [text for p in parts for text in p.traces]
    return Samples(images, traces, sum(p.model_evaluations for p in parts))


def sample(
    model: UnifiedModel,
    jobs: list[tuple[Prompt, int]],
    settings: SamplingConfig,
    decoding: Decoding,
    seed: int,
    *,
    progress: str | None = None,
) -> Samples:
    """One image per (prompt, sample number). The noise and the text draws of a job depend on nothing else, so the
    same prompt and sample number start alike for every run. ``progress`` names a progress bar."""
    return sample_guided(model, jobs, settings, decoding, [decoding.guidance], seed, progress=progress)[0]


@torch.no_grad()
def sample_guided(
    model: UnifiedModel,
    jobs: list[tuple[Prompt, int]],
    settings: SamplingConfig,
    decoding: Decoding,
    scales: Sequence[float],
    seed: int,
    *,
    progress: str | None = None,
) -> list[Samples]:
    """What :func:`sample` returns at each of the guidance ``scales`` in place of the decoding's. Guidance does not
    reach the text, which is therefore written once."""
    times = flow.time_grid(settings.steps, settings.shift, settings.grid).to(model.device)
    images, traces = [[] for _ in scales], []
    starts = range(0, len(jobs), settings.batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None, mininterval=5):
        batch = jobs[start : start + settings.batch_size]
        ids = model.prompt_ids([p.text for p, _ in batch])
        if decoding.thinking:
            uniforms = torch.stack(
                [
                    torch.rand(settings.max_trace_tokens, generator=seeding.generator(seed, "text", p.id, k))
                    for p, k in batch
                ]
            )
            uniforms = uniforms.to(model.device)
            trace, context = model.think(ids, settings.max_trace_tokens, uniforms, decoding.temperature)
            text = model.trace_texts(trace)
        else:
            text, context = [None] * len(batch), model.read_prompts(ids)
        noise = [torch.randn(model.latent_shape, generator=seeding.generator(seed, "start", p.id, k)) for p, k in batch]
        noise = torch.stack(noise).to(model.device)
        for scale, painted in zip(scales, images, strict=True):
            x, _ = paint(model, context, noise, times, guidance=scale, renorm=settings.renorm)
            painted.append((model.decode(x).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy())
        traces += text
    evaluations = len(jobs) * (len(times) - 1)
    return [
        Samples(np.concatenate(painted), traces, evaluations * (2 if scale > 1 else 1))
        for scale, painted in zip(scales, images, strict=True)
    ]
