"""TA and GenEval of every row beside the paper's, filled for the official verdict and hollow for the strict one."""

from __future__ import annotations

from collections.abc import Mapping

from unigrpo.report.data.rows import Sources
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts(
    title="Text alignment and GenEval",
    caption="TA and GenEval of every run with 95 % intervals, filled for the official verdict and hollow for the "
    "strict one; the bars are the paper's values.",
)
COLUMNS = ["run", "thinking", "metric", "value", "lo", "hi"]
PANELS = {"TA": (("ta",), "ta"), "GenEval": (("official", "strict"), "geneval")}  # title -> metrics, paper's column


def draw(spec: Mapping, sources: Sources) -> drawing.Drawn:
    rows, data = dot_plot.rows_of(spec, sources), []
    figure, (axes,) = drawing.panels(1, 2, 0.7 + 0.27 * len(rows), sharey=True)
    for axis, (title, shown) in zip(axes, PANELS.items(), strict=True):
        data += dot_plot.panel(axis, rows, sources, *shown)
        axis.set(title=title)
        axis.set_xlim(right=1)
    dot_plot.names(axes[0], rows, sources)
    dot_plot.legend(figure, strict=True)
    return figure, data
