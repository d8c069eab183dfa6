"""A panel a category of GenEval, by the official verdict, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping

from unigrpo.report.data import results
from unigrpo.report.data.rows import Sources
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts(
    title="GenEval by category",
    caption="The six categories of GenEval of every run with 95 % intervals, by the official verdict; the bars "
    "are the paper's values.",
)
COLUMNS = ["run", "thinking", "metric", "value", "lo", "hi"]


def draw(spec: Mapping, sources: Sources) -> drawing.Drawn:
    rows, data = dot_plot.rows_of(spec, sources), []
    figure, axes = drawing.panels(2, 3, 1.0 + 2 * 0.16 * len(rows), sharex=True, sharey=True)
    for axis, tag in zip(axes.flat, results.CATEGORIES, strict=True):
        data += dot_plot.panel(axis, rows, sources, ("official",), tag, tag=tag, size=3.5, apart=0)
        axis.set_title(tag.replace("_", " "))
    axes[0, 0].set_xlim(0, 1.03)
    for axis in axes[:, 0]:
        dot_plot.names(axis, rows, sources)
        axis.tick_params(axis="y", labelsize=6.5)
    dot_plot.legend(figure, strict=False)
    return figure, data
