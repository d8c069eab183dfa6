"""metrics.jsonl: the record of a run, one JSON object a line, as it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path


class MetricsLog:
    """Appends rows; on resume rows at or after ``step`` (by the key that counts steps) are dropped first, all of them
    at step 0."""

    def __init__(self, path: Path, key: str, step: int):
        self.path = path
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        keep = [row for row in rows if row[key] < step] if step else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in keep))
        os.replace(temporary, path)

    def write(self, **row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({k: _plain(v) for k, v in row.items()}) + "\n")

    def column(self, name: str, **where) -> list[float]:
        """Values of ``name`` in the rows that match, in order."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [row[name] for row in rows if all(row.get(k) == v for k, v in where.items())]


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    return round(value, 6) if isinstance(value, float) else value
