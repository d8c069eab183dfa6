"""TA and GenEval of every run with 95 % intervals, filled for the official verdict and hollow for the strict one; the
bars are the paper's values.
"""

from __future__ import annotations

from unigrpo.report.data.results import Sources
from unigrpo.report.pages import dot_plot, drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Text alignment and GenEval", __doc__)
COLUMNS = ["run", "thinking", "metric", "value", "lo", "hi"]
PANELS = (("TA", ("ta",), "ta", None), ("GenEval", ("official", "strict"), "geneval", None))


def draw(spec: dict, sources: Sources) -> drawing.Drawn:
    figure, axes, data = dot_plot.draw(spec, sources, PANELS, lines=1, height=(0.7, 0.27))
    for axis in axes.flat:
        axis.set_xlim(right=1)
    return figure, data
