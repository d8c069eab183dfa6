"""The validation prompts, and the verdicts of the world's verifier on images of them.

Every choice (settings, guidance, stopping) is made on these numbers; evaluation prompts are never seen here.
"""

from collections import defaultdict

import numpy as np

from unigrpo.sampling.engine import Jobs, Samples
from unigrpo.world import gold, inspector, prompts, traces
from unigrpo.world.geneval_verdict import boxes_and_colors, official_verdict

SEED = 1  # of validation noise: fixed, so that runs and updates are compared on the same draws


def validation_jobs(per_prompt: int) -> Jobs:
    """(prompt, sample number) for every validation prompt."""
    return [(p, k) for p in prompts.prompt_set("val") for k in range(per_prompt)]


def judge_each(jobs: Jobs, samples: Samples) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Of every image: gold, strict, soft, official, artefact, the numbers of extra objects and of wrong_hues; with a
    trace also trace_correct, whether the trace is right for its prompt, and image_given_trace, whether the image
    matches it in everything (0 where it is malformed). Over painted objects of valid plans: the share found in their
    cell (cell_hit), with the right colour, with the right class; and image_given_trace over valid plans alone."""
    rows: list[dict[str, float]] = []
    parts: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), found, text in zip(jobs, inspector.inspect_images(samples.images), samples.traces, strict=True):
        verdict = gold.judge(prompt.meta, found.detections)
        official = official_verdict(prompt.meta, *boxes_and_colors(found.detections)).correct
        row = {"gold": verdict.gold, "strict": float(verdict.strict), "soft": verdict.soft}
        row |= {"artefact": found.artefact, "official": float(official), "extra": float(verdict.extra)}
        row["wrong_hues"] = float(gold.wrong_hues(prompt.meta, found.detections))
        if text is not None:
            plan = traces.parse_trace(text)
            row |= {"trace_correct": float(traces.trace_matches(prompt.meta, plan)), "image_given_trace": 0.0}
            if plan:
                hits = traces.image_matches_trace(plan, found.detections, samples.images.shape[1])
                for name, values in zip(("cell_hit", "color_hit", "class_hit"), zip(*hits, strict=True), strict=True):
                    parts[name] += values
                matches = len(found.detections) == len(plan) and all(all(h) for h in hits)
                parts["image_given_trace"].append(matches)
                row["image_given_trace"] = float(matches)
        rows.append(row)
    return rows, {name: float(np.mean(values)) for name, values in parts.items()}


def by_category(jobs: Jobs, rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over images of each metric, categories weighted equally."""
    tags = [prompt.tag for prompt, _ in jobs]
    by_tag = {name: [[r[name] for r, t in zip(rows, tags, strict=True) if t == tag] for tag in dict.fromkeys(tags)]
            for name in sorted(rows[0])}  # fmt: skip
    return {name: float(np.mean([np.mean(values) for values in groups])) for name, groups in by_tag.items()}
