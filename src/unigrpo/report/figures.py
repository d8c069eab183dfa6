"""Figures, each as PNG, PDF and the CSV of what it shows.

Kinds, chosen by ``kind`` in the figure's specification:

* curves (Figure 3): training and validation reward against gradient updates, thin lines for seeds, a thick
  one for their mean; the gold judge, which training never sees, beside them
* grid (Figure 2): prompts x runs, one image each with its trace and verdict. Prompts are drawn by a fixed
  rule, not picked: one of each of GRID_TAGS; always the first seed and sample
* dots: TA and GenEval of every row with intervals, beside the paper's values

    python -m unigrpo.report.figures --name fig3 --spec spec.json --scores scores.csv --results results/cpu
        --out results/cpu/figures
"""

from __future__ import annotations

import io
import textwrap
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
from unigrpo.report.results import PAPER, Folder, Paper, Scores
from unigrpo.report.rows import Row, Sources
from unigrpo.report.samples import Sample, read_samples, trace_lines
from unigrpo.seeding import numpy_generator
from unigrpo.types import UserError

WIDTH = 6.4  # inches: the text width of a page
# Apart in hue and in lightness, so that greyscale keeps them apart; the line styles say the same again.
COLORS = ("#08306b", "#c0392b", "#f0a830", "#5b8c5a", "#9b7fb8", "#8c8c8c")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
RIGHT, WRONG, NEUTRAL = "#1b7837", "#b2182b", "#7f7f7f"
GRID_TAGS = ("counting", "position", "color_attr", "compound", "compound")
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


# ------------------------------------------------------------------------------------------ grid


def drawn_prompts(samples: Mapping[str, Sample]) -> list[str]:
    """Prompt ids by the rule of GRID_TAGS."""
    rng = numpy_generator(0, "grid")
    drawn: list[str] = []
    for tag in GRID_TAGS:
        left = [s.prompt_id for s in samples.values() if s.tag == tag and s.prompt_id not in drawn]
        if left:
            drawn.append(left[rng.integers(len(left))])
    return drawn


def grid(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A column a prompt, a row a run; the trace under each image."""
    runs, guidance = spec["runs"], spec.get("guidance", "tuned")
    found = {run: read_samples(sources.folder, run, "think", guidance) for run in runs}
    prompts = drawn_prompts(found[runs[0]])
    if not prompts:
        raise UserError(f"{sources.folder.root / 'runs' / runs[0]}: no images with thinking at guidance '{guidance}'")
    size = (WIDTH, 0.55 + len(runs) * (WIDTH / len(prompts) + 0.4))
    figure, axes = plt.subplots(len(runs), len(prompts), figsize=size, squeeze=False)
    rows = []
    for line, run in zip(axes, runs, strict=True):
        line[0].set_ylabel(sources.folder.label(run), fontweight="bold", fontsize=8.5)
        for axis, prompt in zip(line, prompts, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            sample = found[run].get(prompt)
            if sample is None:
                axis.text(0.5, 0.5, "not available", ha="center", va="center", transform=axis.transAxes)
                axis.set_box_aspect(1)
            else:
                _draw(axis, sample)
                rows.append((prompt, sample.prompt, run, sample.trace or "", sample.correct, sample.reason))
    for axis, prompt in zip(axes[0], prompts, strict=True):
        text = found[runs[0]][prompt].prompt.removeprefix("a photo of ")
        axis.set_title(textwrap.fill(text, 22), fontsize=7.5, pad=5)
    return figure, pd.DataFrame(rows, columns=["prompt_id", "prompt", "run", "trace", "correct", "reason"])


def _draw(axis, sample: Sample) -> None:
    """The image framed by its verdict, the trace under it."""
    axis.imshow(sample.image, interpolation="bicubic")
    mark, color = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", NEUTRAL)}[sample.correct]
    lines = [part for line in trace_lines(sample.trace) for part in textwrap.wrap(line, 30)]  # malformed ones are long
    axis.set_xlabel("\n".join(lines[:5]), fontsize=6.2, linespacing=1.2, labelpad=3)
    axis.annotate(
        mark, (0, 0), xytext=(0, -2.5), xycoords="axes fraction", textcoords="offset points",
        ha="left", va="top", fontsize=8, fontweight="bold", color=color,
    )  # fmt: skip
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=1.0)


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

KINDS = {"curves": curves, "grid": grid, "dots": dots}


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
