"""Judge real images by a benchmark: ``unigrpo judge geneval --images DIR``.

Writes into ``--out``: ``images.jsonl``, a row an image with verdict, reason and what was seen, in the columns that
``unigrpo collect`` reads; ``failed.jsonl``, which names the images that could not be judged; last ``summary.json``. The
next run of the same version judges what is new, changed or failed: other verdicts are found by prompt and pixels in
``images.jsonl``, or in ``images.jsonl.part`` where this one ended early.
"""

import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL.Image import Image
from tqdm import tqdm

from evals.benchmarks import Judge, mean
from evals.instruments import pixel_statistics
from evals.instruments.picture_files import Picture, Pictures, read
from unigrpo.core import weights
from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import accessing, write_json, write_text
from unigrpo.core.records import same_text
from unigrpo.core.settings import check_options
from unigrpo.report.data.rows import check_range, range_of
from unigrpo.report.data.stats import Cells, Estimate, estimate, written
from unigrpo.study.facts import BENCHMARKS, STATISTICS, BenchmarkFacts

ROWS, PART, FAILED, SUMMARY = "images.jsonl", "images.jsonl.part", "failed.jsonl", "summary.json"
SHOWN = 3  # failures that are printed; failed.jsonl has all
HELD = 4  # batches of images that wait for others of their size, at most
AHEAD, READERS = 8, 2  # images that are read before they are needed, threads that read them

Batch = list[tuple[int, Picture, Image, str]]
"""Images of one size: place among all, picture, image, key."""

Results = dict[int, dict | UserError]
"""Place among all images -> its row, or why it has none."""


def batches(
    found: Pictures, batch: int, results: Results, check: Callable[[Picture], None], done: Mapping[str, dict],
    miniatures: dict[int, np.ndarray] | np.ndarray,
) -> Iterator[Batch]:  # fmt: skip
    """The images to judge, opened, ``batch`` of one size at once. What ``check`` refuses or cannot be opened goes into
    ``results``, and so do rows that are ``done``, by key. ``miniatures`` get one of every image, by place."""
    waiting: dict[tuple[int, int], Batch] = {}
    for place, picture, image, key in _opened(found, results, check):
        miniatures[place] = pixel_statistics.miniature(image)
        if key in done:
            results[place] = done[key] | picture.names
            continue
        same = waiting.setdefault(image.size, [])
        same.append((place, picture, image, key))
        if len(same) == batch:
            yield waiting.pop(image.size)
        elif sum(map(len, waiting.values())) >= HELD * batch:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _opened(found: Pictures, results: Results, check: Callable[[Picture], None]) -> Iterator[tuple]:
    """Place, picture, image and key of what can be opened, in order."""

    def opened(picture: Picture) -> tuple[Image, str]:
        with reading(picture.name, "an image"):
            image = picture.open()
            return image, _key(picture, image)

    ahead: deque = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for place, picture in enumerate([*found.pictures, *[None] * AHEAD]):
            if len(ahead) == AHEAD or (picture is None and ahead):
                *names, future = ahead.popleft()
                try:
                    yield *names, *future.result()
                except UserError as error:
                    results[names[0]] = error
            try:
                if picture is not None:
                    with reading(picture.name, "an image and a prompt that can be judged"):
                        check(picture)
                    ahead.append((place, picture, pool.submit(opened, picture)))
            except UserError as error:
                results[place] = error


def _key(picture: Picture, image: Image) -> str:
    """What a verdict depends on besides the judge: the prompt and the pixels."""
    known = json.dumps([*picture.prompt.key, picture.prompt.meta], sort_keys=True)
    found = hashlib.sha256(f"{known}{image.size}".encode())
    found.update(np.ascontiguousarray(image))  # several times as fast as the image's own bytes
    return found.hexdigest()[:16]


def sorted_out(found: Pictures, results: Results) -> tuple[list[dict], list[dict]]:
    """(rows of images, {image, problem} of failures), each in the order of the images."""
    ordered = [(found.pictures[place].name, results[place]) for place in sorted(results)]
    failed = [*((name, str(result)) for name, result in ordered if isinstance(result, UserError)), *found.broken]
    rows = [result for _, result in ordered if not isinstance(result, UserError)]
    return rows, [{"image": name, "problem": problem} for name, problem in failed]


def run(found: Pictures, judge: Judge, benchmark: str, out: Path, batch: int) -> tuple[list[dict], list[dict]]:
    """Judge ``found`` -> (rows of images, rows of failures), each in the order of the images; see the module. What an
    earlier run says in sum is removed first."""
    header = {"benchmark": benchmark, "version": judge.version}
    header |= {"mode": found.protocol["mode"], "guidance": found.protocol["guidance_name"]}
    results: Results = {}
    # one array: as many small ones keep the large buffers apart in which Pillow makes them
    miniatures = np.zeros((len(found.pictures), *pixel_statistics.SHAPE), dtype=np.uint8)
    kept = {name: _judged(out / name, header) for name in (ROWS, PART)}
    for name in (SUMMARY, FAILED):
        (out / name).unlink(missing_ok=True)
    write_text(out / PART, _lines(kept[PART].values()))
    done = kept[ROWS] | kept[PART]
    with (out / PART).open("a", encoding="utf-8") as file, tqdm(total=len(found.pictures), disable=None) as bar:
        for group in batches(found, batch, results, judge.check, done, miniatures):
            places, pictures, images, keys = zip(*group, strict=True)
            rows = _verdicts(judge, benchmark, pictures, images)
            known = pixel_statistics.measured(images)
            for place, picture, image, key, row, more in zip(places, pictures, images, keys, rows, known, strict=True):
                if not isinstance(row, UserError):
                    row["metrics"] |= more
                    row = header | picture.names | {"prompt": picture.prompt.text} | image.info | row | {"key": key}
                results[place] = row
            with accessing(out / PART, "written"):
                file.write(_lines(results[p] for p in places if not isinstance(results[p], UserError)))
                file.flush()
            bar.update(len(group))
    judged = [place for place, row in results.items() if not isinstance(row, UserError)]
    prompts = [found.pictures[place].prompt.key for place in judged]
    unlike = pixel_statistics.diversity(prompts, [miniatures[place] for place in judged])
    for place, more in zip(judged, unlike, strict=True):
        results[place]["metrics"].pop("diversity", None)  # of an earlier run, which may have had other images
        results[place]["metrics"] |= more
    return sorted_out(found, results)


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _judged(path: Path, header: dict) -> dict[str, dict]:
    """Key -> row of what ``path`` holds of the same header; without a last line that was cut off, or any that is none
    of ours."""
    rows = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            if header.items() <= row.items():
                rows[row["key"]] = row
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    return rows


def _verdicts(judge: Judge, benchmark: str, pictures: Sequence[Picture], images: Sequence[Image]) -> list:
    """The judge's rows, or why there is none. What a library raises is the failure of its image, which is then judged
    alone."""
    try:
        return [_in_range(row, benchmark) for row in judge.judge(pictures, images)]
    except UserError:
        raise
    except Exception as error:
        if len(pictures) == 1:
            return [UserError(f"cannot be judged ({type(error).__name__}: {' '.join(str(error).split())})")]
        return [_verdicts(judge, benchmark, [p], [image])[0] for p, image in zip(pictures, images, strict=True)]


def _in_range(row: dict | UserError, benchmark: str) -> dict | UserError:
    try:
        for name, value in {}.items() if isinstance(row, UserError) else row["metrics"].items():
            check_range("metrics", benchmark, name, value)
        return row
    except UserError as error:
        return error


def intervals(rows: Sequence[dict], by_category: bool, benchmark: str) -> dict[str, Estimate]:
    """Mean and 95 % interval of each metric of ``benchmark`` over prompts, whose images count together;
    ``by_category``: the mean of the tasks' means. Sizes (``atoms``) are left out."""
    found = {}
    for metric in dict.fromkeys(name for row in rows for name in row["metrics"]):
        if metric != "atoms":
            prompts: dict[str, list[dict]] = {}
            for row in rows:
                if metric in row["metrics"]:  # the only image of a prompt has no diversity
                    prompts.setdefault(row["prompt_id"], []).append(row)
            names, tags = tuple(prompts), tuple(group[0]["tag"] for group in prompts.values())
            means = [sum(row["metrics"][metric] for row in group) / len(group) for group in prompts.values()]
            cells = Cells(np.asarray([means], dtype=float), (0,), names, tags, range_of(benchmark, metric))
            found[metric] = estimate(cells, by_category)
    return found


def covered(rows: Sequence[dict], prompts: Mapping[str, str] | None, samples: int, wanted: Mapping[str, int]) -> dict:
    """How much of a benchmark, whose ``prompts`` (text -> category) are known or None, the ``rows`` are: ``prompts`` of
    ``of``, least and most ``images`` of one where ``expected`` should be, ``outside`` (images of other prompts),
    ``categories`` (name -> prompts, of how many); and ``part``, the same in words where it is not the whole. Where its
    prompts are not known, each should have as many images as its metadata says, if it does (``wanted``, by text)."""
    counts = Counter(same_text(row["prompt"]) for row in rows)
    inside = counts if prompts is None else Counter({text: n for text, n in counts.items() if text in prompts})
    expected = max([samples, *inside.values()])
    found = {"prompts": len(inside), "of": prompts and len(prompts), "expected": expected}
    found |= {"images": [min(inside.values(), default=0), max(inside.values(), default=0)]}
    found |= {"outside": counts.total() - inside.total(), "categories": {}, "part": ""}
    have = Counter((prompts or {}).get(text, "") for text in inside)
    if any(sizes := Counter((prompts or {}).values())):
        found["categories"] = {tag: [have[tag], n] for tag, n in sizes.items()}
    if prompts and len(inside) < len(prompts):
        found["part"] = f"{len(inside)} of {len(prompts)} prompts"
    each = {text: max(n, wanted.get(text, 0)) if prompts is None else expected for text, n in inside.items()}
    if not found["part"] and inside.total() < (whole := sum(each.values())):
        found["part"] = f"{inside.total()} of {whole} images"
    return found


def _coverage_line(found: dict) -> str:
    of = f" of {found['of']}" if found["of"] else ""
    least, most = found["images"]
    each = f"{least} to {most}" if least < most else f"{most}"
    each += f" of {found['expected']}" * (most < found["expected"] and bool(found["of"]))
    lacking = [f"{tag} {n} of {wanted}" for tag, (n, wanted) in found["categories"].items() if n < wanted]
    line = f"{found['prompts']}{of} prompts, {each} image{'s' * (each != '1')} each"
    line += "; how many there should be is not known" * (not found["of"])
    line += f"; categories: {', '.join(lacking)}" * bool(lacking)
    line += f"; {found['outside']} images of prompts that are not the benchmark's" * bool(found["outside"])
    return line + f"; a part: {found['part']}" * bool(found["part"])


def write(
    rows: list[dict], failed: list, judge: Judge, facts: BenchmarkFacts, benchmark: str, out: Path, hub: Iterable = (),
    wanted: Mapping[str, int] | None = None,
) -> list[str]:  # fmt: skip
    """Write the results of a finished run into ``out``, with the files of the ``hub``; returns the lines that report
    them. ``wanted`` are the images that a prompt should have, as far as it says so."""
    numbers, lines = judge.summary(rows) if rows else ({}, [])
    coverage = covered(rows, judge.prompts, facts.samples, wanted or {})
    lines.insert(0, _coverage_line(coverage))
    if lossy := Counter(row["lossy"] for row in rows if "lossy" in row):
        lines.append(f"{lossy.total()} of {len(rows)} images are lossy ({', '.join(lossy)})")
    if rows:
        found = intervals(rows, facts.by_task, benchmark)
        numbers |= {"intervals": {name: [e.mean, e.lo, e.hi] for name, e in found.items()}}
        judged = {name: e for name, e in found.items() if name not in STATISTICS}
        shown = ", ".join(f"{name} {written(e.mean, e.lo, e.hi, '.4f')}" for name, e in judged.items())
        count = next(iter(found.values())).prompts
        lines.append(f"95 % intervals over {count} prompt{'s' * (count != 1)} alone (one replicate): {shown}")
        others = ", ".join(f"{name.replace('_', ' ')} {found[name].mean:.3f}" for name in found if name in STATISTICS)
        lines.append(f"without a judge: {others}")
        official = {name: mean(rows, name, facts.by_task, pictures=True) for name in judged if facts.averages_pictures}
        if any(abs(value - found[name].mean) > 1e-9 for name, value in official.items()):
            numbers |= {"as_official": official}
            lines.append(f"as the official tool averages: {', '.join(f'{n} {v:.4f}' for n, v in official.items())}")
    about = {"benchmark": benchmark, "title": facts.title, "version": judge.version, "weights": sorted(hub)}
    about |= {"images": len(rows), "failed": len(failed), "coverage": coverage, "lossy": lossy.total()}
    write_text(out / ROWS, _lines(row | {"part": coverage["part"]} for row in rows))
    if failed:
        write_text(out / FAILED, _lines(failed))
    write_json(out / SUMMARY, about | numbers | {"caveat": facts.caveat})
    (out / PART).unlink(missing_ok=True)
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
    hub = [name for name, path in checkpoints.items() if name != str(path)]
    said = [(same_text(p.prompt.text), p.prompt.meta.get("images")) for p in found.pictures]
    wanted = {text: many for text, many in said if type(many) is int}
    print("\n".join(write(rows, failed, judge, module.FACTS, benchmark, out, hub, wanted)))
    show_failed(failed, "judged", f": {out / FAILED}")
    return len(failed)


def show_failed(failed: Sequence[dict], done: str, where: str = "") -> None:
    """Print the first of what could not be ``done``, {image, problem} each, and their number to stderr."""
    for row in failed[:SHOWN]:
        print(f"not {done}: {row['image']}: {row['problem']}", file=sys.stderr)
    if failed:
        many = "1 image was" if len(failed) == 1 else f"{len(failed)} images were"
        print(f"{many} not {done}{where}", file=sys.stderr)
