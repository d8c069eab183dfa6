"""The rows of tables and figures, and the numbers that a row asks of the results."""

from __future__ import annotations

from dataclasses import dataclass

from unigrpo.report.results import MODES, Folder, Paper, Scores
from unigrpo.report.stats import Cells, Estimate, difference, estimate
from unigrpo.seeding import numpy_generator


@dataclass(frozen=True)
class Row:
    """One line of a table: a run, judged with (yes) or without (no) thinking at one guidance."""

    run: str
    thinking: str
    guidance: str

    @property
    def mode(self) -> str:
        return MODES[self.thinking]


@dataclass(frozen=True)
class Sources:
    """Everything a table is made from."""

    scores: Scores
    paper: Paper
    folder: Folder

    def cells(self, row: Row, benchmark: str, metric: str) -> Cells | None:
        return self.scores.cells(row.run, benchmark, row.mode, row.guidance, metric)

    def estimate(self, row: Row, benchmark: str, metric: str, tag: str | None = None) -> Estimate | None:
        """The row's mean and interval; over one category where ``tag`` is given."""
        cells = self.cells(row, benchmark, metric)
        if cells is None or (tag and tag not in cells.tags):
            return None
        rng = numpy_generator(0, row.run, row.mode, row.guidance, benchmark, metric, tag or "")
        return estimate(cells.only(tag) if tag else cells, rng, by_category=benchmark == "geneval")

    def gap(self, better: Row, row: Row, benchmark: str, metric: str) -> Estimate | None:
        """``better`` - ``row``, paired by prompt and seed; None where either was not scored."""
        a, b = self.cells(better, benchmark, metric), self.cells(row, benchmark, metric)
        if a is None or b is None:
            return None
        rng = numpy_generator(0, "gap", better.run, better.mode, row.run, row.mode, row.guidance, benchmark, metric)
        return estimate(difference(a, b), rng, by_category=benchmark == "geneval")

    def name(self, row: Row) -> str:
        """The row in words."""
        return f"{self.folder.label(row.run)}{', thinking' if row.thinking == 'yes' else ''}"

    def cost(self, run: str) -> dict:
        """Training cost and number of collapsed seeds, from run.json; empty without one."""
        records = self.folder.records(run)
        evaluations = [r["model_evaluations"] for r in records if r.get("model_evaluations") is not None]
        return {
            "model_evaluations": round(sum(evaluations) / len(evaluations)) if evaluations else None,
            "collapsed": sum(bool(r.get("collapsed")) for r in records) if records else None,
        }
