"""Validation: sample on the validation prompts and judge by the world's verifier.

Every choice (settings, guidance, stopping) is made on these numbers; evaluation prompts are never seen here.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from evals.geneval import official_verdict
from unigrpo.backbones.unified import UnifiedModel
from unigrpo.config import RunConfig
from unigrpo.sampler import Decoding, Samples, sample
from unigrpo.types import Prompt
from unigrpo.world import inspector, judge, prompts, traces

SEED = 1  # of validation noise: fixed, so that runs and updates are compared on the same draws


def validation_jobs(per_prompt: int) -> list[tuple[Prompt, int]]:
    """(prompt, sample number) for every validation prompt."""
    return [(p, k) for p in prompts.prompt_set("val") for k in range(per_prompt)]


def judge_samples(jobs: list[tuple[Prompt, int]], samples: Samples) -> dict[str, float]:
    """Means over images, categories weighted equally: gold, official, strict, soft, artefact; with traces also the
    share of traces that are right for their prompt, and over painted objects of valid plans the share found in
    their cell, with the right colour, with the right class, and images that match their trace in everything."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    parts: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), found, text in zip(jobs, inspector.inspect_images(samples.images), samples.traces, strict=True):
        verdict = judge.judge(prompt.meta, found.detections)
        row = rows[prompt.tag]
        row["gold"].append(verdict.gold)
        row["strict"].append(verdict.strict)
        row["soft"].append(verdict.soft)
        row["artefact"].append(found.artefact)
        row["official"].append(official_verdict(prompt.meta, *inspector.to_geneval(found.detections)).correct)
        if text is not None:
            plan = traces.parse_trace(text)
            row["trace_correct"].append(plan is not None and traces.trace_matches(prompt.meta, plan))
            if plan:
                hits = traces.image_matches_trace(plan, found.detections, samples.images.shape[1])
                for name, values in zip(("cell_hit", "color_hit", "class_hit"), zip(*hits, strict=True), strict=True):
                    parts[name] += values
                whole = len(found.detections) == len(plan) and all(all(h) for h in hits)
                parts["image_given_trace"].append(whole)
    names = {name for row in rows.values() for name in row}
    means = {name: float(np.mean([np.mean(row[name]) for row in rows.values()])) for name in sorted(names)}
    return means | {name: float(np.mean(values)) for name, values in parts.items()}


def validate(
    model: UnifiedModel, cfg: RunConfig, decoding: Decoding, *, per_prompt: int = 1, proxy=None
) -> dict[str, float]:
    """Sample the validation prompts and judge them; ``proxy`` adds the mean of the reward trained on."""
    jobs = validation_jobs(per_prompt)
    samples = sample(model, jobs, cfg.sampling, decoding, SEED)
    metrics = judge_samples(jobs, samples)
    if proxy is not None:
        metrics["proxy"] = float(proxy(to_float(samples.images), [p for p, _ in jobs]).mean())
    return metrics


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> float32 tensor (n, 3, H, W) in [0, 1]: the convention of rewards."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
