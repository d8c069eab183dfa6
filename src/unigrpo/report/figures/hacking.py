"""The reward trained on (proxy) and the gold judge on validation prompts, gains in units of the spread at the start:
against gradient updates, and against the velocity MSE from the start. Lines are means over seeds, bands their range; a
triangle is where gold peaks.
"""

from __future__ import annotations

from unigrpo.core import errors
from unigrpo.core.lazy import lazy
from unigrpo.report.data import logs, results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import TRAINING, KindFacts

np = lazy("numpy")
FACTS = KindFacts("Over-optimisation of the reward", __doc__, **TRAINING)
COLUMNS = ["run", "seed", "update", "drift", "metric", "gain"]
LOOKS = {"proxy": {"color": "#c0392b", "linestyle": "--"}, "gold": {"color": "#08306b", "linestyle": "-"}}


def drifts(found: logs.Course, folder: results.Folder) -> np.ndarray:
    """(K, U) velocity MSE from the start at each of the validations. Raises UserError where one has none."""
    by_seed = logs.validated(found.run, "drift", folder)
    moved = np.array([[by_seed.get(seed, {}).get(u, np.nan) for u in found.updates] for seed in found.seeds])
    if np.isnan(moved).any():
        raise errors.UserError(f"{folder.root / 'runs' / found.run}: metrics.jsonl lacks the drift of a validation")
    return moved


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    folder, rows = sources.folder, []
    courses = logs.courses(spec["runs"], folder)
    figure, axes = drawing.panels(len(courses), 2, 0.8 + 1.15 * len(courses), sharey=True, sharex="col")
    for line, (run, found) in zip(axes, courses.items(), strict=True):
        line[0].set_ylabel(folder.label(run).replace(" (", "\n(").replace(" + ", "\n+ "), fontsize=7)
        if found is None:
            for axis in line:
                drawing.say_missing(axis)
            continue
        moved = drifts(found, folder)
        gained = {m: (found.means[m] - found.means[m][:, :1]) / (found.spread[m] or 1.0) for m in LOOKS}
        _draw_run(line, found, moved, gained)
        rows += [
            (run, seed, update, moved[k, u], metric, each[k, u])
            for metric, each in gained.items()
            for k, seed in enumerate(found.seeds)
            for u, update in enumerate(found.updates)
        ]
    axes[0, 1].set_xscale("symlog", linthresh=0.01, linscale=0.4)
    axes[0, 1].set_xlim(left=0)
    axes[-1, 0].set_xlabel("gradient updates")
    axes[-1, 1].set_xlabel("velocity MSE from the start")
    axes[0, 0].set_title("gain, in spreads of the start", loc="left")
    axes[0, 1].set_title("the same, by how far it moved", loc="left")
    key = [drawing.key(f"{metric}, validation", linewidth=1.3, **look) for metric, look in LOOKS.items()]
    key.append(drawing.key("gold peaks", marker="v", linestyle="", color=LOOKS["gold"]["color"]))
    drawing.legend(figure, key)
    return figure, rows


def _draw_run(line, found: logs.Course, moved: np.ndarray, gained: dict[str, np.ndarray]) -> None:
    """Means over seeds of what was gained (K, U) and their range; a triangle at the highest mean gold."""
    for axis, place in zip(line, (np.array(found.updates, dtype=float), moved.mean(0)), strict=True):
        for metric, look in LOOKS.items():
            drawing.band(axis, place, gained[metric], look["color"])
            axis.plot(place, gained[metric].mean(0), linewidth=1.3, **look)
        peak = found.peak()
        axis.plot(place[peak], gained["gold"].mean(0)[peak], "v", color=LOOKS["gold"]["color"], markersize=5)
        axis.axhline(0, color=drawing.GREY, linewidth=0.6)
