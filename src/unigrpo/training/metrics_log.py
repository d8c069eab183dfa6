"""metrics.jsonl: the record of a run, one JSON object a line, as it goes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import accessing, in_order, json_lines, read_jsonl, read_text, write_text


class MetricsLog:
    """Appends rows, and hands each to ``follow`` where one is given. A run that starts at ``step`` > 0 keeps the rows
    before it (by the key that counts steps) and drops a last line that a kill cut short; at 0 the log starts anew.
    Without a ``path``, as in all but the main process, nothing is written. Raises UserError naming a damaged line."""

    def __init__(self, path: Path | None, key: str, step: int, follow: Callable[[dict], None] | None = None):
        self.path, self.follow = path, follow
        if path is None:
            return
        earlier = []
        if step:
            complete, end, _ = read_text(path).rpartition("\n")
            for where, row in in_order(json_lines(complete + end, path)):
                if not isinstance(row.get(key), int):
                    raise UserError(f"{where}: '{key}' must be a whole number, found {row.get(key)!r}")
                if row[key] < step:
                    earlier.append(json.dumps(row) + "\n")
        write_text(path, "".join(earlier))

    def write(self, **row) -> None:
        if self.path is None:
            return
        plain = {k: _plain(v) for k, v in row.items()}
        with accessing(self.path, "written"), self.path.open("a") as file:
            file.write(json.dumps(plain) + "\n")
        if self.follow is not None:
            self.follow(plain)

    def column(self, name: str, **where) -> list[float]:
        """Values of ``name`` in the rows that match, in order. Raises UserError naming a line without such a number."""
        values = []
        for place, row in in_order(read_jsonl(self.path)):
            if all(row.get(k) == v for k, v in where.items()):
                if not isinstance(row.get(name), int | float):
                    raise UserError(f"{place}: '{name}' must be a number, found {row.get(name)!r}")
                values.append(row[name])
        return values


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None  # JSON has no such numbers
    return round(value, 6) if abs(value) >= 1e-3 else float(f"{value:.4g}")  # rounding floors are about 1e-9
