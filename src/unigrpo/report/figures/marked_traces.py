"""Reasoning traces and images of one run (the paper's Figures 6 to 8 show UniGRPO, base and SFT). Bold words contradict
the prompt; in italics are words that the image does not follow. A fixed rule draws the prompts.
"""

from __future__ import annotations

import textwrap

from unigrpo.report.data import results, samples
from unigrpo.report.pages import drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Reasoning traces and images of one run", __doc__, reads="samples/done.json", most_runs=1)
COLUMNS = ["prompt_id", "prompt", "run", "trace", "correct", "reason", "disputed"]
TRACE_COLUMNS = 2
CHARACTERS = 34  # of the trace's type, in the width beside an image
LOOKS = {  # mark of report.data.samples -> what it means, its look; either differs from plain type without colour
    "": ("", {"color": "#222222"}),
    "plan": ("the trace contradicts the prompt", {"color": "#b2182b", "fontweight": "bold"}),
    "paint": ("the trace is right, the image is not", {"color": "#08519c", "fontweight": "bold", "style": "italic"}),
}


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    (run,) = spec["runs"]
    found = drawing.first_samples(run, spec, sources)
    shown = [found[prompt] for prompt in drawing.drawn_prompts(found, spec)]
    lines = -(-len(shown) // TRACE_COLUMNS)
    ratios = [1, 1.65] * TRACE_COLUMNS
    figure, axes = drawing.panels(lines, 2 * TRACE_COLUMNS, 0.65 + 1.25 * lines, width_ratios=ratios)
    pairs = axes.reshape(-1, 2)
    for picture, text in pairs:
        text.set_axis_off()
        picture.set_visible(False)
    for (picture, text), sample in zip(pairs, shown, strict=False):
        picture.set_visible(True)
        drawing.draw_sample(picture, sample)
        _beside(text, sample)
    figure.suptitle(sources.folder.label(run), fontweight="bold", fontsize=9)
    for x, mark in ((0.19, "plan"), (0.81, "paint")):  # the middle is for the sign of disputed pictures
        means, look = LOOKS[mark]
        figure.text(x, 0.005, means, ha="center", va="bottom", fontsize=6.5, **look)
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))
    return figure, [drawing.record(run, sample) for sample in shown]


def _beside(axis, sample: samples.Sample) -> None:
    """Prompt, trace and verdict from top to bottom, in lines of a fixed height. A line of the trace is set in type of
    one width, once a mark, with the other words blank: so each word stays in its place whatever its look."""
    said, color, _ = drawing.VERDICTS[sample.correct]
    entries = sample.plan or [[(line, "")] for line in drawing.wrapped([sample.raw_trace], CHARACTERS)]
    reasons = sample.reason.split("\n") if sample.reason else []
    verdict = drawing.wrapped([f"✗ {reasons[0]}", *reasons[1:]] if reasons else [said], 44)
    y = 0.93

    def put(line: str, **look) -> None:
        axis.text(0, y, line, transform=axis.transAxes, va="baseline", **look)

    for line in textwrap.wrap(sample.prompt.removeprefix("a photo of "), 32):
        put(line, fontsize=7, fontweight="bold")
        y -= 0.115
    y -= 0.015
    for entry in entries:
        for mark, (_, look) in LOOKS.items():
            line = " ".join(word if m == mark else " " * len(word) for word, m in entry)
            put(line, fontsize=6, family=["monospace", *drawing.INSTALLED], **look)
        y -= 0.1
    y -= 0.02
    for line in verdict:
        put(line, fontsize=6, color=color)
        y -= 0.095
