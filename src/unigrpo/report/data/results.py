"""What a report reads: scores.csv, the paper's numbers, and the small files in the runs' folders.

Only scores.csv is needed. Where a run's folder is missing, so are its protocol and its cost, and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from unigrpo.core.errors import UserError
from unigrpo.core.files import json_lines, read_json, read_text
from unigrpo.report.data.stats import Cells
from unigrpo.study import run_folder
from unigrpo.study.provenance import ROOT

if TYPE_CHECKING:
    from unigrpo.study.resolve import Study

COLUMNS = (
    "run", "seed", "benchmark", "version", "mode", "guidance",
    "prompt_id", "tag", "sample", "metric", "value",
)  # fmt: skip
PAPER = ROOT / "results" / "reference" / "paper.csv"
CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's categories in the order of the paper's Table 2."""


class Scores:
    """scores.csv in memory, ready to hand out cells. Raises UserError for a file that is not one."""

    def __init__(self, path: Path):
        kinds = {"seed": int, "sample": int, "value": float}
        try:
            frame = pd.read_csv(path, dtype={c: kinds.get(c, str) for c in COLUMNS}, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a table of scores ({error})") from None
        if tuple(frame.columns) != COLUMNS:
            raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}")
        for benchmark, versions in frame.groupby("benchmark", observed=True)["version"].unique().items():
            if len(versions) > 1:
                mixed = " and ".join(sorted(versions))
                raise UserError(f"{path}: '{benchmark}' is in versions {mixed}; score every run with the same one")
        self._frame = frame = frame.astype({c: "category" for c in COLUMNS if c not in kinds})
        by = ["run", "benchmark", "mode", "guidance", "metric"]
        self._parts = dict(iter(frame.groupby(by, observed=True)))

    def has(self, run: str, mode: str, guidance: str) -> bool:
        return any(key[0] == run and key[2:4] == (mode, guidance) for key in self._parts)

    def cells(self, run: str, benchmark: str, mode: str, guidance: str, metric: str) -> Cells | None:
        """Means over images, seeds x prompts, prompts in a fixed order; None where nothing was scored."""
        part = self._parts.get((run, benchmark, mode, guidance, metric))
        if part is None:
            return None
        table = part.pivot_table("value", "seed", ["tag", "prompt_id"], aggfunc="mean", observed=True)
        tags, prompts = zip(*table.columns, strict=True)
        return Cells(table.to_numpy(), tuple(int(s) for s in table.index), tuple(prompts), tuple(tags))

    def images(self, run: str, mode: str, guidance: str) -> int:
        """Images scored for a row, over both benchmarks and all seeds."""
        keys = [(run, benchmark, mode, guidance, "gold") for benchmark in ("ta", "geneval")]
        return sum(len(self._parts[key]) for key in keys if key in self._parts)

    def agreement(self, runs: Sequence[str]) -> float | None:
        """Share of these runs' GenEval images on which inspector and second evaluator agree."""
        frame = self._frame[self._frame["run"].isin(list(runs)) & (self._frame["benchmark"] == "geneval")]
        index = ["run", "seed", "mode", "guidance", "prompt_id", "sample"]
        first, second = (frame[frame["metric"] == m].set_index(index)["value"] for m in ("official", "second"))
        return float((first.reindex(second.index) == second).mean()) if len(second) else None


class Paper:
    """The paper's Tables 1 and 2 by (run, thinking); values stay the text that the paper prints."""

    def __init__(self, path: Path):
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            self._rows = frame.set_index(["run", "thinking"]).to_dict("index")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be read as the paper's numbers ({error})") from None

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(run, thinking) of every row, in the paper's order."""
        return list(self._rows)

    def value(self, run: str, thinking: str, column: str) -> str:
        """'' where the paper has no such row or no number in it."""
        return self._rows.get((run, thinking), {}).get(column, "")


@dataclass(frozen=True)
class Folder:
    """The results of one scale, ``root/runs/<run>/seed<k>/``, and the study that they belong to, where there is one."""

    root: Path
    study: Study | None = None

    def seed_folders(self, run: str) -> dict[int, Path]:
        paths = (self.root / "runs" / run).glob("seed[0-9]*")
        return {int(path.name.removeprefix("seed")): path for path in sorted(paths)}

    def config(self, run: str) -> dict:
        """The configuration that the run's first seed was trained with, else that of the study; empty without one."""
        found = (run_folder.configuration(folder) for folder in self.seed_folders(run).values())
        if (recorded := next(filter(None, found), None)) is not None:
            return recorded[1]
        return self.study.config(run, 0) if self.study and run in self.study.runs() else {}

    def label(self, run: str) -> str:
        """The run's label in the catalogue, else in its configuration, else its name."""
        if self.study and run in self.study.runs():
            return self.study.catalogue["runs"][run]["label"]
        return self.config(run).get("label", run)

    def records(self, run: str) -> list[dict]:
        """run.json of every seed that has one."""
        return list(filter(None, map(run_folder.record, self.seed_folders(run).values())))

    def metrics(self, run: str) -> dict[int, list[tuple[str, dict]]]:
        """metrics.jsonl of every seed that has one: ("file, line n", row) each; no rows of a run that was not trained.
        Raises UserError naming the line that is damaged."""
        paths = {seed: folder / "metrics.jsonl" for seed, folder in self.seed_folders(run).items()}
        return {seed: list(json_lines(read_text(path), path)) for seed, path in paths.items() if path.exists()}

    def protocols(self, run: str, mode: str, guidance: str) -> list[dict]:
        """protocol.json of every seed and benchmark of a table's row."""
        name = f"samples/*.{mode}.{guidance}/protocol.json"
        return [read_json(path) for folder in self.seed_folders(run).values() for path in sorted(folder.glob(name))]
