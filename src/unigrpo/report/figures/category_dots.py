"""The six categories of GenEval of every run with 95 % intervals, by the official verdict; the bars are the paper's
values.
"""

from __future__ import annotations

from unigrpo.report.data import results
from unigrpo.report.data.results import Sources
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("GenEval by category", __doc__)
COLUMNS = ["run", "thinking", "metric", "value", "lo", "hi"]


def draw(spec: dict, sources: Sources) -> drawing.Drawn:
    panels = [(tag.replace("_", " "), ("official",), tag, tag) for tag in results.CATEGORIES]
    figure, axes, data = dot_plot.draw(spec, sources, panels, lines=2, height=(1.0, 2 * 0.16), sharex=True)
    axes[0, 0].set_xlim(0, 1.03)
    for axis in axes[:, 0]:
        axis.tick_params(axis="y", labelsize=6.5)
    return figure, data
