"""Where the reward's spread within a group comes from: traces, which the reasoning expert alone can act on, or image
noise, on which the denoising expert alone can. Both parts of a joint policy share one advantage. T traces of every
validation prompt are written and M images of each painted, as in a rollout; a one-way random-effects analysis of
variance splits the variance of an episode's reward.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace
from unigrpo.episodes import rollout
from unigrpo.models.base import UnifiedModel
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.world.prompts import prompt_set

Score = Callable[[torch.Tensor, Sequence[Prompt]], torch.Tensor]  # images (B, 3, H, W), prompts -> (B,)
Judges = dict[str, Score]
Shares = dict[str, dict[str, float]]  # judge -> its ``trace_share``
SEED = 2  # of the draws: neither training's nor validation's
PROMPTS = 12  # painted together
RESAMPLES = 2000


def components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance components of balanced one-way data: values (P, T, M) -> (P,) between traces, (P,) within a trace.
    Unbiased (expected mean squares), so the first may be below zero for a single prompt. T and M at least 2."""
    within = values.var(axis=2, ddof=1).mean(axis=1)
    return values.mean(axis=2).var(axis=1, ddof=1) - within / values.shape[2], within


def trace_share(values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Share of a group's variance that its traces explain, its 95 % interval over prompts, both; values (P, T, M)."""
    between, within = components(values)

    def share(rows: np.ndarray) -> float:
        return float(between[rows].mean() / (between[rows].mean() + within[rows].mean()))

    p = len(values)
    lo, hi = np.quantile([share(rng.integers(p, size=p)) for _ in range(RESAMPLES)], [0.025, 0.975]).tolist()
    variances = {"variance_trace": float(between.mean()), "variance_image": float(within.mean())}
    return {"share": share(np.arange(p)), "lo": lo, "hi": hi, **variances}


def paint_each(
    model: UnifiedModel, prompts: list[Prompt], rl: RLConfig, max_tokens: int, images: int, index: int
) -> torch.Tensor:
    """``rl.group_size`` traces per prompt and ``images`` pictures of each, (P * T * M, 3, H, W) in [0, 1]; the initial
    noise is one per prompt with ``rl.same_noise``, else one per picture, and the window's noise always differs."""
    rl = replace(rl, group_size=rl.group_size * images, images_per_trace=images)
    return rollout.roll_out(model, rollout.Draw(prompts, rl, max_tokens, SEED, index)).image.images


def measure(model: UnifiedModel, rl: RLConfig, max_tokens: int, images: int, judges: Judges) -> Shares:
    """``trace_share`` of every judge on the validation prompts."""
    prompts, scored = prompt_set("val"), {name: [] for name in judges}
    for index, start in enumerate(range(0, len(prompts), PROMPTS)):
        batch = prompts[start : start + PROMPTS]
        painted = paint_each(model, batch, rl, max_tokens, images, index)
        each = [p for p in batch for _ in range(rl.group_size * images)]
        for name, judge in judges.items():
            values = judge(painted, each).double().cpu().numpy()
            scored[name].append(values.reshape(len(batch), rl.group_size, images))
    draws = {name: seeding.numpy_generator(SEED, name) for name in judges}
    return {name: trace_share(np.concatenate(parts), draws[name]) for name, parts in scored.items()}


def split(model: UnifiedModel, cfg: RunConfig, judges: Judges, traces: int, images: int) -> dict[str, Shares]:
    """``measure`` with ``traces`` and ``images``, where a group shares its initial noise and where each has its own."""
    rl = replace(cfg.rl, thinking=True, group_size=traces)
    return {
        name: measure(model, replace(rl, same_noise=same), cfg.sampling.max_trace_tokens, images, judges)
        for name, same in (("group shares its initial noise", True), ("own initial noise", False))
    }
