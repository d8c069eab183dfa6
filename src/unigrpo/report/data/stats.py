"""Means and 95 % intervals over replicates and prompts: the numbers in every table (after the paper's section 4).

Letters: K replicates (a start and its seed), P prompts. A cell is one metric's mean over the images of one prompt at
one replicate. The estimate is ``mean_k sum_p w_p cell[k, p]``. Replicates are one random factor, crossed with prompts,
which are drawn within their categories (strata). Its variance is A + max(B - C, 0):

* A: the variance of the K replicates' means over K, which holds replicates and image noise; K - 1 degrees of freedom
* B: the sum over strata of the variance of the prompts' means, which holds prompts and image noise; its degrees of
  freedom are Satterthwaite's (1946)
* C: what interaction and image noise (the mean square of the residuals) bring to A and to B, so that they count once

The quantile of t is that of A and that of B, weighted by their variances (Cochran, 1964): intervals then cover 0.94 to
0.98 with two replicates and 0.945 to 0.97 with four, whichever of replicates, prompts and noise dominates, where
Satterthwaite's degrees of freedom of the sum cover 0.87 with two. One replicate has no A and no C: its interval covers
prompts only. One prompt has no interval. Categories of a single prompt, which say nothing of their spread, are one
stratum (collapsed strata); where there is but one, with the next smallest.

Prompts that all agree leave no variance. As many others may still differ as n prompts rule out at most: a share
z^2 / (n + z^2), anywhere in the metric's range. For verdicts of 0 and 1 that is Wilson's interval (1927), for paired
differences of verdicts, -1 to 1, Tango's (1998). n is the effective number of prompts, 1 / sum_p w_p^2; replicates,
which share their prompts, do not raise it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from unigrpo.core.errors import UserError
from unigrpo.core.lazy import lazy

special = lazy("scipy.special")  # takes longer to import than most tables to make

LEVEL, POWER = 0.95, 0.8
TAIL = (1 + LEVEL) / 2
Z = NormalDist().inv_cdf(TAIL)


@dataclass(frozen=True)
class Cells:
    """One metric of one run: ``values`` (K, P) float, seeds (K), prompt ids (P) and their categories (P). ``within``:
    the ends of its range, where prompts that agree are to have an interval."""

    values: np.ndarray
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    tags: tuple[str, ...]
    within: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self):
        if self.values.shape != (len(self.seeds), len(self.prompts)) or not self.values.size:
            raise UserError(
                f"scores: expected {len(self.seeds)} seeds x {len(self.prompts)} prompts, "
                f"at least one of each, found cells of shape {self.values.shape}"
            )
        if not np.isfinite(self.values).all():
            seed, prompt = np.argwhere(~np.isfinite(self.values))[0]
            raise UserError(
                f"scores: seed {self.seeds[seed]} has no finite value for prompt '{self.prompts[prompt]}'; "
                "every seed of a run needs every prompt"
            )

    def only(self, tag: str) -> Cells:
        """The cells of one category."""
        return self._at([i for i, each in enumerate(self.tags) if each == tag])

    def of(self, prompts: Collection[str]) -> Cells:
        """The cells of these prompts."""
        return self._at([i for i, each in enumerate(self.prompts) if each in prompts])

    def _at(self, places: Sequence[int]) -> Cells:
        prompts, tags = (tuple(each[i] for i in places) for each in (self.prompts, self.tags))
        return replace(self, values=self.values[:, places], prompts=prompts, tags=tags)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, over ``seeds`` seeds and ``prompts`` prompts; ``lo``, ``hi``, ``error``: None of one
    prompt. ``error``: standard error, with ``df`` degrees of freedom."""

    mean: float
    lo: float | None
    hi: float | None
    seeds: int
    prompts: int
    error: float | None = None
    df: float = math.inf

    @property
    def resolvable(self) -> float | None:
        """Smallest true difference found with 80 % power at the 5 % level (the quantiles of t added)."""
        return self.error and float(special.stdtrit(self.df, [TAIL, POWER]).sum()) * self.error

    def __neg__(self) -> Estimate:
        lo, hi = (end and -end for end in (self.hi, self.lo))
        return replace(self, mean=-self.mean, lo=lo, hi=hi)

    @property
    def p(self) -> float | None:
        """Two-sided p-value of no difference: below 0.05 where the interval excludes 0."""
        if self.error is None:
            return None
        return 2 * float(special.stdtr(self.df, -abs(self.mean) / self.error)) if self.error else float(not self.mean)


def written(mean: float, lo: float | None, hi: float | None, form: str = ".3f") -> str:
    """A mean and its interval, as text."""
    form = form.replace(".", "z.")  # no -0.000
    return f"{mean:{form}} (one prompt)" if lo is None else f"{mean:{form}} [{lo:{form}}, {hi:{form}}]"


def form(ends: tuple[float, float], widths: Sequence[float]) -> str:
    """How a column's numbers are written: with three digits where its range lies within [0, 1]; else with as many, 0 to
    6, as show two of the middle one of its intervals' ``widths``."""
    width = np.median([width for width in widths if width > 0] or [0.1])
    return ".3f" if ends[0] >= 0 and ends[1] <= 1 else f".{np.clip(1 - np.floor(np.log10(width)), 0, 6):.0f}f"


def prompt_weights(tags: Sequence[str], by_category: bool) -> np.ndarray:
    """(P,) weights that sum to 1: the mean over prompts, or GenEval's mean of category means."""
    if not by_category:
        return np.full(len(tags), 1 / len(tags))
    names, index, counts = np.unique(np.asarray(tags), return_inverse=True, return_counts=True)
    return 1 / (len(names) * counts[index])


def _strata(tags: Sequence[str]) -> list[np.ndarray]:
    """Masks (P,) of the prompts that are resampled together."""
    names, index, counts = np.unique(np.asarray(tags), return_inverse=True, return_counts=True)
    lone = counts == 1
    if lone.any():
        lone[np.argsort(counts, kind="stable")[:2]] = True
    place = np.where(lone, len(names), np.arange(len(names)))[index]
    return [place == k for k in np.unique(place)]


def _agreeing(mean: float, weights: np.ndarray, within: tuple[float, float]) -> tuple[float, float]:
    """Interval of a mean whose prompts all agree; see above."""
    share = Z**2 / (1 / np.square(weights).sum() + Z**2)
    return mean - share * (mean - within[0]), mean + share * (within[1] - mean)


def _error(values: np.ndarray, weights: np.ndarray, strata: Sequence[np.ndarray]) -> tuple[float, float]:
    """Standard error and degrees of freedom of the weighted mean of ``values`` (K, P); see above."""
    between = noise = squares = 0.0
    count = len(values)
    for inside in strata:
        n, w = inside.sum(), weights[inside]
        around = n * w * (values[:, inside] - values[:, inside] @ w[:, None] / w.sum())  # (K, n), rows of mean 0
        means = around.mean(axis=0)
        part = np.square(means).sum() / (n * (n - 1))
        between, squares = between + part, squares + part**2 / (n - 1)
        noise += np.square(around - means).sum() / (n * (n - 1) * count * max(count - 1, 1))
    parts = np.array([np.var(values @ weights, ddof=1) / count if count > 1 else 0.0, max(between - noise, 0.0)])
    df = np.array([max(count - 1, 1), between**2 / squares if squares else math.inf])
    if not (variance := parts.sum()):
        return 0.0, math.inf
    quantile = parts @ special.stdtrit(df, TAIL) / variance
    return math.sqrt(variance), float(special.stdtridf(TAIL, quantile))


def estimate(cells: Cells, by_category: bool = True) -> Estimate:
    """Mean with its interval, within the metric's range; ``by_category`` as in prompt_weights."""
    weights, prompt_means = prompt_weights(cells.tags, by_category), cells.values.mean(axis=0)
    by_seed, strata = cells.values @ weights, _strata(cells.tags)
    mean, sizes = float(by_seed.mean()), (len(cells.seeds), len(cells.prompts))
    if len(cells.prompts) == 1:
        return Estimate(mean, None, None, *sizes)
    ends = cells.within or (-math.inf, math.inf)
    inside = ends[0] <= prompt_means.min() <= prompt_means.max() <= ends[1]
    same = np.ptp(by_seed) == 0 and all(np.ptp(prompt_means[each]) == 0 for each in strata)
    if same and inside and np.isfinite(ends).all():
        lo, hi = np.round(_agreeing(mean, weights, ends), 12).tolist()
        return Estimate(mean, lo, hi, *sizes, (hi - lo) / (2 * Z))
    error, df = (0.0, math.inf) if same else _error(cells.values, weights, strata)
    half = float(special.stdtrit(df, TAIL)) * error
    lo, hi = (max(mean - half, ends[0]), min(mean + half, ends[1])) if inside else (mean - half, mean + half)
    return Estimate(mean, lo, hi, *sizes, error, df)


def difference(a: Cells, b: Cells, one_for_all: bool = True) -> Cells:
    """Cells of a - b, paired by prompt and by seed; only seeds that both have take part. ``one_for_all``: a run with a
    single seed (a checkpoint that all others start from) is paired with every seed of the other; no interval then has
    its spread between seeds. Raises UserError when prompts differ or no seed is shared."""
    if a.prompts != b.prompts:
        odd = sorted(set(a.prompts) ^ set(b.prompts))
        raise UserError(f"scores: a paired difference needs the same prompts in both runs; unmatched: {odd[:3]}")
    within = a.within and b.within and (a.within[0] - b.within[1], a.within[1] - b.within[0])
    if one_for_all and (len(a.seeds) == 1 or len(b.seeds) == 1):
        seeds = a.seeds if len(b.seeds) == 1 else b.seeds
        return Cells(a.values - b.values, seeds, a.prompts, a.tags, within)
    seeds = tuple(s for s in a.seeds if s in b.seeds)
    if not seeds:
        raise UserError(f"scores: a paired difference needs a shared seed, found {a.seeds} and {b.seeds}")
    rows = [[c.seeds.index(s) for s in seeds] for c in (a, b)]
    return Cells(a.values[rows[0]] - b.values[rows[1]], seeds, a.prompts, a.tags, within)


def improvement(a: Cells, b: Cells) -> Estimate:
    """The chance that a seed of ``a`` beats a seed of ``b`` on a prompt, ties counting half: all pairs of seeds, mean
    over prompts, categories weighing equally; its interval covers prompts only (after Agarwal et al., 2021)."""
    if a.prompts != b.prompts:
        raise UserError("scores: a probability of improvement needs the same prompts in both runs")
    first, second = a.values[:, None], b.values[None]
    chances = ((first > second) + 0.5 * (first == second)).mean(axis=(0, 1))
    return estimate(Cells(chances[None], (0,), a.prompts, a.tags))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of one family, each adjusted for all of them, in the same order (Holm, 1979)."""
    values, order = np.asarray(values), np.argsort(values)
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(steps, 1)[np.argsort(order)].tolist()
