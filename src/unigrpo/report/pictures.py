"""Figures of images with their traces and verdicts.

* grid (Figure 2): prompts x runs, the same prompts and noise in every row
* traces (Figures 6-8): one run, each image beside its trace; the words that the verdict turned on are marked

Prompts are drawn by a fixed rule, not picked: one for each of GRID_TAGS or TRACE_TAGS, so that every traces figure
shows the same ones; always the first seed and sample.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from unigrpo.core.errors import UserError
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.marks import PAINT, PLAN
from unigrpo.report.results import CATEGORIES
from unigrpo.report.rows import Sources
from unigrpo.report.samples import Sample, read_samples

WIDTH = 6.4  # inches: the text width of a page
VERDICTS = {
    True: ("✓ right", "#1b7837", "-"),
    False: ("✗ wrong", "#b2182b", "--"),
    None: ("not judged", "#7f7f7f", ":"),
}
"""Verdict -> its words, colour and line: greyscale keeps them apart too."""
GRID_TAGS = ("counting", "position", "color_attr", "compound", "compound")
TRACE_TAGS = (*CATEGORIES, "compound", "compound")
COLUMNS = ["prompt_id", "prompt", "run", "trace", "correct", "reason"]


def drawn_prompts(samples: Mapping[str, Sample], tags: Sequence[str]) -> list[str]:
    """Ids of prompts of these tags, each once, by a draw that depends on the set of prompts alone."""
    rng = numpy_generator(0, "grid")
    drawn: list[str] = []
    for tag in tags:
        left = [s.prompt_id for s in samples.values() if s.tag == tag and s.prompt_id not in drawn]
        if left:
            drawn.append(left[rng.integers(len(left))])
    return drawn


def _read(run: str, spec: Mapping, sources: Sources) -> dict[str, Sample]:
    guidance = spec.get("guidance", "tuned")
    found = read_samples(sources.folder, run, "think", guidance)
    if not found:
        raise UserError(f"{sources.folder.root / 'runs' / run}: no images with thinking at guidance '{guidance}'")
    return found


def _record(run: str, sample: Sample) -> tuple:
    return sample.prompt_id, sample.prompt, run, sample.trace or "", sample.correct, sample.reason


def _subject(sample: Sample) -> str:
    return sample.prompt.removeprefix("a photo of ")


def _cut(lines: Sequence[str], most: int) -> list[str]:
    """At most ``most`` lines, with a sign that there were more."""
    return [*lines[: most - 1], lines[most - 1] + " …"] if len(lines) > most else list(lines)


def _wrapped(texts: Iterable[str], width: int) -> list[str]:
    return [part for text in texts for part in textwrap.wrap(text, width)]


def draw_sample(axis, sample: Sample) -> None:
    """The image in a frame that tells the verdict."""
    axis.imshow(sample.image, interpolation="bicubic")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    _, color, style = VERDICTS[sample.correct]
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=1.2, linestyle=style)


# ------------------------------------------------------------------------------------------ grid


def grid(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A column a prompt, a row a run; verdict and trace under each image."""
    runs = spec["runs"]
    found = {run: _read(run, spec, sources) for run in runs}
    prompts = drawn_prompts(found[runs[0]], GRID_TAGS)
    size = (WIDTH, 0.55 + len(runs) * (WIDTH / len(prompts) + 0.5))
    figure, axes = plt.subplots(len(runs), len(prompts), figsize=size, squeeze=False)
    rows = []
    for line, run in zip(axes, runs, strict=True):
        line[0].set_ylabel(sources.folder.label(run), fontweight="bold", fontsize=8.5)
        for axis, prompt in zip(line, prompts, strict=True):
            sample = found[run].get(prompt)
            if sample is None:
                axis.set(xticks=[], yticks=[])
                axis.text(0.5, 0.5, "not available", ha="center", va="center", transform=axis.transAxes)
                axis.set_box_aspect(1)
            else:
                draw_sample(axis, sample)
                _under(axis, sample)
                rows.append(_record(run, sample))
    for axis, prompt in zip(axes[0], prompts, strict=True):
        axis.set_title(textwrap.fill(_subject(found[runs[0]][prompt]), 22), fontsize=7.5, pad=5)
    return figure, pd.DataFrame(rows, columns=COLUMNS)


def _under(axis, sample: Sample) -> None:
    """The verdict on a line of its own, the trace below it."""
    said, color, _ = VERDICTS[sample.correct]
    objects = [" ".join(word for word, _ in entry) for entry in sample.plan or ()] or [sample.raw_trace]
    lines = _cut(_wrapped(objects, 28), 4)
    axis.set_xlabel("\n".join(["", *lines]), fontsize=5.8, linespacing=1.25, labelpad=3)
    axis.annotate(
        said, (0.5, 0), xytext=(0, -2.5), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="top", fontsize=6.2, fontweight="bold", color=color,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ traces

TRACE_COLUMNS = 2
CHARACTERS = 34  # of the trace's type, in the width beside an image
MARKS = {  # mark -> what it means, its look; either is told from plain type without colour
    "": ("", {"color": "#222222"}),
    PLAN: ("the trace contradicts the prompt", {"color": "#b2182b", "fontweight": "bold"}),
    PAINT: ("the trace is right, the image is not", {"color": "#08519c", "fontstyle": "italic", "fontweight": "bold"}),
}


def traces(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """Each image of one run with its prompt, trace and verdict beside it."""
    if len(spec["runs"]) != 1:
        raise UserError(f"a figure of kind 'traces' shows one run, found 'runs' {', '.join(spec['runs'])}")
    (run,) = spec["runs"]
    found = _read(run, spec, sources)
    shown = [found[prompt] for prompt in drawn_prompts(found, TRACE_TAGS)]
    lines = -(-len(shown) // TRACE_COLUMNS)
    size = (WIDTH, 0.65 + 1.25 * lines)
    figure, axes = plt.subplots(
        lines, 2 * TRACE_COLUMNS, figsize=size, squeeze=False, width_ratios=[1, 1.65] * TRACE_COLUMNS
    )
    pairs = axes.reshape(-1, 2)
    for picture, text in pairs:
        text.set_axis_off()
        picture.set_visible(False)
    for (picture, text), sample in zip(pairs, shown, strict=False):
        picture.set_visible(True)
        draw_sample(picture, sample)
        _beside(text, sample)
    figure.suptitle(sources.folder.label(run), fontweight="bold", fontsize=9)
    for x, mark in ((0.27, PLAN), (0.73, PAINT)):
        means, look = MARKS[mark]
        figure.text(x, 0.005, means, ha="center", va="bottom", fontsize=6.5, **look)
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))
    return figure, pd.DataFrame([_record(run, sample) for sample in shown], columns=COLUMNS)


def _beside(axis, sample: Sample) -> None:
    """Prompt, trace and verdict from top to bottom, in lines of a fixed height. A line of the trace is set in type of
    one width, once a mark, with the other words blank: so each word stays in its place whatever its look."""
    said, color, _ = VERDICTS[sample.correct]
    entries = sample.plan or [[(line, "")] for line in _cut(_wrapped([sample.raw_trace], CHARACTERS), 4)]
    reasons = sample.reason.split("\n") if sample.reason else []
    verdict = _cut(_wrapped([f"✗ {reasons[0]}", *reasons[1:]] if reasons else [said], 44), 4)
    y = 0.93

    def put(line: str, **look) -> None:
        axis.text(0, y, line, transform=axis.transAxes, va="baseline", **look)

    for line in textwrap.wrap(_subject(sample), 32):
        put(line, fontsize=7, fontweight="bold")
        y -= 0.115
    y -= 0.015
    for entry in entries:
        for mark, (_, look) in MARKS.items():
            line = " ".join(word if m == mark else " " * len(word) for word, m in entry)
            put(line, fontsize=6, family="monospace", **look)
        y -= 0.1
    y -= 0.02
    for line in verdict:
        put(line, fontsize=6, color=color)
        y -= 0.095
