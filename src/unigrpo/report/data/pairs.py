"""Every row of a table less every other, on each of its benchmarks: the paired matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from unigrpo.report.data import stats
from unigrpo.report.data.results import Row, Sources

NOTE = (
    "Numbers are row minus column, paired by seed and prompt. A * marks those that differ from 0 after Holm's "
    "correction for all pairs of the matrix (5 %, each benchmark by itself). The CSV has the 95 % intervals, which are "
    "of one pair each, and the corrected p-values."
)


class Pair(NamedTuple):
    """A row less another: the estimate, None where they are not scored on shared seeds, and its p-value, corrected."""

    apart: stats.Estimate | None
    p: float | None

    @property
    def differs(self) -> bool:
        return self.p is not None and self.p < 1 - stats.LEVEL


def matrix(rows: Sequence[Row], benchmark: str, sources: Sources) -> dict[tuple[Row, Row], Pair]:
    """The first row of each key - the second, of the benchmark's headline, both ways."""
    if (key := (tuple(rows), benchmark)) in sources.memo:
        return sources.memo[key]
    metric = sources.benchmarks[benchmark].metrics[0]
    found = {pair: sources.gap(*pair, benchmark, metric) for pair in combinations(rows, 2)}
    tested = {pair: e.p for pair, e in found.items() if e and e.p is not None}
    corrected = dict(zip(tested, stats.holm(list(tested.values())), strict=True))
    pairs = {pair: Pair(e, corrected.get(pair)) for pair, e in found.items()}
    sources.memo[key] = pairs | {(b, a): Pair(pair.apart and -pair.apart, pair.p) for (a, b), pair in pairs.items()}
    return sources.memo[key]
