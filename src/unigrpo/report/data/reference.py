"""The results of a scale as they are committed: tables, figures and claims as they are, and two compressed files from
which every interval and every course can be computed again.

* cells.csv.xz: a row for each run, replicate, benchmark, mode, guidance and prompt; its metrics are means over the
  ``images`` of the prompt, with four digits. Numbers without a judge are left out.
* runs.jsonl.xz: a line for each run and replicate: its record (settings, ends, cost, what made it), its
  ``validations``, and its ``training``: the columns TRAINED of its rollouts.
"""

import json
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from unigrpo.core import files
from unigrpo.report.data.results import Folder
from unigrpo.report.data.rows import KEYS, read_scores
from unigrpo.study.facts import STATISTICS

CELL = ["run", "seed", *(key for key in KEYS if key not in ("version", "sample"))]
LEFT_OUT = (*STATISTICS, "soft", "atoms")  # metrics: what no judge says, and what others contain
TRAINED = ("update", "images", "proxy", "diversity")
COPIED = ("index.*", "claims.*", "decoding.json", "tables/*.csv", "tables/*.md", "tables/*.html", "figures/*.csv")
COPIED += ("figures/*.png", "steps.csv")


def cells(folder: Folder) -> pd.DataFrame:
    """The cells of all images of the catalogue's runs that were judged."""
    parts = [pd.DataFrame(columns=[*CELL, "images"])]
    for run in folder.runs:
        for seed, place in folder.seed_folders(run).items():
            path = place / "scores.jsonl"
            rows = [row | row["metrics"] for _, row in read_scores(path)] if path.exists() else []
            if rows:
                names = dict.fromkeys(name for row in rows for name in row["metrics"] if name not in LEFT_OUT)
                prompts = pd.DataFrame(rows).assign(run=run, seed=seed).groupby(CELL, sort=False)
                parts.append(prompts[[*names]].mean().assign(images=prompts.size()).reset_index())
    return pd.concat(parts[1:] or parts, ignore_index=True)


def runs(folder: Folder) -> Iterator[dict]:
    """The lines of runs.jsonl.xz."""
    for run in folder.runs:
        courses = folder.metrics(run)
        for record in folder.records(run):
            rows = [row for _, row in courses.get(record.get("seed", 0), ())]
            trained = [row for row in rows if row["kind"] == "train"]
            columns = {name: [row.get(name) for row in trained] for name in TRAINED if any(name in r for r in trained)}
            validations = [row for row in rows if row["kind"] == "validation"]
            yield record | {"validations": validations, "training": columns}


def write(folder: Folder, out: Path) -> None:
    """Write the results into ``out``, in place of what is there of the same name; equal results give equal bytes."""
    for pattern in COPIED:
        for path in sorted(folder.root.glob(pattern)):
            with files.replacing(out / path.relative_to(folder.root)) as temporary:
                shutil.copyfile(path, temporary)
    table = cells(folder).to_csv(index=False, float_format="%.4g", lineterminator="\n")
    lines = "".join(json.dumps(line) + "\n" for line in runs(folder))
    for name, text in {"cells.csv.xz": table, "runs.jsonl.xz": lines}.items():
        with files.replacing(out / name) as temporary:
            temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
