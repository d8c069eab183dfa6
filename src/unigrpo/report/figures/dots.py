"""The benchmarks' scores of every run with 95 % intervals, filled for the headline and hollow for the metric shown
next; the bars are the paper's values. With ``categories``, those of one benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.core import errors
from unigrpo.report.data import results
from unigrpo.report.data.phrases import MISSING
from unigrpo.report.pages import drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Scores", __doc__)
COLUMNS = ["run", "thinking", "benchmark", "metric", "value", "lo", "hi"]
LINE = 3  # categories beside each other


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    """Rows are those that are scored, and those of the paper that should be. Raises UserError where none is scored."""
    guidance, data, tags = spec.get("guidance", "tuned"), [], spec.get("categories", ())
    rows = [results.Row(run, thinking, guidance) for run in spec["runs"] for thinking in ("no", "yes")]
    scored = [row for row in rows if sources.scores.has(row)]
    if not scored:
        runs = ", ".join(spec["runs"])
        raise errors.UserError(f"scores: none of the runs {runs} is scored at guidance '{guidance}'")
    rows = [row for row in rows if row in scored or (row.run, row.thinking) in sources.paper.rows]
    panels = [(b.label, name, b.metrics[:2], None) for name, b in sources.benchmarks.items()]
    if tags:
        name, benchmark = sources.divided()
        panels = [(tag.replace("_", " "), name, benchmark.metrics[:1], tag) for tag in tags]
    lines = -(-len(panels) // LINE) if tags else 1
    height = 1.0 + lines * 0.16 * len(rows) if tags else 0.7 + 0.27 * len(rows)
    figure, axes = drawing.panels(lines, -(-len(panels) // lines), height, sharey=True, sharex=bool(tags))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, *shown) in zip(axes.flat, panels, strict=False):
        data += _panel(axis, rows, sources, *shown)
        axis.set_title(title)
        if sources.benchmarks[shown[0]].verdict:
            axis.set_xlim(*(0, 1.03) if tags else (None, 1))
    for axis in axes[:, 0] if tags else ():
        axis.tick_params(axis="y", labelsize=6.5)
    axes[0, 0].set_yticks(range(len(rows)), [sources.name(row) for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    circle = {"marker": "o", "color": drawing.DARK, "linewidth": 1.2, "markersize": 4.5}
    key = [drawing.key("ours, 95 % interval (with one seed: prompts only)", **circle)]
    if seconds := dict.fromkeys(metric for _, _, metrics, _ in panels for metric in metrics[1:]):
        key.append(drawing.key(f"ours, {' or '.join(seconds)}", **circle, markerfacecolor="white"))
    bar = {"marker": "|", "linestyle": "", "markersize": 9, "markeredgewidth": 2}
    drawing.legend(figure, [*key, drawing.key("paper", color=drawing.RED, **bar)])
    return figure, data


def _panel(
    axis, rows: Sequence[results.Row], sources: results.Sources, name: str, metrics: Sequence[str], tag: str | None
) -> list:
    """Dots of these metrics of the benchmark ``name`` beside the paper's, smaller for a category; rows of the CSV."""
    data, runs = [], list(dict.fromkeys(row.run for row in rows))
    marks = ((drawing.DARK, 0.0), ("white", 0.25))  # face and shift of the headline's dot, and of a second metric's
    column, size = tag or name, 3.5 if tag else 4.5
    axis.grid(axis="y", visible=False)
    for y, row in enumerate(rows):
        if runs.index(row.run) % 2:  # a band behind every second run, so that the eye keeps to a row
            axis.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
        found = {metric: sources.estimate(row, name, metric, tag) for metric in metrics}
        for (metric, e), (face, shift) in zip(found.items(), marks, strict=False):
            if e:
                axis.plot([e.lo, e.hi], [y + shift, y + shift], color=drawing.DARK, linewidth=1.2)
                axis.plot(e.mean, y + shift, "o", color=drawing.DARK, markerfacecolor=face, markersize=size)
                data.append((row.run, row.thinking, name, tag or metric, e.mean, e.lo, e.hi))
        if not any(found.values()):
            _say(axis, y if tag else y + 0.3, f"ours: {MISSING}", drawing.DARK)
        if name not in sources.in_paper():
            continue
        if value := sources.paper.value(row.run, row.thinking, column):
            axis.plot(float(value), y, marker="|", color=drawing.RED, markersize=6 if tag else 9, markeredgewidth=2)
            data.append((row.run, row.thinking, name, f"paper_{column}", float(value), None, None))
        elif sources.paper.value(row.run, row.thinking, "collapsed") == "yes":
            _say(axis, y, "paper: collapsed", drawing.RED)
    return data


def _say(axis, y: float, words: str, color: str) -> None:
    """Words at the left end of a row, where good values are not."""
    axis.text(0.02, y, words, transform=axis.get_yaxis_transform(), ha="left", va="center", fontsize=6, color=color)
