"""The choice of guidance and text temperature by mode, made once, on the SFT model and validation prompts.

Every row of every table is then evaluated with the choice of its mode (and, beside it, at guidance 1), so that no
method gains by turning a knob that the others did not have. With thinking, guidance is chosen first, at the first
temperature of the grid; then the temperature, at that guidance. Without a trace only guidance is there to choose. Each
is chosen by gold and the one-standard-error rule: of the grid's values, nearest to training first, the first that is
not worse than the best by more than the standard error of their difference over prompts. Without that rule noise picks
among equals, and stronger guidance costs more than it shows.

Every guidance is tried in both modes, so that a table can say what the knob alone brings. Greedy text is tried, too,
but not chosen: all samples of a prompt would have one trace.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from unigrpo.core import distributed
from unigrpo.core.choosing import choose
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling.engine import Decoding, sample_guided
from unigrpo.sampling.validation_set import SEED, by_category, judge_each, validation_jobs
from unigrpo.study.config import RunConfig

PER_PROMPT = 4  # images per validation prompt and setting
GREEDY = 0.0


def tune(model: UnifiedModel, cfg: RunConfig) -> dict:
    """The content of decoding.json: the chosen ``guidance`` and ``temperature`` of ``think``, the ``guidance`` of
    ``direct``, and the main process's ``grid``: means over images, and gold of every prompt, of each decoding tried."""
    s = cfg.sampling
    jobs = validation_jobs(PER_PROMPT)
    prompts = [prompt for prompt, _ in jobs[::PER_PROMPT]]
    tags, first, grid = [prompt.tag for prompt in prompts], s.temperature_grid[0], []

    def measure(thinking: bool, guidances: Sequence[float], temperature: float | None) -> list[np.ndarray]:
        """Gold (P,) per validation prompt at each guidance; one text does for all. Each goes into ``grid``."""
        decodings, found = [Decoding(thinking, g, temperature) for g in guidances], []
        for decoding, samples in zip(decodings, sample_guided(model, jobs, s, decodings, SEED) or ()):  # noqa: B905
            rows, painted = judge_each(jobs, samples)
            found.append(np.reshape([row["gold"] for row in rows], (-1, PER_PROMPT)).mean(1))
            means = by_category(jobs, rows) | painted
            print(decoding, *(f"{name} {value:.3f}" for name, value in means.items()), flush=True)
            by_prompt = {p.id: round(gold, 4) for p, gold in zip(prompts, found[-1].tolist(), strict=True)}
            grid.append(asdict(decoding) | means | {"gold_by_prompt": by_prompt})
        return distributed.collect(found)

    chosen = {}
    for mode, temperature in {"think": first, "direct": None}.items():
        by_guidance = dict(zip(s.guidance_grid, measure(mode == "think", s.guidance_grid, temperature), strict=True))
        chosen[mode] = {"guidance": (guidance := choose(by_guidance, tags))}
        if mode == "think":
            by_temperature = {t: measure(True, [guidance], t)[0] for t in s.temperature_grid[1:]}
            chosen[mode]["temperature"] = choose({first: by_guidance[guidance]} | by_temperature, tags)
            measure(True, [guidance], GREEDY)
    rule = f"{cfg.run}, {len(tags)} validation prompts x {PER_PROMPT}, gold, one-standard-error rule"
    return chosen | {"chosen_on": rule, "grid": grid}
