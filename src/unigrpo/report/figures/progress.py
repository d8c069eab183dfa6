"""The gold judge on validation prompts, which training never sees, against generated images: means over seeds of every
run, as long as all its seeds go on. A cross ends a run of which seeds collapsed. Runs that are trained without thinking
are validated without it, and start lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from unigrpo.core.lazy import lazy
from unigrpo.report.data import logs, results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import TRAINING, KindFacts

np = lazy("numpy")
FACTS = KindFacts("Progress of training", __doc__, **TRAINING)
COLUMNS = ["run", "seed", "kind", "update", "images", "metric", "value"]
LABEL_GAP = 0.072  # between labels, of the axis' height
LABEL_X = 1.07  # where labels begin, of the axis' width


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Heights in [0, 1] moved apart to at least ``gap``, each as near to its height as those below and above let it."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    highest = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed[np.argsort(order, kind="stable")]


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    folder = sources.folder
    data = logs.curve_data(spec["runs"], folder)
    data = data[(data["kind"] == "validation") & (data["metric"] == "gold")]
    figure, ((axis,),) = drawing.panels(1, 1, 3.6)
    labels = []
    for number, run in enumerate(spec["runs"]):
        look = drawing.look(number, "marker")
        _, mean = drawing.by_seed(data, run, "validation", "gold", "images")
        axis.plot(mean.index, mean, **drawing.look(number, "marker", "linestyle"), linewidth=1.3, markersize=3.5)
        if len(mean) and logs.fallen(run, folder):
            axis.plot(mean.index[-1], mean.iloc[-1], "x", color="#222222", markersize=9, markeredgewidth=1.6, zorder=5)
        end = (mean.index[-1], mean.iloc[-1]) if len(mean) else None
        labels.append((folder.label(run) + logs.fate(run, folder), look, end))
    axis.set(xlabel="generated images", ylabel="validation, gold judge")
    axis.margins(x=0.02)
    axis.autoscale_view()
    axis.autoscale(False)  # the lines to the labels leave the limits as they are
    to_axis = axis.transData + axis.transAxes.inverted()
    heights = [to_axis.transform(end)[1] if end else 0.0 for *_, end in labels]
    for (label, look, end), height in zip(labels, spread(heights, LABEL_GAP), strict=True):
        axis.text(LABEL_X + 0.035, height, label, transform=axis.transAxes, va="center", fontsize=7.5)
        if end:
            x, y = to_axis.transform(end)
            line = {"transform": axis.transAxes, "clip_on": False, "color": look["color"]}
            axis.plot([x, LABEL_X], [y, height], linewidth=0.5, linestyle=":", **line)
            axis.plot(LABEL_X + 0.015, height, linestyle="", marker=look["marker"], markersize=4.5, **line)
    return figure, data
