"""The figure of over-optimisation: the reward trained on (proxy) and the gold judge, which training never sees, as a
run goes on and as it moves away from its start.

Both are gains since the first validation in units of their spread over its images, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unigrpo.core.errors import UserError
from unigrpo.report.pictures import WIDTH
from unigrpo.report.results import Folder
from unigrpo.report.rows import Sources
from unigrpo.report.validations import Course, course

LOOKS = {"proxy": {"color": "#c0392b", "linestyle": "--"}, "gold": {"color": "#08306b", "linestyle": "-"}}
COLUMNS = ["run", "seed", "update", "drift", "metric", "gain"]


def gains(found: Course, metric: str) -> np.ndarray:
    """(K, U) gains since the first validation, in units of the spread over its images; 0 spread leaves them as they
    are."""
    moved = found.means[metric] - found.means[metric][:, :1]
    return moved / (found.spread[metric] or 1.0)


def drifts(found: Course, folder: Folder) -> np.ndarray:
    """(K, U) velocity MSE from the start at each of the validations. Raises UserError where one has none."""
    rows = folder.metrics(found.run)
    told = np.full((len(found.seeds), len(found.updates)), np.nan)
    for k, seed in enumerate(found.seeds):
        by_update = {row["update"]: row for _, row in rows.get(seed, []) if row.get("kind") == "validation"}
        for u, update in enumerate(found.updates):
            told[k, u] = by_update.get(update, {}).get("drift", np.nan)
    if np.isnan(told).any():
        raise UserError(f"{folder.root / 'runs' / found.run}: metrics.jsonl lacks the drift of a validation")
    return told


def overoptimisation(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A line of panels a run: against updates and against the distance; means over seeds and their range; a triangle
    at the highest mean gold."""
    folder, runs, rows = sources.folder, spec["runs"], []
    figure, axes = plt.subplots(
        len(runs), 2, figsize=(WIDTH, 0.8 + 1.15 * len(runs)), squeeze=False, sharey=True, sharex="col"
    )
    for line, run in zip(axes, runs, strict=True):
        line[0].set_ylabel(folder.label(run).replace(" (", "\n(").replace(" + ", "\n+ "), fontsize=7)
        found = course(run, folder)
        if found is None:
            for axis in line:
                axis.text(0.5, 0.5, "not available", ha="center", va="center", transform=axis.transAxes)
            continue
        moved = drifts(found, folder)
        for axis, place in zip(line, (np.array(found.updates, dtype=float), moved.mean(0)), strict=True):
            for metric, look in LOOKS.items():
                each = gains(found, metric)
                axis.fill_between(place, each.min(0), each.max(0), color=look["color"], alpha=0.15, linewidth=0)
                axis.plot(place, each.mean(0), linewidth=1.3, **look)
            peak = found.peak()
            axis.plot(place[peak], gains(found, "gold").mean(0)[peak], "v", color=LOOKS["gold"]["color"], markersize=5)
            axis.axhline(0, color="#444444", linewidth=0.6)
        for metric in LOOKS:
            each = gains(found, metric)
            rows += [
                (run, seed, update, moved[k, u], metric, each[k, u])
                for k, seed in enumerate(found.seeds)
                for u, update in enumerate(found.updates)
            ]
    if not rows:
        raise UserError(f"{folder.root / 'runs'}: none of {', '.join(runs)} has validation records")
    axes[0, 1].set_xscale("symlog", linthresh=0.01, linscale=0.4)
    axes[0, 1].set_xlim(left=0)
    axes[-1, 0].set_xlabel("gradient updates")
    axes[-1, 1].set_xlabel("velocity MSE from the start")
    axes[0, 0].set_title("gain, in spreads of the start", loc="left")
    axes[0, 1].set_title("the same, by how far it moved", loc="left")
    key = [Line2D([], [], linewidth=1.3, label=f"{metric}, validation", **look) for metric, look in LOOKS.items()]
    key.append(Line2D([], [], marker="v", linestyle="", color=LOOKS["gold"]["color"], label="gold peaks"))
    figure.legend(handles=key, loc="outside lower center", ncols=len(key))
    return figure, pd.DataFrame(rows, columns=COLUMNS)
