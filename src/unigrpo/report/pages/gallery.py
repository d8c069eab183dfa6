"""A static gallery: every prompt, the same noise in every run side by side, with trace, verdict and scores.

One page, index.html (its template is gallery.html), and small PNG files; it opens from disk, without a server or a
network. The same page with its images inside is one file to pass on, and what the workflow's report holds. It shows
the first sample of each run's first seed: nothing is picked by hand. The reader can filter by category and by what
changed between two runs.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import jinja2
from PIL import Image

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_text, write_text
from unigrpo.report.data import phrases
from unigrpo.report.data.results import CATEGORIES, Folder
from unigrpo.report.data.samples import Sample, read_samples

TEMPLATE = Path(__file__).with_name("gallery.html")
STAGES = ("base", "sft", "rl")
LARGEST = 256  # pixels: what a page of hundreds of images needs of each
VERDICTS = {True: "right", False: "wrong", None: "unjudged"}
WORDS = {"right": "✓ right", "wrong": "✗ wrong", "unjudged": "not judged"}
SCORES = ("ta", "strict", "gold", "second", "proxy")
"""Shown beside an image, where it has them; GenEval's official verdict is the headline itself."""


def runs_with_samples(folder: Folder, guidance: str) -> dict[str, Mapping[str, Sample]]:
    """Run -> its samples, with thinking where there are any; base first, then SFT, then the rest by name."""
    found = {}
    for path in sorted((folder.root / "runs").glob("*")):
        samples = read_samples(folder, path.name, "think", guidance)
        found[path.name] = samples or read_samples(folder, path.name, "direct", guidance)

    def order(run: str) -> tuple[int, str]:
        stage = folder.config(run).get("stage", STAGES[-1])
        return STAGES.index(stage), run

    return {run: found[run] for run in sorted(found, key=order) if found[run]}


def _cell(sample: Sample, run: str, out: Path) -> dict:
    """Write the image; what the page says of it."""
    source = f"images/{run}/{re.sub(r'[^A-Za-z0-9_-]+', '-', sample.prompt_id)}.png"
    (out / source).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sample.image)
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(out / source)
    return {
        "src": source,
        "side": picture.width,
        "verdict": VERDICTS[sample.correct],
        "plan": sample.plan or [],
        "raw": sample.raw_trace,
        "reason": sample.reason.splitlines(),
        "scores": {name: sample.scores[name] for name in SCORES if name in sample.scores},
    }


def _cells(prompt: str, runs: Mapping[str, Mapping[str, Sample]], out: Path) -> dict[str, dict | None]:
    """Run -> what the page says of its image of a prompt; None without one."""
    return {run: _cell(samples[prompt], run, out) if prompt in samples else None for run, samples in runs.items()}


def write(folder: Folder, out: Path, guidance: str) -> None:
    """Write index.html and its images into the empty folder ``out``."""
    runs = runs_with_samples(folder, guidance)
    if not runs:
        raise UserError(f"{folder.root / 'runs'}: no run has samples at guidance '{guidance}'")
    prompts = {s.prompt_id: s for samples in runs.values() for s in samples.values()}
    tags = dict.fromkeys([*CATEGORIES, *(s.tag for s in prompts.values())])
    categories = {
        tag: [(s.prompt, _cells(s.prompt_id, runs, out)) for s in prompts.values() if s.tag == tag] for tag in tags
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(read_text(TEMPLATE)).render(
        title=f"Samples, scale {folder.root.name}", scale=phrases.scale_of(list(runs), folder).replace("`", ""),
        guidance=guidance, labels={run: folder.label(run) for run in runs}, verdicts=WORDS,
        categories={tag: shown for tag, shown in categories.items() if shown},
    )  # fmt: skip
    write_text(out / "index.html", html)


def embedded(folder: Path) -> str:
    """The page of ``folder`` with its images inside, as data URIs."""

    def data(match: re.Match) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()}"'

    return re.sub(r'src="(images/[^"]+)"', data, read_text(folder / "index.html"))


def make(folder: Folder, out: Path, single: Path, guidance: str = "tuned") -> None:
    """Write the folder ``out``, in place of one that is there, and the page ``single`` with its images inside. Raises
    UserError where no run has samples."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        write(folder, temporary, guidance)
        write_text(single, embedded(temporary))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
