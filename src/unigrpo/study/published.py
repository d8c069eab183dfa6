"""Published lines: what tables, figures and claims read of a finished run, without its weights and pictures.

``results/reference/<scale>/published`` has a pair of files for each run and seed, and for each start.
``<name>.json`` is a line of JSON: the run's record (settings, ends), its course, and the records of its steps, which
say what they were made from. ``<name>.xz`` has scores, validations and protocols. Where a call asks for it
(``published=use``), a line that fits is laid out in results/<scale> and counts as done: its steps have the settings,
the code and the inputs that they would have now, and so have the steps that made those inputs.
"""

import hashlib
import json
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from unigrpo.core import files
from unigrpo.core.errors import UserError, reading
from unigrpo.study import resolve, standing
from unigrpo.study.catalogue import BASE, runs_in_use
from unigrpo.study.config import LEARNED

START = "start"  # the run by whose name the line of a start is called
OF_A_START = ("decoding.json", "*/model.json", "*/report.json", "*/run.json")
OF_A_RUN = ("run.json", "metrics.jsonl", "scores.jsonl", "validation/*.jsonl")
OF_A_RUN += ("samples/done.json", "samples/*/protocol.json")
IN_THE_LINE = {"steps", "run.json", "metrics.jsonl"}  # folders and names
Texts = dict[str, str]  # path in results/<scale> -> content


def folder_of(scale: str) -> Path:
    """Where the lines of a scale are."""
    return Path("results/reference", scale, "published")


def publish(study: resolve.Study, runs: list[str], replace: bool = False) -> Iterator[str]:
    """Write the lines of ``runs``, of all without any, and of the starts, where they are finished, judged and up
    to date; a parent of others need not be judged. Yields what was done. Raises UserError for an unknown run, and for
    a line of other content, unless it is to be replaced."""
    scale, places = Path("results", study.scale_name), {}
    for run in runs or study.runs():
        study.config(run, 0)
        places |= {f"{run}.{path.name}": path for path in sorted((scale / "runs" / run).glob("seed*"))}
    damaged = {path.stem for path in standing.damaged(scale).values()}
    for name in [*(f"{START}.seed{seed}" for seed in range(study.scale["seeds"])), *places]:
        held = sorted(each for patterns in _patterns(name) for pattern in patterns for each in scale.glob(pattern))
        texts = {each.relative_to(scale).as_posix(): files.read_text(each) for each in held}
        path = folder_of(study.scale_name) / f"{name}.json"
        if not texts or any(made.get("published") for made in _steps(texts).values()):
            continue
        if lacks := _lacks(name, texts, study) or _changes(texts, study, damaged):
            yield f"{name}: not published, {lacks}"
            continue
        before, now = {} if replace or not path.exists() else _identity(_unpack(path)), _identity(texts)
        if before and before == now:
            yield f"{name}: published before"
            continue
        if any(now.get(step) != made for step, made in before.items()):
            raise UserError(f"{path}: is published with other content; --replace writes over it")
        line, packed = _pack(texts)
        with files.replacing(path.with_suffix(".xz")) as temporary:
            temporary.write_bytes(packed)
        files.write_text(path, line)
        yield f"{name}: published"


def _patterns(name: str) -> tuple[list[str], list[str]]:
    """Of a line's name: the records of its steps, and its other files, in results/<scale>."""
    run, _, seed = name.partition(".seed")
    if run == START:
        steps = ("tune", "reward_data", *LEARNED)
        return [f"steps/{step}.{seed}.jsonl" for step in steps], [f"starts/seed{seed}/{each}" for each in OF_A_START]
    return [f"steps/*.{run}.{seed}.jsonl"], [f"runs/{run}/seed{seed}/{each}" for each in OF_A_RUN]


def _lacks(name: str, texts: Texts, study: resolve.Study) -> str:
    """What a run still has to be; nothing of a start."""
    run, made = name.partition(".")[0], {Path(out).name for each in _steps(texts).values() for out in each["outputs"]}
    if run == START:
        return ""
    trained = f"{run}.seed0" != name and run == BASE or "run.json" in made
    parent = any(line["init"] == run for line in study.catalogue["runs"].values())
    judged = parent or "scores.jsonl" in made or not ("done.json" in made or _is_judged(run, study))
    return "it is not finished" if not trained else "" if judged else "it is not judged"


def _is_judged(run: str, study: resolve.Study) -> bool:
    return run in runs_in_use(study.catalogue, judged=True)


def _changes(texts: Texts, study: resolve.Study, damaged: set[str]) -> str:
    """What has changed since the steps were made."""
    changes = {step: _differences(step, made, study) for step, made in _steps(texts).items()}
    changes |= {step: ["its outputs differ from its record"] for step in damaged & changes.keys()}
    return "; ".join(f"{step}: {', '.join(found)}" for step, found in changes.items() if found)


def _differences(step: str, made: Mapping, study: resolve.Study, keep_code: bool = False) -> list[str]:
    return standing.differences(made, standing.settings_of(step, study), keep_code)


def _steps(texts: Texts) -> dict[str, dict]:
    """Step -> what it was made from, of those that have ended."""
    rows = ((Path(path).stem, row) for path in texts if path.startswith("steps/") for row in _parsed(path, texts[path]))
    return {step: row["made"] for step, row in rows if "made" in row}


def _identity(texts: Texts) -> dict[str, dict]:
    """The same without the record of a run, which has times."""
    steps = _steps(texts)
    for made in steps.values():
        made["outputs"] = {path: digest for path, digest in made["outputs"].items() if Path(path).name != "run.json"}
    return steps


# ------------------------------------------------------------------------------------------ files


def _pack(texts: Texts) -> tuple[str, bytes]:
    """The two files of a line; equal texts give equal bytes."""
    wanted = [path for path in texts if {Path(path).name, Path(path).parts[0]} & IN_THE_LINE]
    parsed = {path: _parsed(path, texts[path]) for path in wanted}
    parsed = {path: found for path, found in parsed.items() if _text(path, found) == texts[path]}
    others = json.dumps({path: text for path, text in texts.items() if path not in parsed})
    line = json.dumps({"digest": _digest(parsed, others)} | parsed) + "\n"
    return line, lzma.compress(others.encode(), preset=9 | lzma.PRESET_EXTREME)


def _unpack(path: Path) -> Texts:
    """What a line holds. Raises UserError naming the file that is damaged or missing."""
    parsed, packed = files.read_json(path, "digest"), path.with_suffix(".xz")
    with files.opened(packed) as file, reading(packed, "a published file, restore it from git"):
        others = lzma.LZMADecompressor().decompress(file.read(), files.LARGEST).decode()
    if parsed.pop("digest") != _digest(parsed, others):
        raise UserError(f"{path}: is damaged, it and {packed.name} differ from its digest; restore them from git")
    texts = {each: _text(each, found) for each, found in parsed.items()} | files.parse_json(others, packed)
    if odd := [each for each in texts if {"..", "/"} & {*Path(each).parts}]:
        raise UserError(f"{path}: expected paths in results/<scale>, found {odd[0]!r}")
    return texts


def _parsed(path: str, text: str) -> dict | list:
    return files.parse_json(text, path) if path.endswith(".json") else [r for _, r in files.json_lines(text, path)]


def _text(path: str, parsed: dict | list) -> str:
    """As the files of a run are written."""
    if path.endswith(".json"):
        return json.dumps(parsed, indent=2) + "\n"
    return "".join(json.dumps(row) + "\n" for row in parsed)


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------ use


def lay_out(study: resolve.Study, keep_code: bool = False) -> dict[tuple[str, int], Path]:
    """Lay the lines that fit out in results/<scale>, with marks that say so, but for runs that are there; others are
    named on stderr. (run, seed) -> line of those that count as done. Raises UserError for a damaged line."""
    scale, counted = Path("results", study.scale_name), {}
    runs = {f"{run}.seed{seed}": (run, seed) for run in study.runs() for seed in study.seeds(run)}
    shared = [f"{START}.seed{seed}" for seed in range(study.scale["seeds"])]
    paths = {name: folder_of(study.scale_name) / f"{name}.json" for name in (*shared, *runs)}
    lines = {name: _unpack(path) for name, path in paths.items() if path.exists()}
    lines = {name: texts for name, texts in lines.items() if not _is_own(scale, texts)}
    causes = _causes(scale, paths, lines, partial(_differences, study=study, keep_code=keep_code))
    for name, texts in lines.items():
        if found := dict.fromkeys(cause for step in _steps(texts) for cause in causes(step)):
            print(f"published line {name} does not fit: {'; '.join(found)}", file=sys.stderr)
        elif name in shared:
            _write(scale, texts)
        elif any(path.endswith("/scores.jsonl") for path in texts) or not _is_judged(runs[name][0], study):
            _write(scale, _marked(scale, texts))
            counted[runs[name]] = paths[name]
    return counted


def _is_own(scale: Path, texts: Texts) -> bool:
    """Whether results/<scale> has what a line holds from elsewhere than from a line."""
    records = [made for path in texts if path.startswith("steps/") and (made := standing.read(scale / path))]
    of_start = ("run.json", "metrics.jsonl") if any(made.get("shipped") for made in records) else ()
    others = [path for path in texts if not path.startswith("steps/") and Path(path).name not in of_start]
    laid = records and all(made.get("published") or made.get("shipped") for made in records)
    return any((scale / path).exists() for path in others) and not laid


def _causes(scale: Path, names: Iterable[str], lines: Mapping[str, Texts], differences: Callable) -> Callable:
    """A function: step -> the first steps of its chain that would be others now, each with what has changed."""
    here = {path for name in names for pattern in _patterns(name)[0] for path in scale.glob(pattern)}
    known = {path.stem: made for path in here if (made := standing.read(path)) and "published" not in made}
    for texts in lines.values():
        records = (_parsed(path, text) for path, text in texts.items() if path.endswith("/run.json"))
        pieces = [piece for record in records for piece in record.get("pieces", ())]
        steps = {step: made | {"pieces": pieces} for step, made in _steps(texts).items()}
        known |= {step: made for step, made in steps.items() if not known.get(step, {}).get("shipped")}
    makers = {path: step for step, made in known.items() for path in made["outputs"]}

    @cache
    def causes(step: str) -> tuple[str, ...]:
        made, absent, earlier = known[step], [], {}
        for path, digest in made["inputs"].items():
            maker = makers.get(path)
            earlier |= dict.fromkeys(causes(maker)) if maker else {}
            if standing.content(path) is None and (maker is None or known[maker]["outputs"][path] != digest):
                absent.append(f"input {path}")
        found = differences(step, made) + absent
        return tuple(earlier) or tuple([f"{step}: {', '.join(found)}"] * bool(found))

    return causes


def _marked(scale: Path, texts: Texts) -> Texts:
    """The files of a run with marks in its record and in those of its steps; its record comes first."""
    paths = [each for each in texts if each.endswith("/run.json")]  # none where the weights are another seed's
    marked = {path: _text(path, _parsed(path, texts[path]) | {"published": True}) for path in paths}
    digests = {str(scale / path): hashlib.sha256(text.encode()).hexdigest() for path, text in marked.items()}
    for step in (each for each in texts if each.startswith("steps/")):
        rows = _parsed(step, texts[step])
        for made in (row["made"] for row in rows if "made" in row):
            made["published"] = True
            made["outputs"] |= {name: digests[name] for name in made["outputs"] if name in digests}
        marked[step] = _text(step, rows)
    return marked | {each: text for each, text in texts.items() if each not in marked}


def _write(scale: Path, texts: Texts) -> None:
    for path, text in texts.items():
        if not (scale / path).exists() or files.read_text(scale / path) != text:
            files.write_text(scale / path, text)
