"""The training records of runs, metrics.jsonl, over seeds; and how their seeds ended."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pandas as pd

from unigrpo.core.errors import UserError
from unigrpo.report.data.results import Folder

ENDS = 10  # rollouts at either end of training


def column(rows: Sequence[tuple[str, dict]], kind: str, name: str) -> list[float]:
    """``name`` in the rows of this kind, in order. Raises UserError naming a row without it."""
    for where, row in rows:
        if row.get("kind") == kind and not isinstance(row.get(name), int | float):
            raise UserError(f"{where}: '{name}' must be a number, found {row.get(name)!r}")
    return [row[name] for _, row in rows if row.get("kind") == kind]


def ends(run: str, name: str, folder: Folder) -> tuple[float | None, float | None]:
    """Mean of ``name`` over the first and over the last ENDS rollouts, mean over seeds; None where no seed has it."""
    logs = [rows for rows in folder.metrics(run).values() if any(name in row for _, row in rows)]
    seeds = [values for rows in logs if (values := column(rows, "train", name))]
    if not seeds:
        return None, None
    return mean(mean(values[:ENDS]) for values in seeds), mean(mean(values[-ENDS:]) for values in seeds)


def validated(run: str, name: str, folder: Folder) -> dict[int, dict[int, float]]:
    """Seed -> update -> ``name`` of the validations that have it."""
    return {
        seed: {row["update"]: row[name] for _, row in rows if row.get("kind") == "validation" and name in row}
        for seed, rows in folder.metrics(run).items()
    }


def curve_data(runs: Sequence[str], folder: Folder) -> pd.DataFrame:
    """metrics.jsonl of all seeds of these runs -> run, seed, kind, update, images, metric, value; none of a seed that
    was not trained."""
    rows = []
    for run in runs:
        seeds = folder.metrics(run)
        if not seeds:
            raise UserError(f"{folder.root / 'runs' / run}: no seed folder with a metrics.jsonl; train the run first")
        for seed, lines in seeds.items():
            for where, row in lines:
                for metric in ("proxy", "gold"):
                    if row.get(metric) is None:
                        continue
                    if not {"kind", "update", "images"} <= row.keys():
                        raise UserError(f"{where}: expected 'kind', 'update' and 'images' beside '{metric}'")
                    rows.append((run, seed, row["kind"], row["update"], row["images"], metric, row[metric]))
    return pd.DataFrame(rows, columns=["run", "seed", "kind", "update", "images", "metric", "value"])


def fallen(run: str, folder: Folder) -> list[int]:
    """The seeds that collapsed."""
    return [record["seed"] for record in folder.records(run) if record.get("collapsed")]


def fate(run: str, folder: Folder) -> str:
    """How many seeds collapsed and were not trained, in words; '' where all went well."""
    records = folder.records(run)
    counts = {
        "collapsed": len(fallen(run, folder)),
        "not trained": sum(bool(record.get("not_trained")) for record in records),
    }
    parts = [f"{count} of {len(records)} {what}" for what, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""
