"""Figures of training: how rewards went.

* curves (Figure 3): a panel a reward, one line a run, against gradient updates
* progress: the gold judge of many runs against generated images, means over seeds, each line named at its end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unigrpo.core.errors import UserError
from unigrpo.report.pictures import WIDTH
from unigrpo.report.results import Folder
from unigrpo.report.rows import Sources

# Apart in hue and in lightness, so that greyscale keeps them apart; line styles or markers say the same again.
COLORS = ("#08306b", "#c0392b", "#f0a830", "#5b8c5a", "#9b7fb8", "#8c8c8c")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "h", ">", "p", "d", "*")
PANELS = (  # title, kind of row in metrics.jsonl, metric
    ("training reward", "train", "proxy"),
    ("validation reward", "validation", "proxy"),
    ("validation, gold judge", "validation", "gold"),
)


def curve_data(runs: Sequence[str], folder: Folder) -> pd.DataFrame:
    """metrics.jsonl of all seeds of these runs -> run, seed, kind, update, images, metric, value; none of a seed that
    was not trained."""
    rows = []
    for run in runs:
        seeds = folder.metrics(run)
        if not seeds:
            raise UserError(f"{folder.root / 'runs' / run}: no seed folder with a metrics.jsonl; train the run first")
        for seed, lines in seeds.items():
            for where, row in lines:
                for metric in ("proxy", "gold"):
                    if row.get(metric) is None:
                        continue
                    if not {"kind", "update", "images"} <= row.keys():
                        raise UserError(f"{where}: expected 'kind', 'update' and 'images' beside '{metric}'")
                    rows.append((run, seed, row["kind"], row["update"], row["images"], metric, row[metric]))
    return pd.DataFrame(rows, columns=["run", "seed", "kind", "update", "images", "metric", "value"])


def fallen(run: str, folder: Folder) -> list[int]:
    """The seeds that collapsed."""
    return [record["seed"] for record in folder.records(run) if record.get("collapsed")]


def fate(run: str, folder: Folder) -> str:
    """How many seeds collapsed and were not trained, in words; '' where all went well."""
    records = folder.records(run)
    counts = {
        "collapsed": len(fallen(run, folder)),
        "not trained": sum(bool(record.get("not_trained")) for record in records),
    }
    told = [f"{count} of {len(records)} {what}" for what, count in counts.items() if count]
    return f" ({', '.join(told)})" if told else ""


def curves(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """One panel a reward, against gradient updates; a cross ends the line of a seed that collapsed."""
    data = curve_data(spec["runs"], sources.folder)
    looks = list(zip(spec["runs"], COLORS, STYLES, strict=False))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(WIDTH, 2.4))
    for axis, (title, kind, metric) in zip(axes, PANELS, strict=True):
        panel = data[(data["kind"] == kind) & (data["metric"] == metric)]
        for run, color, style in looks:
            table = panel[panel["run"] == run].pivot_table(values="value", index="update", columns="seed")
            axis.plot(table.index, table.to_numpy(), color=color, alpha=0.4, linewidth=0.7)
            for seed in table.columns.intersection(fallen(run, sources.folder)):
                last = table[seed].dropna().tail(1)
                axis.plot(last.index, last, "x", color=color, markersize=5)
            mean = table.dropna().mean(axis=1)
            axis.plot(mean.index, mean, color=color, linestyle=style, linewidth=1.8)
        axis.set(title=title, xlabel="gradient updates")
        axis.margins(x=0.02)
    axes[0].set_ylabel("reward")
    seeds = max(data.groupby("run")["seed"].nunique(), default=0)
    key = [Line2D([], [], color=c, linestyle=s, linewidth=1.8, label=sources.folder.label(r)) for r, c, s in looks]
    if seeds > 1:
        key.append(Line2D([], [], color="#7f7f7f", alpha=0.6, linewidth=0.7, label=f"one of {seeds} seeds"))
    if any(fallen(run, sources.folder) for run in spec["runs"]):
        key.append(Line2D([], [], color="#7f7f7f", marker="x", linestyle="", label="collapsed"))
    figure.legend(handles=key, loc="outside lower center", ncols=len(key), handlelength=3)
    return figure, data


# ------------------------------------------------------------------------------------------ progress

LABEL_GAP = 0.072  # between labels, of the axis' height
LABEL_X = 1.07  # where labels begin, of the axis' width


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Heights in [0, 1] moved apart to at least ``gap``, each as near to its own as those below and above let it."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    highest = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed[np.argsort(order, kind="stable")]


def progress(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """Validation gold against generated images, a line a run, its mean over seeds as long as all of them go on."""
    folder = sources.folder
    data = curve_data(spec["runs"], folder)
    data = data[(data["kind"] == "validation") & (data["metric"] == "gold")]
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    ends, labels = [], []
    for number, run in enumerate(spec["runs"]):
        look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        table = data[data["run"] == run].pivot_table(values="value", index="images", columns="seed")
        mean = table.dropna().mean(axis=1)
        axis.plot(mean.index, mean, linestyle=STYLES[number % len(STYLES)], linewidth=1.3, markersize=3.5, **look)
        if len(mean) and fallen(run, folder):
            axis.plot(mean.index[-1], mean.iloc[-1], "x", color="#222222", markersize=9, markeredgewidth=1.6, zorder=5)
        ends.append((mean.index[-1], mean.iloc[-1]) if len(mean) else None)
        labels.append((folder.label(run) + fate(run, folder), look))
    axis.set(xlabel="generated images", ylabel="validation, gold judge")
    axis.margins(x=0.02)
    axis.autoscale_view()
    axis.autoscale(False)  # the lines to the labels leave the limits as they are
    to_axis = axis.transData + axis.transAxes.inverted()
    heights = [to_axis.transform(end)[1] if end else 0.0 for end in ends]
    for end, height, (label, look) in zip(ends, spread(heights, LABEL_GAP), labels, strict=True):
        axis.text(LABEL_X + 0.035, height, label, transform=axis.transAxes, va="center", fontsize=7.5)
        if end:
            x, y = to_axis.transform(end)
            line = {"transform": axis.transAxes, "clip_on": False, "color": look["color"]}
            axis.plot([x, LABEL_X], [y, height], linewidth=0.5, linestyle=":", **line)
            axis.plot(LABEL_X + 0.015, height, linestyle="", marker=look["marker"], markersize=4.5, **line)
    return figure, data
