"""The choice of guidance and text temperature, made once, on the SFT model and validation prompts.

Every row of every table is then evaluated with this choice (and, beside it, at guidance 1), so that no method gains by
turning a knob that the others did not have. Guidance is chosen first, at the first temperature of the grid; then the
temperature, at that guidance; each by the gold score with thinking, and by the one-standard-error rule: of the grid's
values, nearest to training first, the first that is not worse than the best by more than the standard error of their
difference over prompts. Without that rule noise picks among equals, and stronger guidance costs more than it shows.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from unigrpo.core import distributed
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling.engine import Decoding, sample
from unigrpo.sampling.validation_set import SEED, by_category, judge_each, validation_jobs
from unigrpo.study.config import RunConfig

PER_PROMPT = 4  # images per validation prompt and setting


def tune(model: UnifiedModel, cfg: RunConfig) -> dict:
    """The content of decoding.json: the chosen ``guidance`` and ``temperature``, and the main process's ``grid``."""
    s = cfg.sampling
    jobs = validation_jobs(PER_PROMPT)
    grid: list[dict] = []

    def measure(decoding: Decoding) -> np.ndarray:
        """Gold (P,) per validation prompt; the means go into ``grid``."""
        samples, gold = sample(model, jobs, s, decoding, SEED), []
        if samples is not None:
            rows, painted = judge_each(jobs, samples)
            grid.append(asdict(decoding) | by_category(jobs, rows) | painted)
            print(" ".join(f"{name} {float(value):.3f}" for name, value in grid[-1].items()), flush=True)
            gold = [np.reshape([row["gold"] for row in rows], (-1, PER_PROMPT)).mean(1)]
        return distributed.collect(gold)[0]

    tags = [prompt.tag for prompt, _ in jobs[::PER_PROMPT]]
    first = s.temperature_grid[0]
    by_guidance = {g: measure(Decoding(True, g, first)) for g in s.guidance_grid}
    guidance = choose(by_guidance, tags)
    by_temperature = {t: measure(Decoding(True, guidance, t)) for t in s.temperature_grid[1:]}
    temperature = choose({first: by_guidance[guidance], **by_temperature}, tags)
    for g in sorted({1.0, guidance}):
        measure(Decoding(False, g, temperature))
    rule = f"{cfg.run}, {len(tags)} validation prompts x {PER_PROMPT}, gold with thinking, one-standard-error rule"
    return {"guidance": guidance, "temperature": temperature, "chosen_on": rule, "grid": grid}


def choose(gold: dict[float, np.ndarray], tags: Sequence[str]) -> float:
    """The first setting of ``gold`` that is within one standard error of the best.

    gold: setting -> (P,) mean gold per prompt, settings in order of preference; tags (P,): categories weigh equally.
    The error is that of the paired difference to the best, prompts being drawn within categories.
    """
    strata = [np.flatnonzero(np.array(tags) == tag) for tag in dict.fromkeys(tags)]

    def mean(values: np.ndarray) -> float:
        return float(np.mean([values[rows].mean() for rows in strata]))

    best = max(gold, key=lambda setting: mean(gold[setting]))
    for setting, values in gold.items():
        difference = gold[best] - values
        variances = [difference[rows].var(ddof=1) / len(rows) if len(rows) > 1 else 0.0 for rows in strata]
        if mean(difference) <= np.sqrt(np.sum(variances)) / len(strata):
            return setting
    return best
