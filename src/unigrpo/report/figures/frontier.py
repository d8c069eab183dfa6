"""Gold and artefacts at the end of training against the velocity MSE from the start, a marker a method or regulariser,
the weights that were tried joined in their order (the paper's Figure 5 as numbers). Intervals are over seeds and
prompts; the dotted line is where all started.
"""

from __future__ import annotations

import re

from unigrpo.core import errors
from unigrpo.core.lazy import lazy
from unigrpo.report.data import lines, logs, results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import TRAINING, KindFacts

pandas = lazy("pandas")
FACTS = KindFacts("What was reached, and how far the policy moved", __doc__, **TRAINING)
PANELS = {"gold": "validation, gold judge", "artefact": "artefacts, share of the image"}
SWEPT = re.compile(r", \w+ [-+.\de]+$")  # what a sweep adds to the label of its runs
COLUMNS = ["run", "series", "regulariser", "weight", "seeds", "drift"]
COLUMNS += [f"{metric}{end}" for metric in PANELS for end in ("", "_lo", "_hi")]
FEW = 6  # series whose weights have room beside their points


def point(found: logs.Course, folder: results.Folder) -> results.Line:
    """A run's line of the CSV; drift is that at the end, mean over seeds. Raises UserError where none has it."""
    if (drift := logs.drift_at_end(found, folder)) is None:
        where = folder.root / "runs" / found.run
        raise errors.UserError(f"{where}: no seed has a validation with its drift in metrics.jsonl")
    anchor = logs.anchor(folder.config(found.run))
    line = {"run": found.run, "series": SWEPT.sub("", folder.label(found.run))}
    line |= {"regulariser": anchor.kind, "weight": anchor.weight}
    line |= {"seeds": len(found.seeds), "drift": drift}
    for metric in PANELS:
        line |= lines.columns(metric, logs.at_end(found, metric))
    return line


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    courses = logs.courses(spec["runs"], sources.folder)
    data = pandas.DataFrame([point(found, sources.folder) for found in courses.values() if found])
    missing = [sources.folder.label(run) for run, found in courses.items() if found is None]
    first = courses[data["run"][0]]
    named = data["series"].unique()
    figure, (axes,) = drawing.panels(1, len(PANELS), 2.5 + 0.2 * -(-len(named) // 3))
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        axis.axhline(first.means[metric][:, 0].mean(), color=drawing.GREY, linewidth=0.8, linestyle=":")
        for number, series in enumerate(named):
            _draw_weights(axis, data[data["series"] == series].sort_values("weight"), metric, number, len(named) <= FEW)
        axis.set(title=title, xscale="log", xlabel="velocity MSE from the start")
    note = (
        "numbers: weights; " * (len(named) <= FEW)
        + "dotted: the start"
        + (f"; not available: {', '.join(missing)}" if missing else "")
    )
    drawing.legend(figure, axes[0].get_legend_handles_labels()[0], 3, title=note, title_fontsize=6.5)
    return figure, data


def _draw_weights(axis, tried: pandas.DataFrame, metric: str, number: int, numbers: bool) -> None:
    """The weights of one series, joined, with their ``numbers``; intervals where there are several seeds."""
    look, color = drawing.look(number, "marker", "linestyle"), drawing.look(number)["color"]
    axis.plot(tried["drift"], tried[metric], linewidth=1, markersize=5, label=tried["series"].iloc[0], **look)
    for _, row in tried.iterrows():
        if row["seeds"] > 1:
            ends = [row[f"{metric}_lo"], row[f"{metric}_hi"]]
            axis.plot([row["drift"]] * 2, ends, color=color, linewidth=0.8)
        if numbers and pandas.notna(row["weight"]):
            axis.annotate(f"{row['weight']:g}", (row["drift"], row[metric]), xytext=(4, 4 - 12 * (number % 2)),
                          textcoords="offset points", fontsize=5.5, color=color)  # fmt: skip
