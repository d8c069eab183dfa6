"""All scores of a study in one tidy table: scores.jsonl of every run and seed -> scores.csv.

A row is one metric of one image, in the columns of ``results.COLUMNS``. Every table and figure is made from
this file, so a released scores.csv stands in for all training.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import json_lines, read_text, replacing
from unigrpo.report.data.results import COLUMNS

KEYS = COLUMNS[2:-2]


def tidy_rows(run: str, seed: int, path: Path) -> Iterator[tuple]:
    """The rows of one scores.jsonl, in the order of COLUMNS; none of an empty one, which is that of a run that was not
    trained. Raises UserError naming file and line."""
    for where, row in json_lines(read_text(path), path):
        try:
            keys = [row[key] for key in KEYS]
            metrics = {name: float(value) for name, value in row["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: expected {', '.join(KEYS)} and numbers in metrics ({error!r})") from None
        for name, value in metrics.items():
            yield (run, seed, *keys, name, f"{value:.6g}")


def source(argument: str) -> tuple[str, int, Path]:
    """(run, seed, scores.jsonl) of ``RUN=.../seed<k>`` or ``RUN=.../seed<k>/scores.jsonl``."""
    run, _, path = argument.partition("=")
    folder = Path(path).parent if path.endswith(".jsonl") else Path(path)
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    if not run or not seed:
        raise UserError(f"'{argument}': expected RUN=PATH, where the path is a folder called seed<number>")
    return run, int(seed[1]), folder / "scores.jsonl"


def collect(arguments: Sequence[str], out: Path) -> None:
    """Write ``out`` from arguments ``RUN=PATH``; each run and seed may stand once."""
    sources = [source(argument) for argument in arguments]
    for run, seed, _ in sources:
        if sum((r, s) == (run, seed) for r, s, _ in sources) > 1:
            raise UserError(f"run '{run}', seed {seed} is given twice")
    write_scores(sources, out)


def write_scores(sources: Sequence[tuple[str, int, Path]], out: Path) -> None:
    """Write ``out`` from (run, seed, scores.jsonl) each."""
    with replacing(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run, seed, path in sources:
            writer.writerows(tidy_rows(run, seed, path))
