"""Scores as dots: a line a run and mode, our value with its interval beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from unigrpo.core.errors import UserError
from unigrpo.report.data.phrases import MISSING
from unigrpo.report.data.rows import Row, Sources
from unigrpo.report.pages import drawing

OURS, PAPER = drawing.DARK, drawing.RED
MARKS = {"official": (OURS, 0.0), "ta": (OURS, 0.0), "strict": ("white", 0.25)}  # metric -> face and shift of its dot


def rows_of(spec: Mapping, sources: Sources) -> list[Row]:
    """The rows that are scored, and those of the paper that should be. Raises UserError where none is scored."""
    guidance = spec.get("guidance", "tuned")
    rows = [Row(run, thinking, guidance) for run in spec["runs"] for thinking in ("no", "yes")]
    scored = [row for row in rows if sources.scores.has(row.run, row.mode, guidance)]
    if not scored:
        raise UserError(f"scores: none of the runs {', '.join(spec['runs'])} is scored at guidance '{guidance}'")
    return [row for row in rows if row in scored or (row.run, row.thinking) in sources.paper.rows]


def names(axis, rows: Sequence[Row], sources: Sources) -> None:
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


def panel(
    axis, rows: Sequence[Row], sources: Sources, metrics: Sequence[str], column: str, *, tag=None, size=4.5, apart=0.3
) -> list[tuple]:
    """Dots of these metrics, of GenEval's category ``tag`` where it is given, beside the paper's ``column``; ``apart``
    is how far below the row's middle it says that ours is missing. Returns the rows of the CSV."""
    data = []
    _shade(axis, rows)
    for y, row in enumerate(rows):
        benchmark = "ta" if "ta" in metrics else "geneval"
        found = {metric: sources.estimate(row, benchmark, metric, tag) for metric in metrics}
        for metric, e in found.items():
            if e:
                face, shift = MARKS[metric]
                axis.plot([e.lo, e.hi], [y + shift, y + shift], color=OURS, linewidth=1.2)
                axis.plot(e.mean, y + shift, "o", color=OURS, markerfacecolor=face, markersize=size)
                data.append((row.run, row.thinking, tag or metric, e.mean, e.lo, e.hi))
        if not any(found.values()):
            _say(axis, y + apart, f"ours: {MISSING}", OURS)
        data += _draw_paper(axis, y, row, column, sources, 2 * size if tag is None else 6)
    return data


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


def legend(figure: Figure, strict: bool) -> None:
    """The key of the dots, hollow ones where there are ``strict`` ones, and of the paper's bars."""
    circle = {"marker": "o", "color": OURS, "linewidth": 1.2, "markersize": 4.5}
    entries = [drawing.key("ours, 95 % interval", **circle)]
    entries += [drawing.key("ours, strict", **circle, markerfacecolor="white")] * strict
    bar = {"marker": "|", "linestyle": "", "markersize": 9, "markeredgewidth": 2}
    drawing.legend(figure, [*entries, drawing.key("paper", color=PAPER, **bar)])
