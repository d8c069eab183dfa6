"""The arithmetic of rule.md: differences and their errors -> answers -> a verdict.

Arrays are (m, ...): the m comparisons of a claim, and one study or, in tests, thousands of simulated ones. ``mean``,
``error``, ``df`` are those of ``stats.Estimate``; NaN where there is no interval, which leaves a comparison undecided.
"""

import numpy as np

from unigrpo.core.lazy import lazy

special = lazy("scipy.special")
FRACTION = 1 / 8  # of the largest gain: half of the smallest, 0.25, on which a claim of the paper's tables rests
ALPHA = 0.025  # on either side of a 95 % interval
NO, UNDECIDED, YES = -1, 0, 1


def _p(distance: np.ndarray, error: np.ndarray, df: np.ndarray) -> np.ndarray:
    """One-sided p-value that a ``distance`` is above 0; NaN where both it and its error are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return special.stdtr(df, -np.round(distance, 9) / error)


def margin(mean: np.ndarray, error: np.ndarray, df: np.ndarray) -> np.ndarray:
    """The smallest difference that matters, (...), of gains (m, ...): FRACTION of the largest; 0 where this is within
    noise, the chance to be the largest of m included (Bonferroni)."""
    best = np.argmax(mean, axis=0)[None]
    largest, error, df = (np.take_along_axis(each, best, 0)[0] for each in (mean, error, df))
    return np.where(_p(largest, error, df) < ALPHA / len(mean), FRACTION * largest, 0.0)


def holm(p: np.ndarray) -> np.ndarray:
    """Which of the m p-values (m, ...) are below ALPHA by Holm's correction (1979) over the m."""
    order, left = np.argsort(p, axis=0), np.arange(len(p), 0, -1).reshape(-1, *[1] * (p.ndim - 1))
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, 0) < ALPHA / left, axis=0)
    return np.take_along_axis(passed, np.argsort(order, axis=0), 0)


def answers(
    mean: np.ndarray, error: np.ndarray, df: np.ndarray, margin: np.ndarray, gain: np.ndarray | bool, enough: int = NO
) -> np.ndarray:
    """What each comparison says of a ``gain``, or where none is claimed of no loss. ``enough``: the answer of which one
    is enough for a verdict, so that it is corrected over the comparisons."""
    p_yes = _p(mean + np.where(gain, 0.0, margin), error, df)
    p_no = _p(np.where(gain, margin, -margin) - mean, error, df)
    yes, no = (holm(p) if corrected else p < ALPHA for p, corrected in ((p_yes, enough == YES), (p_no, enough == NO)))
    large = ~np.asarray(gain) | (np.round(mean - margin, 9) >= 0)
    return np.where(yes & large, YES, np.where(no, NO, UNDECIDED))


def every_one(answers: np.ndarray) -> np.ndarray:
    """The verdict (...) on a claim that needs every comparison: as the worst answer (m, ...)."""
    return np.min(answers, axis=0)


def not_every_one(answers: np.ndarray) -> np.ndarray:
    """On a claim that denies that every comparison is a gain."""
    return -every_one(answers)


def any_one(answers: np.ndarray) -> np.ndarray:
    """On a claim that one comparison is enough for."""
    return np.max(answers, axis=0)
