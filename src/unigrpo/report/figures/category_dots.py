"""The categories of a benchmark of every run with 95 % intervals; the bars are the paper's values."""

from __future__ import annotations

from unigrpo.report.data import results
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Scores by category", __doc__)
COLUMNS = ["run", "thinking", "benchmark", "metric", "value", "lo", "hi"]
LINE = 3  # panels beside each other


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    name, benchmark = sources.divided()
    panels = [(tag.replace("_", " "), name, benchmark.metrics[:1], tag) for tag in benchmark.categories()]
    lines = -(-len(panels) // LINE)
    figure, axes, data = dot_plot.draw(spec, sources, panels, lines, (1.0, lines * 0.16), sharex=True)
    axes[0, 0].set_xlim(0, 1.03)
    for axis in axes[:, 0]:
        axis.tick_params(axis="y", labelsize=6.5)
    return figure, data
