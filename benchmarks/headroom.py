"""What the base and the shipped starts leave to be learned, on validation prompts: ``python benchmarks/headroom.py``.

GenEval-style verdicts on the six categories, IMAGES a prompt, at the guidance and temperature that each start has
chosen: the model with thinking and without, a perfect painter on its traces, its own painter on perfect traces. Writes
benchmarks/results/headroom.json, which the table of docs/protocol.md is made of.
"""

import json
from pathlib import Path

import numpy as np
import torch

from unigrpo.core import seeding
from unigrpo.models import checkpoint
from unigrpo.sampling import ceilings
from unigrpo.sampling.engine import Decoding, read_decoding, sample_guided
from unigrpo.sampling.validation_set import SEED, validation_jobs
from unigrpo.study.resolve import chosen_study
from unigrpo.world import inspector, render, scenes, traces
from unigrpo.world.geneval_verdict import boxes_and_colors, official_verdict
from unigrpo.world.prompts import COMPOUND

ROOT = Path(__file__).parents[1]
IMAGES = 8
JOBS = [(prompt, k) for prompt, k in validation_jobs(IMAGES) if prompt.tag != COMPOUND]
TAGS = np.array([prompt.tag for prompt, _ in JOBS])
BASE = Decoding(True, 1.5, 1.0)  # the base has no choice of its own


def by_category(values: list | np.ndarray) -> float:
    """The mean of the category means of values (n,)."""
    return float(np.mean([np.asarray(values, float)[tag == TAGS].mean() for tag in dict.fromkeys(TAGS)]))


def verdicts(images: np.ndarray) -> np.ndarray:
    """GenEval's verdict (n,) on images (n, H, W, 3)."""
    found = zip(JOBS, inspector.inspect_images(images), strict=True)
    return np.array([official_verdict(p.meta, *boxes_and_colors(f.detections)).correct for (p, _), f in found], float)


def painted(texts: list[str], side: int) -> np.ndarray:
    """The traces as a perfect painter paints them; an empty canvas where one states no scene."""
    images = []
    for number, text in enumerate(texts):
        plan = traces.parse_trace(text)
        stated = bool(plan) and len({place for *_, place in plan}) == len(plan)
        rng = seeding.numpy_generator(SEED, "headroom", number)
        blank = np.full((side, side, 3), scenes.BACKGROUND, np.uint8)
        images.append(render.render([traces.paint_plan(plan, rng)], side)[0] if stated else blank)
    return np.stack(images)


def measure(folder: Path, think: Decoding, direct: Decoding) -> dict:
    """The row of one model."""
    cfg = chosen_study("cpu").resolve("sft")
    model = checkpoint.load_model(folder, "cpu", cfg.model).eval()
    own = sample_guided(model, JOBS, cfg.sampling, [think], SEED)[0]
    right = sample_guided(model, JOBS, cfg.sampling, [think], SEED, traces=ceilings.perfect_traces(JOBS, SEED))[0]
    plain = sample_guided(model, JOBS, cfg.sampling, [direct], SEED)[0]
    thinking, perfect = verdicts(own.images), verdicts(painted(own.traces, cfg.model.image_size))
    plans = zip(JOBS, map(traces.parse_trace, own.traces), strict=True)
    gains = (perfect - thinking).reshape(-1, IMAGES).mean(1)
    return {
        "guidance": think.guidance,
        "temperature": think.temperature,
        "thinking": by_category(thinking),
        "traces_right": by_category([traces.trace_matches(prompt.meta, plan) for (prompt, _), plan in plans]),
        "perfect_painter": by_category(perfect - thinking),
        "prompts_that_gain": float((gains > 0).mean()),
        "perfect_traces": by_category(verdicts(right.images) - thinking),
        "direct_guidance": direct.guidance,
        "direct": by_category(verdicts(plain.images)),
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = {"base": measure(ROOT / "assets/base", BASE, Decoding(False, BASE.guidance, None))}
    for start in sorted((ROOT / "assets/starts").glob("seed*")):
        rows[start.name] = measure(start / "sft", *read_decoding(start / "decoding.json").values())
        print(start.name, rows[start.name], flush=True)
    (ROOT / "benchmarks/results/headroom.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
