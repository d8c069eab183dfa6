"""Scores as dots: a line a run and mode, our value with its interval beside the paper's."""

from collections.abc import Mapping, Sequence

from unigrpo.core.errors import UserError
from unigrpo.report.data.phrases import MISSING
from unigrpo.report.data.results import Row, Sources
from unigrpo.report.pages import drawing

OURS, PAPER = drawing.DARK, drawing.RED
MARKS = ((OURS, 0.0), ("white", 0.25))  # face and shift of the dot of the headline, and of a second metric


def draw(spec: Mapping, sources: Sources, panels: Sequence[tuple], lines: int, height: Sequence[float], **shared):
    """The figure, its axes (``lines``, columns) and the rows of its CSV; ``panels`` are (title, benchmark, one or two
    metrics, category or None), ``height`` is that of an empty figure and that of a row, in inches. Rows are those that
    are scored, and those of the paper that should be. Raises UserError where none is scored."""
    guidance, data = spec.get("guidance", "tuned"), []
    rows = [Row(run, thinking, guidance) for run in spec["runs"] for thinking in ("no", "yes")]
    scored = [row for row in rows if sources.scores.has(row)]
    if not scored:
        raise UserError(f"scores: none of the runs {', '.join(spec['runs'])} is scored at guidance '{guidance}'")
    rows = [row for row in rows if row in scored or (row.run, row.thinking) in sources.paper.rows]
    total = height[0] + height[1] * len(rows)
    figure, axes = drawing.panels(lines, -(-len(panels) // lines), total, sharey=True, **shared)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, *shown) in zip(axes.flat, panels, strict=False):
        data += _panel(axis, rows, sources, *shown)
        axis.set_title(title)
    axes[0, 0].set_yticks(range(len(rows)), [sources.name(row) for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    circle = {"marker": "o", "color": OURS, "linewidth": 1.2, "markersize": 4.5}
    key = [drawing.key("ours, 95 % interval (with one seed: prompts only)", **circle)]
    seconds = dict.fromkeys(metric for _, _, metrics, _ in panels for metric in metrics[1:])
    if seconds:
        key.append(drawing.key(f"ours, {' or '.join(seconds)}", **circle, markerfacecolor="white"))
    bar = {"marker": "|", "linestyle": "", "markersize": 9, "markeredgewidth": 2}
    drawing.legend(figure, [*key, drawing.key("paper", color=PAPER, **bar)])
    return figure, axes, data


def _panel(axis, rows: Sequence[Row], sources: Sources, name: str, metrics: Sequence[str], tag: str | None) -> list:
    """Dots of these metrics of the benchmark ``name`` beside the paper's, smaller for a category; rows of the CSV."""
    data, runs = [], list(dict.fromkeys(row.run for row in rows))
    column, size = tag or name, 3.5 if tag else 4.5
    axis.grid(axis="y", visible=False)
    for y, row in enumerate(rows):
        if runs.index(row.run) % 2:  # a band behind every second run, so that the eye keeps to a row
            axis.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
        found = {metric: sources.estimate(row, name, metric, tag) for metric in metrics}
        for (metric, e), (face, shift) in zip(found.items(), MARKS, strict=False):
            if e:
                axis.plot([e.lo, e.hi], [y + shift, y + shift], color=OURS, linewidth=1.2)
                axis.plot(e.mean, y + shift, "o", color=OURS, markerfacecolor=face, markersize=size)
                data.append((row.run, row.thinking, name, tag or metric, e.mean, e.lo, e.hi))
        if not any(found.values()):
            _say(axis, y if tag else y + 0.3, f"ours: {MISSING}", OURS)
        if name not in sources.in_paper():
            continue
        if value := sources.paper.value(row.run, row.thinking, column):
            axis.plot(float(value), y, marker="|", color=PAPER, markersize=6 if tag else 9, markeredgewidth=2)
            data.append((row.run, row.thinking, name, f"paper_{column}", float(value), None, None))
        elif sources.paper.value(row.run, row.thinking, "collapsed") == "yes":
            _say(axis, y, "paper: collapsed", PAPER)
    return data


def _say(axis, y: float, words: str, color: str) -> None:
    """Words at the left end of a row, where good values are not."""
    axis.text(0.02, y, words, transform=axis.get_yaxis_transform(), ha="left", va="center", fontsize=6, color=color)
