"""What the steps of a study have used, in one table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl, write_text

COLUMNS = ("step", "seconds", "cpu_seconds", "max_rss_mb")


def collect(folder: Path) -> None:
    """Write ``steps.csv`` into the results of a scale from ``benchmarks/<step>.jsonl``, a row a step: of several
    processes the time of the longest, the sum of their processor times, and the largest memory. Raises UserError where
    there is none."""
    paths = sorted((folder / "benchmarks").glob("*.jsonl"))
    if not paths:
        raise UserError(f"{folder / 'benchmarks'}: expected a file of each step that has run")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for path in paths:
        used = [row for _, row in read_jsonl(path)]
        join = {"seconds": max, "cpu_seconds": sum, "max_rss_mb": max}
        table.writerow([path.stem, *(round(how(row[name] for row in used), 2) for name, how in join.items())])
    write_text(folder / "steps.csv", text.getvalue())
