"""One figure of the catalogue as PNG and PDF, and the CSV of what it shows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from unigrpo.core.files import replacing, write_text
from unigrpo.report.data.rows import Sources
from unigrpo.report.pages.drawing import STYLE, plt
from unigrpo.study.facts import FIGURES


def save(figure: Figure, data: pd.DataFrame, out: Path, name: str) -> None:
    """<name>.png, <name>.pdf (without a date, so that equal data give equal files) and <name>.csv."""
    for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with replacing(out / f"{name}.{suffix}") as temporary, io.BytesIO() as buffer:
            figure.savefig(buffer, format=suffix, metadata=metadata)
            temporary.write_bytes(buffer.getvalue())
    plt.close(figure)
    write_text(out / f"{name}.csv", data.to_csv(index=False, float_format="%.6g"))


def draw(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """The figure of one entry of the catalogue, and its data."""
    kind = FIGURES.load(spec["kind"])
    figure, rows = kind.draw(spec, sources)
    return figure, pd.DataFrame(rows, columns=kind.COLUMNS)


def write(name: str, spec: Mapping, sources: Sources, out: Path) -> None:
    """Write the figure's files."""
    with plt.rc_context(STYLE):
        save(*draw(spec, sources), out, name)
