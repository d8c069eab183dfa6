"""Training reward, validation reward, and the gold judge that training never sees, against gradient updates (the
paper's Figure 3). Reward hacking is the first two rising while the third falls.
"""

from __future__ import annotations

from unigrpo.report.data import logs, results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Rewards in training", __doc__, scores=False, reads="run.json")
COLUMNS = ["run", "seed", "kind", "update", "images", "metric", "value"]
PANELS = (  # title, kind of row in metrics.jsonl, metric
    ("training reward", "train", "proxy"),
    ("validation reward", "validation", "proxy"),
    ("validation, gold judge", "validation", "gold"),
)


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    """One panel a reward, against gradient updates; a cross ends the line of a seed that collapsed."""
    data, folder = logs.curve_data(spec["runs"], sources.folder), sources.folder
    looks = {run: drawing.look(number, "linestyle") for number, run in enumerate(spec["runs"])}
    fallen = {run: logs.fallen(run, folder) for run in spec["runs"]}
    figure, (axes,) = drawing.panels(1, len(PANELS), 2.4)
    for axis, (title, kind, metric) in zip(axes, PANELS, strict=True):
        for run, look in looks.items():
            table, mean = drawing.by_seed(data, run, kind, metric, "update")
            axis.plot(table.index, table.to_numpy(), color=look["color"], alpha=0.4, linewidth=0.7)
            for seed in table.columns.intersection(fallen[run]):
                last = table[seed].dropna().tail(1)
                axis.plot(last.index, last, "x", color=look["color"], markersize=5)
            axis.plot(mean.index, mean, linewidth=1.8, **look)
        axis.set(title=title, xlabel="gradient updates")
        axis.margins(x=0.02)
    axes[0].set_ylabel("reward")
    seeds = max(data.groupby("run")["seed"].nunique(), default=0)
    key = [drawing.key(folder.label(run), linewidth=1.8, **look) for run, look in looks.items()]
    if seeds > 1:
        key.append(drawing.key(f"one of {seeds} seeds", color="#7f7f7f", alpha=0.6, linewidth=0.7))
    if any(fallen.values()):
        key.append(drawing.key("collapsed", color="#7f7f7f", marker="x", linestyle=""))
    drawing.legend(figure, key, handlelength=3)
    return figure, data
