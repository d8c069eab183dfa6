"""What is out of date: the record of every step says what it was made from, and content decides, not dates.

A step of the workflow leaves ``results/<scale>/steps/<step>.jsonl``: what it has used (``provenance.recorded``) and
what it was ``made`` from. It is out of date where a setting, an input or a piece of its code is another one now. One
whose output is another than it has written is damaged.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from math import inf
from pathlib import Path
from statistics import median

from unigrpo.core import code_identity, files
from unigrpo.core.errors import UserError, reading
from unigrpo.core.registry import declarations
from unigrpo.core.settings import NotNegative, Settings, checked, flat
from unigrpo.study import resolve
from unigrpo.study.benchmark_entry import Benchmark, of_group
from unigrpo.study.catalogue import OUTSIDE, SFT
from unigrpo.study.config import LEARNED
from unigrpo.study.provenance import ROOT, Piece, read_record, versions
from unigrpo.study.training_inputs import named_files

LARGE = 100 * 2**20  # bytes of a file whose digest is kept, by the times that the system gives it
DIGESTS = ROOT / ".snakemake" / "digests.json"
TO_TRAIN = ROOT / ".snakemake" / "to_train.json"  # the steps that train in the call that runs now
LENGTH = "rl.rollouts"  # the setting by which a finished run goes on
PARTS = {each: each for each in LEARNED}  # step -> the part of the settings that decides it; any other is a training
PARTS |= {"tune": "tuning", "reward_data": LEARNED[0], "sample": "evaluation"}
BY_HAND = ("tables", "figures", "compare", "gallery", "claims", "index")  # folders of outputs that a reader may edit


class Made(Piece):
    """What a step was made from."""

    settings: dict
    inputs: dict[str, str | None]
    outputs: dict[str, str | None]
    pieces: list[Piece] = []
    published: bool = False
    shipped: bool = False  # whether it is one of a start that the repository ships: by other code it is the same


class Row(Settings, extra="allow"):
    """Of the record of a step."""

    seconds: NotNegative = 0
    made: Made | None = None


@declarations()
def settings_of(step: str, study: resolve.Study) -> dict:
    """What decides a step beside its inputs and its code. ``step`` is ``<kind>.<seed>`` of a start (tune, reward_data,
    the name of a learned reward), or ``<kind>.<run>.<seed>``, whose kind is sample, score or one of training; of the
    first two ``.<group>`` follows where they are of a group's benchmarks. Raises UserError for an unknown run."""
    kind, *which, seed = (parts := step.split("."))[:3]
    run, group = which[0] if which else SFT, parts[3] if len(parts) > 3 else None
    named = of_group(study.catalogue["benchmarks"], group).items()
    if kind == "score":
        judges = {n: {b.judge: b.judge_options, **b.also_report} for n, b in named}
        return {n: [each, *map(content, named_files(each))] for n, each in judges.items()}
    if kind == OUTSIDE:
        return flat(study.config(run, int(seed))) | _sets(named)
    found = flat(resolve.part(study.config(run, int(seed)), PARTS.get(kind, "training")))
    if which and kind != "sample" and study.catalogue["runs"][run]["init"]:
        found["parent"] = list(study.parent(run, int(seed)))
    return found | (_sets(named) | {"modes": study.modes(run)} if kind == "sample" else {})


def _sets(named: Iterable[tuple[str, Benchmark]]) -> dict[str, list]:
    """What decides which images of a benchmark there are to be."""
    return {n: [b.prompts, content(ROOT / b.prompts), b.version, b.images, b.least_prompts] for n, b in named}


def begun(
    record: Path, inputs: Iterable[str], outputs: Iterable[str], settings: Mapping | None = None
) -> Callable[[], dict]:
    """A function that says at a step's end what it was made from; ``settings`` are those that it cannot know itself."""
    if settings is None:
        settings = settings_of(record.stem, resolve.chosen_study(record.parts[-3]))
    about = {"settings": json.loads(json.dumps(settings)), "inputs": _contents(inputs), "versions": versions()}
    return lambda: about | {"outputs": _contents(outputs), "code": code_identity.loaded()}


def reasons(record: Path, output: str, settings: Mapping, keep_code: bool = False) -> list[str]:
    """Why a step is out of date: settings, inputs and modules of code that are others now; none where it is up to
    date, or neither it nor its first ``output`` is there. ``keep_code`` takes other code for the same. What a published
    line has laid out (``study.published``) is out of date wherever it is asked about."""
    before = read(record)
    if before and before.get("published"):
        return ["its published line does not count in this call"]
    try:
        if before is not None:
            return differences(before, settings, keep_code)
        return ["no record of its making"] if Path(output).exists() else []
    except UserError as damage:
        return [str(damage)]


def differences(before: Mapping, settings: Mapping, keep_code: bool = False) -> list[str]:
    """Settings, inputs that are there, and modules of code that are others now than when a step was ``made``."""
    old = before["settings"]
    other = [name for name in dict.fromkeys([*old, *settings]) if old.get(name) != settings.get(name)]
    other += [f"input {path}" for path, digest in before["inputs"].items() if content(path) not in (digest, None)]
    other += [path for path in _altered(before) if _by_hand(path)]
    code = [] if keep_code else changed_code(before)
    return other + [f"code: {', '.join(code)}"] * bool(code)


def changed_code(made_from: Mapping) -> list[str]:
    """The modules that have changed since a step was made; of a training, since any piece of it was."""
    return list(dict.fromkeys(name for code in _codes(made_from) for name in code_identity.changed(code)))


def _codes(made_from: Mapping) -> list[dict[str, str]]:
    if made_from.get("shipped"):
        return []
    records = [path for path in map(Path, made_from["outputs"]) if path.name == "run.json" and path.exists()]
    pieces = [piece for record in records for piece in read_record(record.parent).get("pieces", [])]
    return [piece["code"] for piece in (made_from, *made_from.get("pieces", ()), *pieces)]


def codes_of(folder: Path, run: str, seed: int) -> list[dict[str, str]]:
    """What a run at a seed was made by, in the results of a scale: the code (module -> hash) of each piece of its
    training, of its images, of their scores, and of all steps that these rest on."""
    steps = folder / "steps"
    records = _records(steps, steps.stat().st_mtime_ns) if steps.exists() else {}
    makers = {path: step for step, made_from in records.items() for path in made_from["outputs"]}
    waiting = [step for step in records if step.endswith(f".{run}.{seed}")]
    reached = set(waiting)
    while waiting:
        new = {makers[path] for path in records[waiting.pop()]["inputs"] if path in makers} - reached
        reached |= new
        waiting += new
    return [code for step in sorted(reached) for code in _codes(records[step])]


@lru_cache(maxsize=1)
def _records(steps: Path, _when: int) -> dict[str, dict]:
    """Step -> what it was made from, of a folder of records as it was then."""
    return {path.stem: made_from for path in sorted(steps.glob("*.jsonl")) if (made_from := read(path))}


def lengthened(record: Path, settings: Mapping, why: Collection[str]) -> bool:
    """Whether all that is out of date about a training is that it is to be longer."""
    before = read(record)
    return before is not None and [*why] == [LENGTH] and settings[LENGTH] > before["settings"][LENGTH]


def summary(to_train: Mapping[str, tuple[str, Collection[str]]], up_to_date: int, seconds: float | None) -> str:
    """One line for what a call trains: step -> (``new``, ``continued``, ``longer``, ``anew`` or ``after`` another that
    is trained, why it is out of date). ``seconds`` are those that it takes, where they are known."""
    parts = []
    for name in ("new", "continued", "longer", "stale", "changed", "after"):
        found = [why for kind, why in to_train.values() if (_kind(why) if kind == "anew" else kind) == name]
        words = dict.fromkeys(reason for why in found for reason in why)
        parts += [f"{len(found)} {name}{f' ({_joined(words)})' if words else ''}"] if found else []
    how_long = "" if seconds is None or not parts else f"; {about(seconds)}"
    return f"to train: {', '.join(parts) or 'nothing'}; up to date: {up_to_date}{how_long}"


def about(seconds: float) -> str:
    """A length of time in words."""
    many = max(1, round(seconds / 60))
    return f"about {many} minute{'s' * (many > 1)}"


def _kind(why: Collection[str]) -> str:
    return "stale" if all(reason.startswith("code: ") for reason in why) else "changed"


def _joined(reasons: Iterable[str]) -> str:
    """Reasons in a row, the modules of all of them together."""
    code = dict.fromkeys(module for r in reasons if r.startswith("code: ") for module in r[6:].split(", "))
    other = [reason.removeprefix("rl.") for reason in reasons if not reason.startswith("code: ")]
    return ", ".join([*other, *[f"code: {', '.join(code)}"] * bool(code)])


def duration(steps: Iterable[str], scale: str, at_once: int) -> float | None:
    """Seconds that these steps take, ``at_once`` of them beside each other, by their last time, else by the median of
    steps of their kind at ``scale``, here or in our results; None where one of them is not known."""
    results = ROOT / "results"
    paths, reference = (results / scale / "steps").glob("*.jsonl"), results / "reference" / scale / "steps.csv"
    known = {path.stem: row["seconds"] for path in paths for row in _rows(path) if "seconds" in row}
    if reference.exists():
        (_, names), *rows = files.csv_rows(files.read_text(reference), reference)
        with reading(reference, "steps with their seconds"):
            rows = [dict(zip(names, row, strict=True)) for _, row in rows]
            known = {row["step"]: float(row["seconds"]) for row in rows} | known
    kinds = defaultdict(list)
    for step, seconds in known.items():
        kinds[step.partition(".")[0]].append(seconds)
    each = [known.get(step, median(kinds[step.partition(".")[0]] or [inf])) for step in steps]
    return None if inf in each else sum(each) / at_once


def damaged(folder: Path) -> dict[str, Path]:
    """Output -> record, of a scale's outputs that are not as their steps wrote them, but for what a reader may edit."""
    records = {path: found for path in sorted((folder / "steps").glob("*.jsonl")) if (found := read(path))}
    return {out: path for path, found in records.items() for out in _altered(found) if not _by_hand(out)}


def accept(found: Mapping[str, Path]) -> None:
    """Take damaged outputs for what their steps have written; what was made from them is out of date."""
    for output, path in found.items():
        rows = _rows(path)
        for row in rows:
            if "made" in row:
                row["made"]["outputs"][output] = content(output)
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def content(path: str | Path) -> str | None:
    """Digest of a file, or of all files of a folder; None where there is nothing."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(each for each in path.rglob("[!.]*") if each.is_file())  # Snakemake leaves a hidden one
        named = "".join(f"{each.relative_to(path).as_posix()}\0{content(each)}\n" for each in inside)
        return hashlib.sha256(named.encode()).hexdigest()
    found = path.stat() if path.exists() else None  # no program can set the last of its times
    return found and _digest(str(path), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


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


def read(record: Path) -> dict | None:
    """What a step was made from; None where it has not ended, or was killed while it wrote that."""
    return next((row["made"] for row in _rows(record) if isinstance(row.get("made"), dict)), None)


def _rows(record: Path) -> list[dict]:
    with suppress(UserError):
        return [checked(Row, row, where) for where, row in files.read_jsonl(record)]
    return []


def _contents(paths: Iterable[str]) -> dict[str, str | None]:
    return {path: content(path) for path in paths}


def _altered(made_from: Mapping) -> list[str]:
    return [path for path, digest in made_from["outputs"].items() if content(path) not in (digest, None)]


def _by_hand(path: str) -> bool:
    return any(re.split("[._]", part)[0] in BY_HAND for part in Path(path).parts[2:3])  # of results/<scale>/...
