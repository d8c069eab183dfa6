"""What is out of date: the record of every step says what it was made from, and content decides, not dates.

A step of the workflow leaves ``results/<scale>/steps/<step>.jsonl``: what it has used (``provenance.recorded``) and
what it was ``made`` from. It is out of date where a setting, an input or a piece of its code is another one now. One
whose output is another than it has written is damaged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from unigrpo.core import code_identity, files
from unigrpo.core.errors import UserError
from unigrpo.study.provenance import ROOT, versions

LARGE = 100 * 2**20  # bytes of a file whose digest is kept, by the times that the system gives it
DIGESTS = ROOT / ".snakemake" / "digests.json"
BY_HAND = ("tables", "figures", "compare", "gallery")  # folders of outputs that a reader may edit


def made(settings: Mapping, inputs: Iterable[str], outputs: Iterable[str]) -> dict:
    """What a step that has ended was made from, for its record."""
    found = {"settings": settings, "inputs": _contents(inputs), "outputs": _contents(outputs)}
    return found | {"code": code_identity.loaded(), "versions": versions()}


def reasons(record: Path, output: str, settings: Mapping, keep_code: bool = False) -> list[str]:
    """Why a step whose first ``output`` is there is out of date: settings, inputs and modules of code that are others
    now; none where it is up to date, or not there. ``keep_code`` takes other code for the same."""
    if not Path(output).exists():
        return []
    try:
        return _reasons(before, settings, keep_code) if (before := _read(record)) else ["no record of its making"]
    except UserError as damage:
        return [str(damage)]


def _reasons(before: Mapping, settings: Mapping, keep_code: bool) -> list[str]:
    old = before["settings"]
    other = [name for name in dict.fromkeys([*old, *settings]) if old.get(name) != settings.get(name)]
    other += [f"input {path}" for path, digest in before["inputs"].items() if content(path) not in (digest, None)]
    other += [path for path in _altered(before) if _by_hand(path)]
    code = [] if keep_code else changed_code(before)
    return other + [f"code: {', '.join(code)}"] * bool(code)


def changed_code(made_from: Mapping) -> list[str]:
    """The modules that have changed since a step was made; of a training, since any piece of it was."""
    pieces = [made_from]
    for path in made_from["outputs"]:
        if Path(path).name == "run.json" and Path(path).exists():
            pieces += files.read_json(path).get("pieces", [])
    return list(dict.fromkeys(name for piece in pieces for name in code_identity.changed(piece["code"])))


def damaged(folder: Path) -> dict[str, Path]:
    """Output -> record, of all outputs below the results of a scale that are others than their steps have written, but
    for what a reader may edit."""
    records = {path: found for path in sorted((folder / "steps").glob("*.jsonl")) if (found := _read(path))}
    return {out: path for path, found in records.items() for out in _altered(found) if not _by_hand(out)}


def accept(found: Mapping[str, Path]) -> None:
    """Take damaged outputs for what their steps have written; what was made from them is out of date."""
    for output, path in found.items():
        rows = [row for _, row in files.read_jsonl(path)]
        for row in rows:
            if "made" in row:
                row["made"]["outputs"][output] = content(output)
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def content(path: str | Path) -> str | None:
    """Digest of a file, or of all files of a folder; None where there is nothing."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(each for each in path.rglob("[!.]*") if each.is_file())  # Snakemake leaves a hidden one
        return "+".join([str(len(inside)), *(content(each)[:8] for each in inside)])
    return _digest(str(path), *_times(path)) if path.exists() else None


def _times(path: Path) -> tuple[int, ...]:
    """Size and times of a file; no program can set the last of them."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


@cache
def _digest(path: str, *times: int) -> str:
    """The digest of a file as it is at these times: of a large one from the file of digests, where that has it."""
    if times[0] < LARGE:
        return files.digest(path)
    known = files.read_json(DIGESTS) if DIGESTS.exists() else {}
    key = json.dumps([os.path.abspath(path), *times])
    if key not in known:
        files.write_json(DIGESTS, known | {key: files.digest(path)})
    return files.read_json(DIGESTS)[key]


def _read(record: Path) -> dict | None:
    """What a step was made from; None where it has not ended, or was killed while it wrote that."""
    with suppress(UserError):
        return next((row["made"] for _, row in files.read_jsonl(record) if "made" in row), None)


def _contents(paths: Iterable[str]) -> dict[str, str | None]:
    return {path: content(path) for path in paths}


def _altered(made_from: Mapping) -> list[str]:
    return [path for path, digest in made_from["outputs"].items() if content(path) not in (digest, None)]


def _by_hand(path: str, folders: Collection[str] = BY_HAND) -> bool:
    return any(part in folders for part in Path(path).parts) or Path(path).stem in ("claims", "gallery")
