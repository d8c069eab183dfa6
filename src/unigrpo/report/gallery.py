"""A static gallery: the same prompt side by side for every run, with its trace and verdict (Figures 2 and 6-8).

One page, index.html, and small PNG files; it opens from disk, without a server or a network. It shows the first
prompts of every category, always the first seed and sample: nothing is picked by hand.

    python -m unigrpo.report.gallery --results results/cpu --out results/cpu/gallery
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from PIL import Image

from unigrpo import cli
from unigrpo.files import write_text
from unigrpo.report.results import CATEGORIES, Folder
from unigrpo.report.samples import Sample, read_samples, trace_lines
from unigrpo.types import UserError

PER_CATEGORY = 8
STAGES = ("base", "sft", "rl")

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --right: #1b7837; --wrong: #b2182b; }
  body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; }
  body { max-width: {{ 12 * runs|length + 4 }}em; }
  nav a { margin-right: 1em; }
  h2 { margin: 2em 0 0; border-bottom: 1px solid var(--line); }
  h3 { font-size: 1em; margin: 1.6em 0 .5em; }
  .row { display: grid; grid-template-columns: repeat({{ runs|length }}, minmax(9em, 1fr)); gap: 1em; }
  figure { margin: 0; font-size: .8em; }
  figure b { display: block; margin-bottom: .2em; }
  img { width: 100%; max-width: 12em; border: 2px solid var(--line); box-sizing: border-box; }
  .right img { border-color: var(--right); } .wrong img { border-color: var(--wrong); }
  ul { list-style: none; margin: .3em 0; padding: 0; opacity: .8; }
  .verdict { color: var(--wrong); white-space: pre-line; } .right .verdict { color: var(--right); }
</style>
<h1>{{ title }}</h1>
<p>The first {{ per_category }} prompts of every category, {{ guidance }} guidance, first seed and sample; nothing is
picked by hand. Under each image the trace that was written before it, and the verdict: GenEval's official one, or the
exam questions that failed.</p>
<nav>{% for tag in categories %}<a href="#{{ tag }}">{{ tag }}</a>{% endfor %}</nav>
{% for tag, prompts in categories.items() %}
<h2 id="{{ tag }}">{{ tag }}</h2>
{% for prompt, cells in prompts %}
<h3>{{ prompt }}</h3>
<div class="row">
{% for run, cell in cells %}
  <figure{% if cell and cell.correct is not none %} class="{{ 'right' if cell.correct else 'wrong' }}"{% endif %}>
    <b>{{ run }}</b>
    {% if cell %}
    <img src="{{ cell.src }}" alt="{{ prompt }}, {{ run }}" loading="lazy">
    <ul>{% for line in cell.trace %}<li>{{ line }}</li>{% endfor %}</ul>
    <div class="verdict">{{ cell.verdict }}</div>
    {% else %}not available{% endif %}
  </figure>
{% endfor %}
</div>
{% endfor %}
{% endfor %}
</html>
"""


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
    Image.fromarray(sample.image).save(out / source)
    words = {True: "✓", False: f"✗ {sample.reason}", None: "not judged"}
    verdict = words[sample.correct]
    return {"src": source, "trace": trace_lines(sample.trace), "correct": sample.correct, "verdict": verdict}


def write(folder: Folder, out: Path, guidance: str, per_category: int) -> None:
    """Write index.html and its images into the empty folder ``out``."""
    runs = runs_with_samples(folder, guidance)
    if not runs:
        raise UserError(f"{folder.root / 'runs'}: no run has samples at guidance '{guidance}'")
    prompts = {s.prompt_id: s for samples in runs.values() for s in samples.values()}
    tags = [*CATEGORIES, *sorted({s.tag for s in prompts.values()} - set(CATEGORIES))]
    labels = {run: folder.label(run) for run in runs}
    categories = {}
    for tag in tags:
        shown = [s for s in prompts.values() if s.tag == tag][:per_category]
        if shown:
            categories[tag] = [
                (
                    s.prompt,
                    [
                        (labels[r], _cell(runs[r][s.prompt_id], r, out) if s.prompt_id in runs[r] else None)
                        for r in runs
                    ],
                )
                for s in shown
            ]
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    html = page.render(
        title=f"Samples, scale {folder.root.name}", runs=list(runs), guidance=guidance,
        per_category=per_category, categories=categories,
    )  # fmt: skip
    write_text(out / "index.html", html)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "unigrpo.report.gallery",
        "Show samples of all runs side by side, in a static page.",
        results="folder of the scale, results/<scale>",
        out="folder to write, replaced if it exists",
    )
    parser.add_argument("--guidance", choices=("tuned", "unguided"), default="tuned", help="which samples to show")
    parser.add_argument("--per-category", type=int, default=PER_CATEGORY, help="prompts of each category")
    args = parser.parse_args(argv)
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        write(Folder(args.results), temporary, args.guidance, args.per_category)
        shutil.rmtree(args.out, ignore_errors=True)
        os.replace(temporary, args.out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    cli.run(main)
