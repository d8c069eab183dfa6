"""Figures, each as PNG, PDF and the CSV of what it shows.

Kinds, chosen by ``kind`` in the figure's specification:

* curves (Figure 3): training and validation reward against gradient updates, thin lines for seeds, a thick
  one for their mean; the gold judge, which training never sees, beside them
* progress: the gold judge of many runs against generated images, means over seeds, see courses.py
* grid (Figure 2) and traces (Figures 6-8): images with their traces and verdicts, see pictures.py
* dots: TA and GenEval of every row with intervals, beside the paper's values, and category_dots: each GenEval
  category, see dots.py
* frontier, overoptimisation, mechanism, sheets: regularisers compared on runs that over-optimise their reward, see
  frontier.py, hacking.py, mechanism.py and sheets.py

    python -m unigrpo.report.figures --name fig3 --spec spec.json --scores scores.csv --results results/cpu
        --out results/cpu/figures
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from unigrpo.core import cli
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, replacing, write_text
from unigrpo.report.courses import curves, progress
from unigrpo.report.dots import category_dots, dots
from unigrpo.report.frontier import frontier
from unigrpo.report.hacking import overoptimisation
from unigrpo.report.mechanism import mechanism
from unigrpo.report.pictures import grid, traces
from unigrpo.report.rows import add_source_options, read_sources
from unigrpo.report.sheets import sheets
from unigrpo.study.catalogue import OF_TRAINING

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


# ------------------------------------------------------------------------------------------ command

KINDS = {
    "curves": curves,
    "progress": progress,
    "grid": grid,
    "traces": traces,
    "dots": dots,
    "category_dots": category_dots,
    "frontier": frontier,
    "overoptimisation": overoptimisation,
    "mechanism": mechanism,
    "sheets": sheets,
}


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
        results="folder of the scale, results/<scale>",
        out="folder for <name>.png, .pdf and .csv",
    )
    parser.add_argument("--name", required=True, help="name of the figure's files")
    add_source_options(parser)
    args = parser.parse_args(argv)
    spec = read_json(args.spec)
    if spec.get("kind") not in KINDS or not spec.get("runs"):
        raise UserError(f"{args.spec}: expected 'kind', one of {', '.join(KINDS)}, and 'runs', found {spec}")
    sources = read_sources(args, judged=spec["kind"] not in OF_TRAINING)
    with plt.rc_context(STYLE):
        save(*KINDS[spec["kind"]](spec, sources), args.out, args.name)


if __name__ == "__main__":
    cli.run(main)
