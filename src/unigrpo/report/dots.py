"""Figures of scores: a line a run and mode, our value with its interval beside the paper's.

* dots: TA and GenEval
* category_dots: the six categories of GenEval
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unigrpo.core.errors import UserError
from unigrpo.report.pictures import WIDTH
from unigrpo.report.results import CATEGORIES
from unigrpo.report.rows import Row, Sources

OURS, PAPER = "#08306b", "#c0392b"
COLUMNS = ["run", "thinking", "metric", "value", "lo", "hi"]
PANELS = (  # title, benchmark, metric of the filled dot, metric of the hollow one, the paper's column
    ("TA", "ta", "ta", None, "ta"),
    ("GenEval", "geneval", "official", "strict", "geneval"),
)


def _rows(spec: Mapping, sources: Sources) -> list[Row]:
    """The rows that are scored, and those of the paper that should be. Raises UserError where none is scored."""
    guidance = spec.get("guidance", "tuned")
    rows = [Row(run, thinking, guidance) for run in spec["runs"] for thinking in ("no", "yes")]
    scored = [row for row in rows if sources.scores.has(row.run, row.mode, guidance)]
    if not scored:
        raise UserError(f"scores: none of the runs {', '.join(spec['runs'])} is scored at guidance '{guidance}'")
    return [row for row in rows if row in scored or (row.run, row.thinking) in sources.paper.rows]


def _names(axis, rows: list[Row], sources: Sources) -> None:
    """Rows from top to bottom, with their names."""
    axis.set_yticks(range(len(rows)), [sources.name(row) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)


def _shade(axis, rows: list[Row]) -> None:
    """A band behind every second run, so that the eye keeps to a row."""
    runs = list(dict.fromkeys(row.run for row in rows))
    for y, row in enumerate(rows):
        if runs.index(row.run) % 2:
            axis.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
    axis.grid(axis="y", visible=False)


def _draw(axis, y: float, estimate, face: str, size: float) -> None:
    axis.plot([estimate.lo, estimate.hi], [y, y], color=OURS, linewidth=1.2)
    axis.plot(estimate.mean, y, "o", color=OURS, markerfacecolor=face, markersize=size)


def _draw_paper(axis, y: float, row: Row, column: str, sources: Sources, size: float) -> list[tuple]:
    """The paper's value as a bar, or that its run collapsed."""
    value = sources.paper.value(row.run, row.thinking, column)
    if value:
        axis.plot(float(value), y, marker="|", color=PAPER, markersize=size, markeredgewidth=2)
        return [(row.run, row.thinking, f"paper_{column}", float(value), None, None)]
    if sources.paper.value(row.run, row.thinking, "collapsed") == "yes":
        _say(axis, y, "paper: collapsed", color=PAPER)
    return []


def _say(axis, y: float, words: str, color: str) -> None:
    """Words at the left end of a row, where good values are not."""
    axis.text(0.02, y, words, transform=axis.get_yaxis_transform(), ha="left", va="center", fontsize=6, color=color)


def _legend(figure: Figure, strict: bool) -> None:
    circle = {"marker": "o", "color": OURS, "linewidth": 1.2, "markersize": 4.5}
    hollow = [Line2D([], [], **circle, markerfacecolor="white", label="ours, strict")] * strict
    bar = Line2D([], [], marker="|", color=PAPER, linestyle="", markersize=9, markeredgewidth=2, label="paper")
    key = [Line2D([], [], **circle, label="ours, 95 % interval"), *hollow, bar]
    figure.legend(handles=key, loc="outside lower center", ncols=len(key))


def dots(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """TA and GenEval, filled for the official verdict and hollow for the strict one."""
    rows = _rows(spec, sources)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.7 + 0.27 * len(rows)), sharey=True)
    data = []
    for axis, (title, benchmark, official, strict, column) in zip(axes, PANELS, strict=True):
        _shade(axis, rows)
        for y, row in enumerate(rows):
            for metric, face, shift in ((official, OURS, 0.0), (strict, "white", 0.25)):
                e = sources.estimate(row, benchmark, metric) if metric else None
                if e:
                    _draw(axis, y + shift, e, face, 4.5)
                    data.append((row.run, row.thinking, metric, e.mean, e.lo, e.hi))
            if not sources.scores.has(row.run, row.mode, row.guidance):
                _say(axis, y + 0.3, "ours: not available", OURS)
            data += _draw_paper(axis, y, row, column, sources, 9)
        axis.set(title=title)
        axis.set_xlim(right=1)
    _names(axes[0], rows, sources)
    _legend(figure, strict=True)
    return figure, pd.DataFrame(data, columns=COLUMNS)


def category_dots(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A panel a category of GenEval, by the official verdict."""
    rows = _rows(spec, sources)
    size = (WIDTH, 1.0 + 2 * 0.16 * len(rows))
    figure, axes = plt.subplots(2, 3, figsize=size, sharex=True, sharey=True)
    data = []
    for axis, tag in zip(axes.flat, CATEGORIES, strict=True):
        _shade(axis, rows)
        for y, row in enumerate(rows):
            e = sources.estimate(row, "geneval", "official", tag)
            if e:
                _draw(axis, y, e, OURS, 3.5)
                data.append((row.run, row.thinking, tag, e.mean, e.lo, e.hi))
            else:
                _say(axis, y, "ours: not available", OURS)
            data += _draw_paper(axis, y, row, tag, sources, 6)
        axis.set_title(tag.replace("_", " "))
    axes[0, 0].set_xlim(0, 1.03)
    for axis in axes[:, 0]:
        _names(axis, rows, sources)
        axis.tick_params(axis="y", labelsize=6.5)
    _legend(figure, strict=False)
    return figure, pd.DataFrame(data, columns=COLUMNS)
