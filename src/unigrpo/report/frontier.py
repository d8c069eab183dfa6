"""The frontier of regularisers: what was reached against how far the policy moved, for every weight that was tried.

Distance is one yardstick for all, the velocity MSE from where the run started (drift.py); gold and artefacts are those
of the last validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from unigrpo.core.errors import UserError
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.courses import COLORS, MARKERS, STYLES
from unigrpo.report.pictures import WIDTH
from unigrpo.report.regularisers import KINDS, NONE, regulariser
from unigrpo.report.results import Folder
from unigrpo.report.rows import Sources
from unigrpo.report.stats import estimate
from unigrpo.report.validations import course

PANELS = (("gold", "validation, gold judge"), ("artefact", "artefacts, share of the image"))
COLUMNS = [
    "run",
    "regulariser",
    "weight",
    "seeds",
    "drift",
    *(f"{m}{s}" for m, _ in PANELS for s in ("", "_lo", "_hi")),
]


def last_drift(run: str, folder: Folder) -> float:
    """Velocity MSE from the start at the last validation, mean over seeds. Raises UserError where none has it."""
    found = []
    for rows in folder.metrics(run).values():
        drifts = [row["drift"] for _, row in rows if row.get("kind") == "validation" and "drift" in row]
        found += drifts[-1:]
    if not found:
        raise UserError(f"{folder.root / 'runs' / run}: no seed has a validation with its drift in metrics.jsonl")
    return mean(found)


def points(runs: list[str], folder: Folder) -> pd.DataFrame:
    """A line a run that was validated, in COLUMNS."""
    lines = []
    for run in runs:
        found = course(run, folder)
        if found is None:
            continue
        held = regulariser(folder.config(run))
        line = [run, held.kind, held.weight, len(found.seeds), last_drift(run, folder)]
        for metric, _ in PANELS:
            e = estimate(found.cells(metric, -1), numpy_generator(0, "frontier", run, metric))
            line += [e.mean, e.lo, e.hi]
        lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def frontier(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A panel a metric; a marker a regulariser, its weights joined in their order. Intervals where there are several
    seeds; the dotted line is where all started."""
    data = points(spec["runs"], sources.folder)
    missing = [sources.folder.label(run) for run in spec["runs"] if run not in set(data["run"])]
    if data.empty:
        raise UserError(f"{sources.folder.root / 'runs'}: none of {', '.join(spec['runs'])} has validation records")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(WIDTH, 3.1))
    for axis, (metric, title) in zip(axes, PANELS, strict=True):
        start = course(data["run"][0], sources.folder).means[metric][:, 0].mean()
        axis.axhline(start, color="#444444", linewidth=0.8, linestyle=":")
        for number, kind in enumerate(KINDS):
            tried = data[data["regulariser"] == kind].sort_values("weight")
            if tried.empty:
                continue
            look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number]}
            axis.plot(tried["drift"], tried[metric], linestyle=STYLES[number % len(STYLES)], linewidth=1,
                      markersize=5, label=kind, **look)  # fmt: skip
            for _, row in tried.iterrows():
                if row["seeds"] > 1:
                    axis.plot(
                        [row["drift"]] * 2,
                        [row[f"{metric}_lo"], row[f"{metric}_hi"]],
                        color=look["color"],
                        linewidth=0.8,
                    )
                if kind != NONE:
                    axis.annotate(f"{row['weight']:g}", (row["drift"], row[metric]), xytext=(4, 4 - 12 * (number % 2)),
                                  textcoords="offset points", fontsize=5.5, color=look["color"])  # fmt: skip
        axis.set(title=title, xscale="log", xlabel="velocity MSE from the start")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title=_note(missing), title_fontsize=6.5)
    return figure, data


def _note(missing: list[str]) -> str:
    told = "numbers: weights; dotted: the start"
    return told + (f"; not available: {', '.join(missing)}" if missing else "")
