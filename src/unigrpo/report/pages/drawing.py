"""What all figures share: sizes, colours, and the marks that say what is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unigrpo.report.data.phrases import MISSING

Drawn = tuple[Figure, pd.DataFrame | list[tuple]]
"""A figure, and the rows of its CSV."""

WIDTH = 6.4  # inches: the text width of a page
GREY, DARK, RED = "#444444", "#08306b", "#c0392b"
# Apart in hue and in lightness, so that greyscale keeps them apart; line styles or markers say the same again.
COLORS = (DARK, RED, "#f0a830", "#5b8c5a", "#9b7fb8", "#8c8c8c")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "h", ">", "p", "d", "*")
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


def look(number: int, *parts: str) -> dict:
    """Colour, ``marker`` and ``linestyle``, as far as asked for, of the line number ``number``."""
    cycles = {"color": COLORS, "marker": MARKERS, "linestyle": STYLES}
    return {part: cycles[part][number % len(cycles[part])] for part in ("color", *parts)}


def panels(rows: int, columns: int, height: float, **more):
    """A figure of the page's width, and its axes (rows, columns)."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **more)


def say_missing(axis) -> None:
    """An empty panel."""
    axis.text(0.5, 0.5, MISSING, ha="center", va="center", transform=axis.transAxes)


def bare(axis) -> None:
    """A panel for a picture: no ticks, no grid."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def band(axis, x, each, color: str) -> None:
    """The range of lines ``each`` (K, N) over ``x`` (N,)."""
    axis.fill_between(x, each.min(0), each.max(0), color=color, alpha=0.15, linewidth=0)


def key(label: str, **look) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def legend(figure: Figure, entries: Sequence, columns: int | None = None, **more) -> None:
    """The legend below all panels."""
    figure.legend(handles=entries, loc="outside lower center", ncols=columns or len(entries), **more)


def subject(prompt: str, width: int) -> str:
    """A prompt as the title of its picture."""
    return textwrap.fill(prompt.removeprefix("a photo of "), width)
