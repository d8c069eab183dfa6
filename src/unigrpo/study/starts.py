"""Shipped starts: what reinforced runs start from, as files of the repository. Start k is SFT, decoding and rewards of
seed k; all have one base.

``assets/base`` and ``assets/starts/seed<k>`` have weights and reports, ``assets/starts/steps`` the records of the steps
that made them. A step that fits is laid out in results/<scale> with its record, and counts as done: its settings, and
those of all that it rests on, are those of now. By other code it fits all the same.
"""

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from unigrpo.core import files
from unigrpo.core.errors import UserError
from unigrpo.core.settings import Settings, checked
from unigrpo.study import resolve, standing
from unigrpo.study.catalogue import BASE, SFT
from unigrpo.study.config import LEARNED

ASSETS = Path("assets")
STEPS = ASSETS / "starts" / "steps"
OF_A_MODEL = ("model.*", "tokenizer/*", "metrics.jsonl", "report.json", "run.json")  # what is shipped of its folder


class Shipped(Settings, extra="allow"):
    """The record of a step, with the digests of the files that are shipped, by their names."""

    made: standing.Made
    files: dict[str, str]


def steps(seeds: int) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Step -> its folder in results/<scale>, the one in ``assets``, the names there. Each comes after its inputs'."""
    found = {f"pretrain.{BASE}.0": (f"runs/{BASE}/seed0", "base", OF_A_MODEL)}
    for start, k in ((f"starts/seed{k}", k) for k in range(seeds)):
        found[f"sft.{SFT}.{k}"] = f"runs/{SFT}/seed{k}", f"{start}/{SFT}", OF_A_MODEL
        found[f"tune.{k}"] = start, start, ("decoding.json",)
        found[f"reward_data.{k}"] = f"{start}/reward_data", "", ()  # rewards rest on it, reinforcement does not
        found |= {f"{reward}.{k}": (f"{start}/{reward}", f"{start}/{reward}", OF_A_MODEL) for reward in LEARNED}
    return found


def ship(study: resolve.Study) -> Iterator[str]:
    """Copy what is finished of the base and the starts into ``assets``. Yields what was done. Raises UserError for what
    is out of date."""
    scale = Path("results", study.scale_name)
    for step, (folder, place, names) in steps(study.scale["seeds"]).items():
        made = standing.read(scale / "steps" / f"{step}.jsonl")
        if made is None or made.get("shipped"):
            yield f"{step}: {'shipped before' if made else 'not there'}"
            continue
        if found := standing.differences(made, standing.settings_of(step, study)):
            raise UserError(f"{step}: is out of date ({'; '.join(found)}), expected what is to be shipped")
        paths = sorted(path for name in names for path in (scale / folder).glob(name))
        named = {path.relative_to(scale / folder).as_posix(): path for path in paths}
        record = STEPS / f"{step}.jsonl"
        record.unlink(missing_ok=True)
        for name, path in named.items():
            _copy(path, ASSETS / place / name)
        row = {"step": step, "made": made, "files": {name: files.digest(path) for name, path in named.items()}}
        files.write_text(record, json.dumps(row) + "\n")
        yield f"{step}: shipped, {sum(path.stat().st_size for path in paths) / 1e6:.2f} MB"


def lay_out(study: resolve.Study, anew: bool = False, keep_code: bool = False, published: bool = False) -> None:
    """Lay the steps that fit out in results/<scale>, but for those that are made there and up to date; the others are
    named on stderr, and one that was laid out before counts no more. ``anew``: only by the code of now do they fit.
    ``published``: lines that are laid out (``study.published``) stay. Raises UserError for a file that is damaged."""
    scale, present, causes = Path("results", study.scale_name), {}, defaultdict(list)
    for step, (folder, place, _) in steps(study.scale["seeds"]).items():
        record, shipped = scale / "steps" / f"{step}.jsonl", _shipped(step, scale)
        made, here = shipped and shipped["made"], standing.read(record)
        settings = standing.settings_of(step, study)
        counts = here and (published if here.get("published") else not here.get("shipped"))
        if counts and not standing.differences(here, settings, keep_code):
            redrawn = made and not place and here["inputs"] == made["inputs"]  # which may round otherwise here
            present |= made["outputs"] if redrawn else here["outputs"]
            if made and _weights(made) == _weights(here):
                _put(shipped, ASSETS / place, scale / folder, replace=False)
            continue
        found = []
        if made:
            found = standing.differences(made | {"inputs": {}, "outputs": {}}, settings, keep_code=not anew)
            found += [f"input {path}" for path, digest in made["inputs"].items() if present.get(path) != digest]
        if made and not found:
            present |= made["outputs"]
            text = json.dumps({"step": step, "made": made if anew else made | {"inputs": {}, "shipped": True}}) + "\n"
            if not record.exists() or files.read_text(record) != text:
                record.unlink(missing_ok=True)  # until all files are there
            _put(shipped, ASSETS / place, scale / folder)
            files.write_text(record, text)
        elif here and here.get("shipped"):
            record.unlink()
        if found and not all(each.startswith("input ") for each in found):
            causes["; ".join(found)].append(step)
    for cause, those in causes.items():
        print(f"not as shipped, made here: {', '.join(those)}: {cause}", file=sys.stderr)


def _shipped(step: str, scale: Path) -> dict | None:
    """The record of a step that is shipped for this scale. Raises UserError for a file that is another than shipped."""
    path = STEPS / f"{step}.jsonl"
    rows = [checked(Shipped, row, where) for where, row in files.read_jsonl(path)] if path.exists() else []
    ours = [row for row in rows if all(out.startswith(f"{scale}/") for out in row["made"]["outputs"])]
    return ours[0] if ours else None


def _weights(made: Mapping) -> dict[str, str | None]:
    """Outputs of a step without the record of a run, which a published line marks."""
    return {path: digest for path, digest in made["outputs"].items() if Path(path).name != "run.json"}


def _put(shipped: Mapping, source: Path, folder: Path, replace: bool = True) -> None:
    """Copy the files of a shipped step into its folder; those that are there too, where ``replace``."""
    for name, digest in shipped["files"].items():
        if standing.content(source / name) != digest:
            raise UserError(f"{source / name}: is not the file that was shipped; restore it from git, or `make base`")
        if standing.content(folder / name) != digest and (replace or not (folder / name).exists()):
            _copy(source / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    with files.replacing(target) as temporary:
        shutil.copyfile(source, temporary)
