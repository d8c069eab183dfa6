"""A static gallery: the first sample of every prompt, from the same noise in every run, with trace, verdict and scores.

One page, index.html (its template is gallery.html), and small PNG files; it opens from disk, without a server or a
network. The same page with its images inside is one file to pass on, and what the workflow's report holds.
"""

import base64
import os
import re
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

TEMPLATE = Path(__file__).with_name("gallery.html")
STAGES = ("base", "sft", "rl", "outside")
LARGEST = 256  # pixels: what a page of hundreds of images needs of each
VERDICTS = {True: ("right", "✓ right"), False: ("wrong", "✗ wrong"), None: ("unjudged", "not judged")}  # class, words
HIDDEN = ("official", "atoms", "soft", "artefact")  # scores that are not shown; the first is the verdict itself


def _cell(sample: Sample, run: str, out: Path) -> dict:
    """Write the image; what the page says of it."""
    source = f"images/{run}/{sample.benchmark}/{re.sub(r'[^A-Za-z0-9_-]+', '-', sample.prompt_id)}.png"
    (out / source).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sample.image)
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(out / source)
    return {
        "src": source,
        "inside": f"data:image/png;base64,{base64.b64encode((out / source).read_bytes()).decode()}",
        "side": picture.width,
        "verdict": VERDICTS[sample.correct],
        "plan": sample.plan or [],
        "raw": sample.raw_trace,
        "reason": sample.reason.splitlines(),
        "scores": {name: value for name, value in sample.scores.items() if name not in HIDDEN},
    }


def make(folder: Folder, out: Path, single: Path, guidance: str = "tuned") -> None:
    """Write the folder ``out`` with index.html and its images, in place of one that is there, and the page ``single``
    with its images inside. Base is first, then SFT, then the other runs by name, each with thinking where there is any.
    Raises UserError where no run has samples."""
    found = {}
    for run in sorted(path.name for path in (folder.root / "runs").glob("*")):
        found[run] = read_samples(folder, run, "think", guidance) or read_samples(folder, run, "direct", guidance)
    stages = {run: STAGES.index(folder.config(run).get("stage", STAGES[-1])) for run in found}
    runs = {run: found[run] for run in sorted(found, key=stages.get) if found[run]}
    absent = [folder.label(run) for run in found if folder.without_pictures(run)]
    if not runs and not absent:
        raise UserError(f"{folder.root / 'runs'}: no run has samples at guidance '{guidance}'")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=out.parent) as temporary:
        new, categories = Path(temporary, out.name), {}
        for prompt, sample in {key: s for samples in runs.values() for key, s in samples.items()}.items():
            cells = {run: _cell(each[prompt], run, new) if prompt in each else None for run, each in runs.items()}
            category = f"{folder.benchmarks[sample.benchmark].label}, {sample.tag.replace('_', ' ')}"
            categories.setdefault(category, []).append((sample.prompt, cells))
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        page = {
            "title": f"Samples, scale {folder.root.name}",
            "scale": phrases.scale_of(list(runs), folder).replace("`", ""),
            "absent": f"P{phrases.PICTURELESS[1:]}: {', '.join(absent)}" if absent else "",
            "guidance": guidance,
            "labels": {run: folder.label(run) for run in runs},
            "categories": categories,
        }
        for path, source in ((new / "index.html", "src"), (single, "inside")):
            write_text(path, environment.from_string(read_text(TEMPLATE)).render(page, source=source))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(new, out)
