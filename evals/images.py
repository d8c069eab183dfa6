"""Judge real images by a benchmark: ``unigrpo judge geneval --images DIR``.

Writes into ``--out``: ``images.jsonl``, a row an image with verdict, reason and what was seen, in the columns that
``unigrpo collect`` reads; ``summary.json``; and ``failed.jsonl``, which names the images that could not be judged. What
was judged when a run ends early stays in ``images.jsonl.part`` and is not judged again by the next of the same version.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from evals.benchmarks import Judge
from evals.instruments.picture_files import Picture, Pictures, read
from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.files import accessing, read_text, write_json, write_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.core.settings import check_options
from unigrpo.report.data.stats import Cells, Estimate, estimate, written
from unigrpo.study.facts import BENCHMARKS, BenchmarkFacts

PART = "images.jsonl.part"
SHOWN = 3  # failures that are printed; failed.jsonl has all
HELD = 4  # batches of images that wait for others of their size, at most

Batch = list[tuple[int, Picture, Image, str]]
"""Images of one size: place among all, picture, image, key."""

Results = dict[int, dict | UserError]
"""Place among all images -> its row, or why it has none."""


def batches(
    found: Pictures, batch: int, results: Results, check: Callable[[Picture], None], done: Mapping[str, dict]
) -> Iterator[Batch]:
    """The images to judge, opened, ``batch`` of one size at once. What ``check`` refuses or cannot be opened goes into
    ``results``, and so do rows that are ``done``, by key."""
    waiting: dict[tuple[int, int], Batch] = {}
    for place, picture in enumerate(found.pictures):
        try:
            check(picture)
            image = picture.open()
        except UserError as error:
            results[place] = error
            continue
        key = _key(picture, image)
        if key in done:
            results[place] = done[key]
            continue
        same = waiting.setdefault(image.size, [])
        same.append((place, picture, image, key))
        if len(same) == batch:
            yield waiting.pop(image.size)
        elif sum(map(len, waiting.values())) >= HELD * batch:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _key(picture: Picture, image: Image) -> str:
    """What a verdict depends on besides the judge: the prompt and the pixels."""
    prompt = picture.prompt
    known = json.dumps([picture.name, picture.sample, prompt.id, prompt.text, prompt.tag, prompt.meta], sort_keys=True)
    return hashlib.sha256(known.encode() + repr(image.size).encode() + image.tobytes()).hexdigest()[:16]


def sorted_out(found: Pictures, results: Results) -> tuple[list[dict], list[dict]]:
    """(rows of images, {image, problem} of failures), each in the order of the images."""
    ordered = [(found.pictures[place].name, results[place]) for place in sorted(results)]
    failed = [*((name, str(result)) for name, result in ordered if isinstance(result, UserError)), *found.broken]
    rows = [result for _, result in ordered if not isinstance(result, UserError)]
    return rows, [{"image": name, "problem": problem} for name, problem in failed]


def run(found: Pictures, judge: Judge, benchmark: str, out: Path, batch: int) -> tuple[list[dict], list[dict]]:
    """Judge ``found`` -> (rows of images, rows of failures), each in the order of the images; see the module. Raises
    UserError for a metric that is not a finite number."""
    header = {"benchmark": benchmark, "version": judge.version}
    header |= {"mode": found.protocol["mode"], "guidance": found.protocol["guidance_name"]}
    results: Results = {}
    part = out / PART
    done = _resumed(part, header)
    write_text(part, "".join(json.dumps(line) + "\n" for line in (header, *done.values())))
    with part.open("a", encoding="utf-8") as file, tqdm(total=len(found.pictures), desc=benchmark, disable=None) as bar:
        for group in batches(found, batch, results, judge.check, done):
            places, pictures, images, keys = zip(*group, strict=True)
            for place, picture, key, row in zip(places, pictures, keys, judge.judge(pictures, images), strict=True):
                if isinstance(row, UserError):
                    results[place] = row
                    continue
                for name, value in row["metrics"].items():
                    if not math.isfinite(value):
                        raise UserError(f"{picture.name}: metric '{name}' is {value}, not a finite number")
                results[place] = header | picture.names | {"prompt": picture.prompt.text} | row | {"key": key}
                with accessing(part, "written"):
                    file.write(json.dumps(results[place]) + "\n")
                    file.flush()
            bar.update(len(group))
    return sorted_out(found, results)


def _resumed(part: Path, header: dict) -> dict[str, dict]:
    """Key -> row of what an earlier run of the same header judged. A last line that was cut off is left out."""
    text = read_text(part) if part.exists() else ""
    try:
        first, *judged = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return {row["key"]: row for row in judged} if first == header else {}
    except (ValueError, LookupError, TypeError):
        return {}  # no record of ours


def intervals(rows: Sequence[dict], by_category: bool) -> dict[str, Estimate]:
    """Mean and 95 % interval of each metric over prompts, whose images count together; ``by_category``: the mean of
    the tasks' means. Sizes (``atoms``) are left out."""
    prompts: dict[str, list[dict]] = {}
    for row in rows:
        prompts.setdefault(row["prompt_id"], []).append(row)
    names, tags = tuple(prompts), tuple(group[0]["tag"] for group in prompts.values())
    found = {}
    for metric in rows[0]["metrics"]:
        if metric != "atoms":
            means = [sum(row["metrics"][metric] for row in group) / len(group) for group in prompts.values()]
            cells = Cells(np.asarray([means], dtype=float), (0,), names, tags)
            found[metric] = estimate(cells, numpy_generator(0, "images", metric), by_category)
    return found


def write(
    rows: Sequence[dict],
    failed: Sequence[dict],
    judge: Judge,
    facts: BenchmarkFacts,
    benchmark: str,
    out: Path,
    commits: Sequence[str] = (),
) -> list[str]:
    """Write the results of a finished run, by weights of the hub's ``commits``, into ``out``; returns the lines that
    report them."""
    numbers, lines = judge.summary(rows) if rows else ({}, [])
    if rows:
        found = intervals(rows, by_category=facts.by_task)
        numbers |= {"intervals": {name: [e.mean, e.lo, e.hi] for name, e in found.items()}}
        shown = ", ".join(f"{name} {written(e.mean, e.lo, e.hi, '.4f')}" for name, e in found.items())
        lines.append(f"95 % intervals over {next(iter(found.values())).prompts} prompts: {shown}")
    about = {"benchmark": benchmark, "title": facts.title, "version": judge.version, "weights": commits}
    about |= {"images": len(rows), "failed": len(failed)}
    write_text(out / "images.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(out / "summary.json", about | numbers | {"caveat": facts.caveat})
    (out / PART).unlink(missing_ok=True)
    (out / "failed.jsonl").unlink(missing_ok=True)
    if failed:
        write_text(out / "failed.jsonl", "".join(json.dumps(row) + "\n" for row in failed))
    head = [f"{facts.title} ({judge.version})", f"{len(rows)} images judged, {len(failed)} could not be"]
    return [*head, *lines, f"Note: {facts.caveat}", f"written: {out}"]


def beside(images: Path, benchmark: str) -> Path:
    """Where the results go by default. ``images`` may be relative, as ``.`` is; a link keeps its name."""
    images = Path(os.path.abspath(images))
    return images.with_name(f"{images.name}.{benchmark}")


def judge_images(benchmark: str, images: Path, out: Path | None, batch: int, options: dict) -> int:
    """Judge what lies at ``images`` and write the results into ``out`` (by default beside it); returns the number of
    images that could not be judged. ``options``: of the benchmark. Raises UserError."""
    module = BENCHMARKS.load(benchmark)
    check_options(module.build, options, lambda option: f"--{option.replace('_', '-')}")
    found = module.read(images, **options) if hasattr(module, "read") else read(images)
    out = out or beside(images, benchmark)
    with weights.watched() as checkpoints:
        judge = module.build(**options)
    rows, failed = run(found, judge, benchmark, out, batch)
    print("\n".join(write(rows, failed, judge, module.FACTS, benchmark, out, weights.commits(checkpoints))))
    show_failed(failed, "judged", f": {out / 'failed.jsonl'}")
    return len(failed)


def show_failed(failed: Sequence[dict], done: str, where: str = "") -> None:
    """Print the first of what could not be ``done``, {image, problem} each, and their number to stderr."""
    for row in failed[:SHOWN]:
        print(f"not {done}: {row['image']}: {row['problem']}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} images were not {done}{where}", file=sys.stderr)
