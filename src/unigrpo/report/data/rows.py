"""The rows of tables and figures, and the numbers that a row asks of the results. Loads nothing until it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from unigrpo.core import seeding
from unigrpo.report.data import results, stats
from unigrpo.study import resolve

Line = dict[str, object]
"""One row of a table's CSV: column -> value, None where not available."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a run, judged with (yes) or without (no) thinking at one guidance; both are empty where a
    table shows its training alone."""

    run: str
    thinking: str = ""
    guidance: str = ""

    @property
    def mode(self) -> str:
        return resolve.MODES[self.thinking]


@dataclass(frozen=True)
class Sources:
    """Everything a table is made from; no scores where it shows training alone."""

    scores: results.Scores | None
    paper: results.Paper
    folder: results.Folder

    def cells(self, row: Row, benchmark: str, metric: str) -> stats.Cells | None:
        return self.scores.cells(row.run, benchmark, row.mode, row.guidance, metric)

    def estimate(self, row: Row, benchmark: str, metric: str, tag: str | None = None) -> stats.Estimate | None:
        """The row's mean and interval; over one category where ``tag`` is given."""
        cells = self.cells(row, benchmark, metric)
        if cells is None or (tag and tag not in cells.tags):
            return None
        rng = seeding.numpy_generator(0, row.run, row.mode, row.guidance, benchmark, metric, tag or "")
        return stats.estimate(cells.only(tag) if tag else cells, rng, by_category=benchmark == "geneval")

    def gap(self, better: Row, row: Row, benchmark: str, metric: str, tag: str | None = None) -> stats.Estimate | None:
        """``better`` - ``row``, paired by prompt and seed, over one category where ``tag`` is given; None where either
        was not scored or no seed is shared.

        The only seed of a supervised run stands for all. One that is left of a reinforced run does not.
        """
        a, b = self.cells(better, benchmark, metric), self.cells(row, benchmark, metric)
        if a is None or b is None:
            return None
        left = any(self._is_reinforced(r.run) for r, c in ((better, a), (row, b)) if len(c.seeds) == 1)
        if left and not set(a.seeds) & set(b.seeds):
            return None
        names = (better.run, better.mode, row.run, row.mode, row.guidance, benchmark, metric, *([tag] if tag else []))
        rng, apart = seeding.numpy_generator(0, "gap", *names), stats.difference(a, b, one_for_all=not left)
        return stats.estimate(apart.only(tag) if tag else apart, rng, by_category=benchmark == "geneval")

    def _is_reinforced(self, run: str) -> bool:
        return self.folder.config(run).get("stage") == "rl"

    def name(self, row: Row) -> str:
        """The row in words."""
        return f"{self.folder.label(row.run)}{', thinking' if row.thinking == 'yes' else ''}"

    def cost(self, run: str) -> Line:
        """Training cost and number of collapsed seeds, from run.json; None without one. Of the seeds that were trained:
        mean model evaluations, median images and seconds."""
        records = self.folder.records(run)
        trained = [r for r in records if not r.get("not_trained")]
        evaluations, images, seconds = (
            [r[key] for r in trained if r.get(key) is not None]
            for key in ("model_evaluations", "images", "wall_seconds")
        )
        return {
            "model_evaluations": round(sum(evaluations) / len(evaluations)) if evaluations else None,
            "images": round(median(images)) if images else None,
            "wall_seconds": median(seconds) if seconds else None,
            "collapsed": sum(bool(r.get("collapsed")) for r in records) if records else None,
        }
