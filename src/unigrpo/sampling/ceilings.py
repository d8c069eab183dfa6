"""What bounds a run from above: one half of its work done perfectly. No method makes these rows.

``painter``: the run's own traces, painted by the renderer; a trace that states no scene is an empty canvas.
``traces``: right traces, written from the prompts' metadata, painted by the run's model. Both need the world.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Jobs, Samples
from unigrpo.world import render, scenes, traces


def perfect_traces(jobs: Jobs, seed: int) -> list[str]:
    """A trace of a random scene that satisfies its prompt exactly, for each job."""
    drawn = (scenes.scene_for(prompt.meta, _generator(seed, prompt, k)) for prompt, k in jobs)
    return [traces.write_plan(traces.plan_of(scene)) for scene in drawn]


def painted(folder: Path, jobs: Jobs, side: int, seed: int) -> Samples:
    """Images (n, side, side, 3) of the traces in a sample folder of these ``jobs``, painted by the renderer. Raises
    UserError for a folder of other jobs."""
    _, rows, _ = sample_folder.read_rows(folder)
    if [(row["prompt_id"], row["sample"]) for row in rows] != [(prompt.id, k) for prompt, k in jobs]:
        raise UserError(f"{folder / 'manifest.jsonl'}: expected the prompts of this study; sample them again")
    texts = [row.get("trace") or "" for row in rows]
    return Samples(np.stack([*_rendered(jobs, texts, side, seed)]), texts, 0)


def _rendered(jobs: Jobs, texts: list[str], side: int, seed: int) -> Iterator[np.ndarray]:
    for (prompt, k), text in zip(jobs, texts, strict=True):
        plan = traces.parse_trace(text)
        if plan and len({place for *_, place in plan}) == len(plan):
            yield render.render([traces.paint_plan(plan, _generator(seed, prompt, k))], side)[0]
        else:
            yield np.full((side, side, 3), scenes.BACKGROUND, np.uint8)


def _generator(seed: int, prompt: Prompt, k: int) -> np.random.Generator:
    return seeding.numpy_generator(seed, "ceiling", prompt.id, k)
