"""Means and 95 % intervals over seeds and prompts: the numbers in every table (after the paper's section 4).

Letters: K seeds, P prompts, R resamples. A cell is one metric's mean over the images of one prompt and one
seed. The estimate is linear in the cells, ``mean_k sum_p w_p cell[k, p]``, so the bootstrap is one of main
effects: it resamples the K seed means and, within each category, the P prompt means, and adds the two
deviations. Drawing n - 1 of n keeps the variance unbiased for few seeds (Rao & Wu, 1988). Image noise reaches
both effects and is counted twice, so intervals err on the wide side; with K below 5 the seed part is about
the range of the seeds. One seed has no seed part: its interval covers prompts only. One prompt has no interval.
Categories of a single prompt, which say nothing of their spread, are resampled as one (collapsed strata); where there
is but one, with the next smallest.

Prompts that all agree leave the bootstrap without width. As many others may still differ as n prompts rule out at most:
a share z^2 / (n + z^2), anywhere in the metric's range. For verdicts of 0 and 1 that is Wilson's interval (1927), for
paired differences of verdicts, -1 to 1, Tango's (1998). n is the effective number of prompts, 1 / sum_p w_p^2; seeds,
which share their prompts, do not raise it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from unigrpo.core.errors import UserError

RESAMPLES = 2000
DRAWN = 2**18  # prompts that are in memory at once, drawn
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
LEAST_RANKED = 4  # rows: fewer have no rank correlation worth a number


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
    """A mean with its interval, over ``seeds`` seeds and ``prompts`` prompts; ``lo``, ``hi``: None of one prompt."""

    mean: float
    lo: float | None
    hi: float | None
    seeds: int
    prompts: int

    @property
    def resolvable(self) -> float | None:
        """Smallest true difference found with 80 % power at the 5 % level: 2.80 standard errors (normal)."""
        return None if self.lo is None else 2.80 * (self.hi - self.lo) / (2 * 1.96)


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


def _resampled(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """(R,) deviations of the mean of n - 1 draws from the mean of the n ``values``; zeros when n is 1."""
    n = len(values)
    if n == 1:
        return np.zeros(resamples)
    most = max(1, DRAWN // n)  # the same draws, some resamples after others
    sizes = [min(most, resamples - start) for start in range(0, resamples, most)]
    means = [values[rng.integers(n, size=(size, n - 1))].mean(axis=1) for size in sizes]
    return np.concatenate(means) - values.mean()


def estimate(cells: Cells, rng: np.random.Generator, by_category: bool = True, resamples: int = RESAMPLES) -> Estimate:
    """Mean with its stratified bootstrap percentile interval; ``by_category`` as in prompt_weights."""
    weights, prompt_means = prompt_weights(cells.tags, by_category), cells.values.mean(axis=0)
    by_seed, strata = cells.values @ weights, _strata(cells.tags)
    mean, sizes = float(by_seed.mean()), (len(cells.seeds), len(cells.prompts))
    if len(cells.prompts) == 1:
        return Estimate(mean, None, None, *sizes)
    same = np.ptp(by_seed) == 0 and all(np.ptp(prompt_means[inside]) == 0 for inside in strata)
    bounded = cells.within is not None and np.isfinite(cells.within).all()
    if same and bounded and cells.within[0] <= prompt_means.min() <= prompt_means.max() <= cells.within[1]:
        return Estimate(mean, *np.round(_agreeing(mean, weights, cells.within), 12).tolist(), *sizes)
    deviations = _resampled(by_seed, rng, resamples)
    for inside in strata:
        share = weights[inside] / weights[inside].sum()
        around = prompt_means[inside] - prompt_means[inside] @ share
        deviations += weights[inside].sum() * _resampled(share * len(share) * around, rng, resamples)
    lo, hi = mean + np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(lo), float(hi), *sizes)


def difference(a: Cells, b: Cells, one_for_all: bool = True) -> Cells:
    """Cells of a - b, paired by prompt and by seed; only seeds that both have take part. ``one_for_all``: a run with a
    single seed (a checkpoint that all others start from) is paired with every seed of the other; no interval then has
    its spread between seeds. Raises UserError when prompts differ or no seed is shared."""
    if a.prompts != b.prompts:
        odd = sorted(set(a.prompts) ^ set(b.prompts))
        raise UserError(f"scores: a paired difference needs the same prompts in both runs; unmatched: {odd[:3]}")
    if one_for_all and (len(a.seeds) == 1 or len(b.seeds) == 1):
        seeds = a.seeds if len(b.seeds) == 1 else b.seeds
        return Cells(a.values - b.values, seeds, a.prompts, a.tags, (-1.0, 1.0))
    seeds = tuple(s for s in a.seeds if s in b.seeds)
    if not seeds:
        raise UserError(f"scores: a paired difference needs a shared seed, found {a.seeds} and {b.seeds}")
    rows = [[c.seeds.index(s) for s in seeds] for c in (a, b)]
    return Cells(a.values[rows[0]] - b.values[rows[1]], seeds, a.prompts, a.tags, (-1.0, 1.0))


def improvement(a: Cells, b: Cells, rng: np.random.Generator) -> Estimate:
    """The chance that a seed of ``a`` beats a seed of ``b`` on a prompt, ties counting half: all pairs of seeds, mean
    over prompts, categories weighing equally; its interval covers prompts only (after Agarwal et al., 2021)."""
    if a.prompts != b.prompts:
        raise UserError("scores: a probability of improvement needs the same prompts in both runs")
    first, second = a.values[:, None], b.values[None]
    chances = ((first > second) + 0.5 * (first == second)).mean(axis=(0, 1))
    return estimate(Cells(chances[None], (0,), a.prompts, a.tags), rng)


def rank_correlation(
    a: Sequence[float], b: Sequence[float], rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float, float] | None:
    """Spearman's rank correlation of two columns of n numbers, and its bootstrap percentile interval over rows. None
    under LEAST_RANKED rows, or where a column is constant and has no order; a resample without order is left out."""
    a, b, n = np.asarray(a, dtype=float), np.asarray(b, dtype=float), len(a)
    if n < LEAST_RANKED or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    drawn = rng.integers(n, size=(resamples, n))
    lo, hi = np.nanquantile(_spearman(a[drawn], b[drawn]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(_spearman(a, b)), float(lo), float(hi)


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., n) twice -> (...): Pearson's correlation of the ranks, ties sharing theirs; NaN without an order."""
    from scipy.stats import rankdata  # takes longer to import than most tables to make

    a, b = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (a, b))
    squares = (a * a).sum(-1) * (b * b).sum(-1)
    return np.divide((a * b).sum(-1), np.sqrt(squares), out=np.full(squares.shape, np.nan), where=squares > 0)
