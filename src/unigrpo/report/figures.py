"""Figures, each as PNG, PDF and the CSV of what it shows.

Kinds, chosen by ``kind`` in the figure's specification:

* curves (Figure 3): training and validation reward against gradient updates, thin lines for seeds, a thick
  one for their mean; the gold judge, which training never sees, beside them
* grid (Figure 2) and traces (Figures 6-8): images with their traces and verdicts, see pictures.py
* dots: TA and GenEval of every row with intervals, beside the paper's values

    python -m unigrpo.report.figures --name fig3 --spec spec.json --scores scores.csv --results results/cpu
        --out results/cpu/figures
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unigrpo import cli
from unigrpo.files import read_json, read_jsonl, replacing, write_text
from unigrpo.report.pictures import WIDTH, grid, traces
from unigrpo.report.results import PAPER, Folder, Paper, Scores
from unigrpo.report.rows import Row, Sources
from unigrpo.types import UserError

# Apart in hue and in lightness, so that greyscale keeps them apart; the line styles say the same again.
COLORS = ("#08306b", "#c0392b", "#f0a830", "#5b8c5a", "#9b7fb8", "#8c8c8c")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
PANELS = (  # title, kind of row in metrics.jsonl, metric
    ("training reward", "train", "proxy"),
    ("validation reward", "validation", "proxy"),
    ("validation, gold judge", "validation", "gold"),
)
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


# ------------------------------------------------------------------------------------------ curves


def curve_data(runs: Sequence[str], folder: Folder) -> pd.DataFrame:
    """metrics.jsonl of all seeds of these runs -> run, seed, kind, update, metric, value."""
    rows = []
    for run in runs:
        paths = {seed: path / "metrics.jsonl" for seed, path in folder.seed_folders(run).items()}
        if not paths:
            raise UserError(f"{folder.root / 'runs' / run}: no seed folder with a metrics.jsonl; train the run first")
        for seed, path in paths.items():
            for where, row in read_jsonl(path):
                for metric in ("proxy", "gold"):
                    if row.get(metric) is None:
                        continue
                    if "kind" not in row or "update" not in row:
                        raise UserError(f"{where}: expected 'kind' and 'update' beside '{metric}'")
                    rows.append((run, seed, row["kind"], row["update"], metric, row[metric]))
    return pd.DataFrame(rows, columns=["run", "seed", "kind", "update", "metric", "value"])


def curves(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """One panel a reward, against gradient updates."""
    data = curve_data(spec["runs"], sources.folder)
    looks = list(zip(spec["runs"], COLORS, STYLES, strict=False))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(WIDTH, 2.4))
    for axis, (title, kind, metric) in zip(axes, PANELS, strict=True):
        panel = data[(data["kind"] == kind) & (data["metric"] == metric)]
        for run, color, style in looks:
            table = panel[panel["run"] == run].pivot_table(values="value", index="update", columns="seed")
            axis.plot(table.index, table.to_numpy(), color=color, alpha=0.4, linewidth=0.7)
            mean = table.dropna().mean(axis=1)
            axis.plot(mean.index, mean, color=color, linestyle=style, linewidth=1.8)
        axis.set(title=title, xlabel="gradient updates")
        axis.margins(x=0.02)
    axes[0].set_ylabel("reward")
    seeds = max(data.groupby("run")["seed"].nunique(), default=0)
    key = [Line2D([], [], color=c, linestyle=s, linewidth=1.8, label=sources.folder.label(r)) for r, c, s in looks]
    if seeds > 1:
        key.append(Line2D([], [], color="#7f7f7f", alpha=0.6, linewidth=0.7, label=f"one of {seeds} seeds"))
    figure.legend(handles=key, loc="outside lower center", ncols=len(key), handlelength=3)
    return figure, data


# ------------------------------------------------------------------------------------------ dots

DOTS = (  # title, benchmark, metric of the filled dot, metric of the hollow one, the paper's column
    ("TA", "ta", "ta", None, "ta"),
    ("GenEval", "geneval", "official", "strict", "geneval"),
)


def dots(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A line a run and mode: ours with intervals, the paper's beside."""
    guidance = spec.get("guidance", "tuned")
    rows = [Row(run, thinking, guidance) for run in spec["runs"] for thinking in ("no", "yes")]
    rows = [row for row in rows if sources.scores.has(row.run, row.mode, guidance)]
    if not rows:
        raise UserError(f"scores: none of the runs {', '.join(spec['runs'])} is scored at guidance '{guidance}'")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.7 + 0.27 * len(rows)), sharey=True)
    data = []
    for axis, (title, benchmark, official, strict, column) in zip(axes, DOTS, strict=True):
        for y, row in enumerate(rows):
            for metric, face, shift in ((official, COLORS[0], 0.0), (strict, "white", 0.2)):
                e = sources.estimate(row, benchmark, metric) if metric else None
                if e:
                    axis.plot([e.lo, e.hi], [y + shift] * 2, color=COLORS[0], linewidth=1.2)
                    axis.plot(e.mean, y + shift, "o", color=COLORS[0], markerfacecolor=face, markersize=4.5)
                    data.append((row.run, row.thinking, metric, e.mean, e.lo, e.hi))
            value = sources.paper.value(row.run, row.thinking, column)
            if value:
                axis.plot(float(value), y, marker="|", color=COLORS[1], markersize=9, markeredgewidth=2)
                data.append((row.run, row.thinking, f"paper_{column}", float(value), None, None))
        axis.set(title=title)
        axis.set_xlim(right=1)
        axis.grid(axis="y", visible=False)
    names = [f"{sources.folder.label(row.run)}{', thinking' if row.thinking == 'yes' else ''}" for row in rows]
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].invert_yaxis()
    circle = {"marker": "o", "color": COLORS[0], "linewidth": 1.2, "markersize": 4.5}
    key = [
        Line2D([], [], **circle, label="ours, 95 % interval"),
        Line2D([], [], **circle, markerfacecolor="white", label="ours, strict"),
        Line2D([], [], marker="|", color=COLORS[1], linestyle="", markersize=9, markeredgewidth=2, label="paper"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=3)
    return figure, pd.DataFrame(data, columns=["run", "thinking", "metric", "value", "lo", "hi"])


# ------------------------------------------------------------------------------------------ command

KINDS = {"curves": curves, "grid": grid, "dots": dots, "traces": traces}


def save(figure: Figure, data: pd.DataFrame, out: Path, name: str) -> None:
    """<name>.png, <name>.pdf (without a date, so that equal data give equal files) and <name>.csv."""
    for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with replacing(out / f"{name}.{suffix}") as temporary, io.BytesIO() as buffer:
            figure.savefig(buffer, format=suffix, metadata=metadata)
            temporary.write_bytes(buffer.getvalue())
    plt.close(figure)
    write_text(out / f"{name}.csv", data.to_csv(index=False, float_format="%.6g"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "unigrpo.report.figures",
        "Make one figure from the scores.",
        spec="JSON: the figure's entry of the catalogue",
        scores="scores.csv",
        results="folder of the scale, results/<scale>",
        out="folder for <name>.png, .pdf and .csv",
    )
    parser.add_argument("--name", required=True, help="name of the figure's files")
    parser.add_argument("--paper", type=Path, default=PAPER, help="the paper's numbers (default in results/reference)")
    args = parser.parse_args(argv)
    spec = read_json(args.spec)
    if spec.get("kind") not in KINDS or not spec.get("runs"):
        raise UserError(f"{args.spec}: expected 'kind', one of {', '.join(KINDS)}, and 'runs', found {spec}")
    sources = Sources(Scores(args.scores), Paper(args.paper), Folder(args.results))
    with plt.rc_context(STYLE):
        save(*KINDS[spec["kind"]](spec, sources), args.out, args.name)


if __name__ == "__main__":
    cli.run(main)
