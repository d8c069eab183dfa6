"""Left: the weight that the exact latent KL gives the squared velocity difference along flow time, over its largest;
the velocity MSE weighs all times alike. Right: how far each run's velocity drifted from its start at each time of its
training grid, means over seeds and their range.
"""

from __future__ import annotations

import math

from unigrpo.core import errors
from unigrpo.core.lazy import lazy
from unigrpo.report.data import results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import TRAINING, KindFacts

np = lazy("numpy")
FACTS = KindFacts("Where a regulariser pulls, and where the policy drifts", __doc__, **TRAINING)
COLUMNS = ["what", "of", "seed", "time", "value"]
PAPER = {"steps": 25, "grid": "points", "shift": 3.0, "noise_level": 0.8, "transition": "sde"}  # Table 3


def times(rl: dict) -> np.ndarray:
    """(N+1,) the training grid, from 1 to 0; as flow.time_grid has it."""
    u = np.linspace(1, 0, rl["steps"] + (rl["grid"] == "steps"))
    return rl["shift"] * u / (1 + (rl["shift"] - 1) * u)


def kl_weights(rl: dict) -> np.ndarray:
    """(N-1,) weight of the squared velocity difference in the exact latent KL (section 3.3): c^2 / (2 std^2), where the
    mean of a transition is c v plus a part without v, as in flow.transition; at all steps but the last, whose
    transition has no width where it is ``cps``. The paper argues that a policy hides where it is small."""
    t, t_next, a = times(rl)[:-2], times(rl)[1:-1], rl["noise_level"]
    dt = t_next - t
    if rl["transition"] == "cps":
        std = t_next * math.sin(a * math.pi / 2)
        signal = t_next * abs(math.cos(a * math.pi / 2))
        slope = signal * (1 - t) - (1 - t_next) * t
    else:
        sigma = a * np.sqrt(t / (1 - np.where(t == 1, t_next, t)))
        sigma = np.full_like(t, a) if rl["transition"] == "dance" else sigma
        slope, std = (1 + sigma**2 * (1 - t) / (2 * t)) * dt, sigma * np.sqrt(-dt)
    return slope**2 / (2 * std**2)


def drift_by_time(run: str, sources: results.Sources) -> dict[int, np.ndarray]:
    """Seed -> (N,) velocity MSE from the start at each step of the grid, at the last validation."""
    found = {}
    for seed, rows in sources.folder.metrics(run).items():
        last = next((row for _, row in reversed(rows) if row.get("kind") == "validation" and "drift_0" in row), None)
        if last is not None:
            found[seed] = np.array([last[f"drift_{k}"] for k in range(sum(key.startswith("drift_") for key in last))])
    return found


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    folder, drifts = sources.folder, {run: drift_by_time(run, sources) for run in spec["runs"]}
    if not any(drifts.values()):
        runs = ", ".join(spec["runs"])
        raise errors.UserError(f"{folder.root / 'runs'}: none of {runs} has a validation with its drift")
    rl = folder.config(next(run for run, found in drifts.items() if found))["rl"]
    figure, ((left, right),) = drawing.panels(1, 2, 3.0)
    rows = _draw_weights(left, rl)
    for number, (run, found) in enumerate(drifts.items()):
        label = folder.label(run)
        if not found:
            right.plot([], [], color="#8c8c8c", label=f"{label}: not available")
            continue
        each, at = np.stack(list(found.values())), times(folder.config(run)["rl"])[:-1]
        look = drawing.look(number, "marker", "linestyle")
        drawing.band(right, at, each, look["color"])
        right.plot(at, each.mean(0), linewidth=1.2, markersize=3.5, label=label, **look)
        rows += [("drift", run, s, t, v) for s, values in found.items() for t, v in zip(at, values, strict=True)]
    right.set(title="velocity MSE from the start", yscale="log", xlabel="flow time (1 = noise)")
    right.invert_xaxis()
    drawing.legend(figure, right.get_legend_handles_labels()[0], 3, fontsize=6.5)
    return figure, rows


def _draw_weights(axis, rl: dict) -> list[tuple]:
    """The weights of this scale and of the paper; the rows of the CSV."""
    rows = []
    ours, paper = {"marker": "o", "markersize": 3.5, "color": drawing.DARK}, {"linestyle": "--", "color": drawing.RED}
    for settings, label, look in ((rl, "this scale", ours), (PAPER, "the paper's settings", paper)):
        weights, at = kl_weights(settings), times(settings)[:-2]
        axis.plot(at, weights / weights.max(), label=f"latent KL, {label}", linewidth=1.3, **look)
        rows += [("weight", label, None, t, w / weights.max()) for t, w in zip(at, weights, strict=True)]
    axis.axhline(1, color=drawing.GREY, linewidth=1, linestyle=":", label="velocity MSE")
    lo, hi = rl["window_range"]
    axis.axvspan(times(rl)[hi - 1], 1, color="#f0f0f0", zorder=0, label="steps that are trained")
    axis.set(title="weight, over its largest", yscale="log", xlabel="flow time (1 = noise)")
    axis.invert_xaxis()
    axis.legend(fontsize=6, loc="lower right")
    return rows
