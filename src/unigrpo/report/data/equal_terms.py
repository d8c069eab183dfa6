"""Regularisers at equal terms: what each reaches where the reward trained on, or the drift, is the same.

A regulariser is tried at several weights. At each replicate its outcome y is drawn over x, by straight lines between
its weights in the order of x, and two regularisers are compared by the mean difference of their lines over the range of
x that both have. That is linear in the outcomes, so prompts keep their values, and intervals are those of paired cells.
"""

from collections.abc import Sequence

import numpy as np

from unigrpo.report.data import logs
from unigrpo.report.data.logs import Course
from unigrpo.report.data.results import Folder
from unigrpo.report.data.stats import Cells

PART = 1 / 2  # of a course, its last, over which x and y are averaged
AT = {"proxy": "proxy", "drift": "log10 drift"}


def shares(x: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """(W,) weights that sum to 1: with the y of W points, their dot product is the mean over [lo, hi] of the line
    through (x, y). ``lo`` and ``hi`` lie within the range of x (W,)."""
    order = np.argsort(x)
    knots = np.unique([lo, *x[(x > lo) & (x < hi)], hi])
    lines = np.array([np.interp(knots, x[order], unit) for unit in np.eye(len(x))[:, order]])  # (W, knots)
    return lines.mean(1) if hi == lo else np.trapezoid(lines, knots) / (hi - lo)


def at_equal(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """First regulariser - second at equal x: (K, P), and the common ranges (K, 2). ``x`` are (W, K) of each, W its
    weights and K replicates, ``y`` (W, K, P). Both are NaN at a replicate without a common range."""
    ranges = np.stack([np.max([each.min(0) for each in x], 0), np.min([each.max(0) for each in x], 0)], axis=1)
    ranges[ranges[:, 0] > ranges[:, 1]] = np.nan
    apart = np.full(y[0].shape[1:], np.nan)
    for k, (lo, hi) in enumerate(ranges):
        if lo <= hi:
            one, other = (shares(each[:, k], lo, hi) @ values[:, k] for each, values in zip(x, y, strict=True))
            apart[k] = one - other
    return apart, ranges


def by_weight(runs: Sequence[str], folder: Folder) -> dict[str, list[str]]:
    """The runs that differ in the weight of their regulariser alone, by the label of the first without its weight."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for run in runs:
        config = folder.config(run)
        anchor = logs.anchor(config)
        same = str({name: value for name, value in config["rl"].items() if name != anchor.setting})
        label = folder.label(run).removesuffix(f", {anchor.setting} {anchor.weight:g}" if anchor.setting else "")
        groups.setdefault(same, (label, []))[1].append(run)
    return dict(groups.values())


def compared(
    a: Sequence[Course], b: Sequence[Course], at: str, metric: str, folder: Folder
) -> tuple[Cells | None, np.ndarray]:
    """Runs ``a``, the weights of one regulariser, - ``b``, those of another, at equal ``at`` (of AT), over the last
    half of the course and the seeds that all have: cells of those with a common range, and the ranges (K, 2)."""
    courses, seeds = [*a, *b], sorted(set.intersection(*(set(c.seeds) for c in (*a, *b))))
    if not seeds or any(metric not in c.values for c in courses):
        return None, np.empty((0, 2))
    terms, outcomes = [], []
    for c in courses:
        rows, late = [c.seeds.index(seed) for seed in seeds], c.late(PART)
        x = c.means["proxy"] if at == "proxy" else np.log10(logs.drifts(c, folder))
        terms.append(x[rows][:, late].mean(1))
        outcomes.append(c.end(metric, PART).values[rows])
    x, y = ((np.array(each[: len(a)]), np.array(each[len(a) :])) for each in (terms, outcomes))
    apart, ranges = at_equal(x, y)
    kept = ~np.isnan(ranges[:, 0])
    cells = (
        Cells(apart[kept], tuple(np.array(seeds)[kept].tolist()), a[0].prompts, a[0].tags, None) if kept.any() else None
    )
    return cells, ranges
