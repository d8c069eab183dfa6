"""Two runs side by side: their settings and provenance."""

from __future__ import annotations

import json
from pathlib import Path

from unigrpo.study import run_folder

ABSENT = "-"  # that side says nothing of it


def compare(a: dict, b: dict, everything: bool = False) -> list[tuple[str, str, str]]:
    """(key, value of a, value of b) as JSON, in a's order, then what only b has; equal ones with ``everything``."""
    left, right = run_folder.flat(a), run_folder.flat(b)
    rows = []
    for key in left | right:
        one, other = (json.dumps(side[key]) if key in side else ABSENT for side in (left, right))
        if everything or one != other:
            rows.append((key, one, other))
    return rows


def provenance(folder: Path) -> dict:
    """What made the run: code, versions, machine."""
    record = run_folder.record(folder)
    return {key: record[key] for key in run_folder.PROVENANCE if key in record}


def section(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    """Aligned lines below a title; says so where there are none."""
    if not rows:
        return [f"{title}: no difference"]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return [title, *(f"  {key:<{widths[0]}}  {a:<{widths[1]}}  {b}" for key, a, b in rows)]


def side_by_side(run_a: Path, run_b: Path, everything: bool = False) -> list[str]:
    """Lines for people: what differs between two runs' folders, or all with ``everything``. Raises UserError where one
    is no run."""
    (_, a), (_, b) = (run_folder.needed_configuration(folder) for folder in (run_a, run_b))
    made = [provenance(folder) for folder in (run_a, run_b)]
    return section("settings", compare(a, b, everything)) + section("provenance", compare(*made, everything))
