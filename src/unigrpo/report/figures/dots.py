"""The benchmarks' scores of every run with 95 % intervals, filled for the headline and hollow for the metric shown
next; the bars are the paper's values.
"""

from __future__ import annotations

from unigrpo.report.data import results
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Scores", __doc__)
COLUMNS = ["run", "thinking", "benchmark", "metric", "value", "lo", "hi"]


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    panels = [(b.label, name, b.metrics[:2], None) for name, b in sources.benchmarks.items()]
    figure, axes, data = dot_plot.draw(spec, sources, panels, 1, (0.7, 0.27))
    for axis, benchmark in zip(axes.flat, sources.benchmarks.values(), strict=True):
        if benchmark.verdict:
            axis.set_xlim(right=1)
    return figure, data
