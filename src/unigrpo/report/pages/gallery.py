"""A static gallery: the first sample of every prompt, from the same noise in every run, with trace, verdict and scores.

Its runs are the catalogue's, in its order. Pictures are called by position, <run>/<prompt>.png, so that no two ids can
share one. The page shows PAGE prompts at a time and keeps its filters in its address. It opens from disk, without a
server or a network; with its images inside it is one file to pass on, and what the workflow's report holds.
"""

import base64
import os
import shutil
import tempfile
from pathlib import Path

import jinja2
from PIL import Image

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_text, write_text
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Folder
from unigrpo.report.data.samples import Sample, read_samples
from unigrpo.report.data.stats import form

TEMPLATE = Path(__file__).with_name("gallery.html")
PAGE = 50  # prompts at a time
LARGEST = 256  # pixels: what a page of hundreds of images needs of each
VERDICTS = {True: ("right", "✓ right"), False: ("wrong", "✗ wrong"), None: ("unjudged", "not judged")}  # class, words
HIDDEN = ("official", "atoms", "soft", "artefact")  # scores that are not shown; the first is the verdict itself


def _cell(sample: Sample, source: str, out: Path) -> dict:
    """Write the image; what the page says of it."""
    (out / source).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sample.image)
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(out / source)
    return {
        "src": source,
        "inside": f"data:image/png;base64,{base64.b64encode((out / source).read_bytes()).decode()}",
        "side": picture.width,
        "verdict": VERDICTS[sample.correct],
        "disputed": sample.disputed,
        "plan": sample.plan or [],
        "raw": sample.raw_trace,
        "reason": sample.reason.splitlines(),
        "scores": {name: value for name, value in sample.scores.items() if name not in HIDDEN},
    }


def make(folder: Folder, out: Path, single: Path, guidance: str = "tuned") -> None:
    """Write the folder ``out`` with index.html and its images, in place of one that is there, and the page ``single``
    with its images inside; every run with thinking where there is any. Raises UserError where no run has samples."""
    found = {}
    for run in folder.runs:
        found[run] = read_samples(folder, run, "think", guidance) or read_samples(folder, run, "direct", guidance)
    runs = {run: samples for run, samples in found.items() if samples}
    absent = [folder.label(run) for run in found if folder.without_pictures(run)]
    notes = [f"P{phrases.PICTURELESS[1:]}: {', '.join(absent)}."] if absent else []
    if strays := folder.strays():
        notes.append(f"Not in the catalogue, and not shown: {', '.join(strays)}.")
    if not runs and not absent:
        raise UserError(f"{folder.root / 'runs'}: no run has samples at guidance '{guidance}'")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=out.parent) as temporary:
        new, prompts, scores = Path(temporary, out.name), [], {}
        for number, (key, sample) in enumerate({k: s for each in runs.values() for k, s in each.items()}.items()):
            sources = {run: f"images/{place}/{number}.png" for place, run in enumerate(runs)}
            cells = {run: _cell(each[key], sources[run], new) if key in each else None for run, each in runs.items()}
            category = f"{folder.benchmarks[sample.benchmark].label}, {sample.tag.replace('_', ' ')}"
            prompts.append((sample.prompt, category, cells))
            for name, value in (pair for cell in cells.values() if cell for pair in cell["scores"].items()):
                scores.setdefault(name, []).append(value)
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        page = {
            "title": f"Samples, scale {folder.root.name}",
            "scale": phrases.scale_of(list(runs), folder).replace("`", ""),
            "notes": notes,
            "page": PAGE,
            "forms": {name: form((-2, 2), [(max(each) - min(each)) / 10]) for name, each in scores.items()},
            "guidance": guidance,
            "labels": {run: folder.label(run) for run in runs},
            "prompts": prompts,
            "categories": list(dict.fromkeys(category for _, category, _ in prompts)),
        }
        for path, source in ((new / "index.html", "src"), (single, "inside")):
            write_text(path, environment.from_string(read_text(TEMPLATE)).render(page, source=source))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(new, out)
