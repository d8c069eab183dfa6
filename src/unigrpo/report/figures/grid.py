"""The same prompts and the same noise, a column a prompt and a row a run: verdict and reasoning trace under each image;
many prompts stand in several bands. A fixed rule draws the prompts (the paper's Figure 2).
"""

from __future__ import annotations

from unigrpo.report.data import results, samples
from unigrpo.report.pages import drawing
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Samples of several runs", __doc__, reads="samples/done.json")
MOST = 7  # prompts beside each other
COLUMNS = ["prompt_id", "prompt", "run", "trace", "correct", "reason", "disputed"]


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    runs = spec["runs"]
    found = {run: drawing.first_samples(run, spec, sources) for run in runs}
    prompts = drawing.drawn_prompts(found[runs[0]], spec)
    bands = -(-len(prompts) // MOST)
    columns = -(-len(prompts) // bands)
    height = bands * (0.55 + len(runs) * (drawing.WIDTH / columns + 0.5))
    figure, axes = drawing.panels(bands * len(runs), columns, height)
    rows = []
    for number, line in enumerate(axes):
        run, first = runs[number % len(runs)], number // len(runs) * columns
        line[0].set_ylabel(sources.folder.label(run), fontweight="bold", fontsize=8.5)
        for axis in line[len(prompts) - first :]:
            axis.set_axis_off()
        for axis, prompt in zip(line, prompts[first : first + columns], strict=False):
            sample = found[run].get(prompt)
            if sample is None:
                axis.set(xticks=[], yticks=[])
                drawing.say_missing(axis)
                axis.set_box_aspect(1)
            else:
                drawing.draw_sample(axis, sample)
                _under(axis, sample, 156 // columns)
                rows.append(drawing.record(run, sample))
            if run == runs[0]:
                axis.set_title(drawing.subject(sample.prompt, 110 // columns), fontsize=7.5, pad=5)
    return figure, rows


def _under(axis, sample: samples.Sample, width: int) -> None:
    """The verdict on one line, the trace below it in lines of ``width`` letters."""
    said, color, _ = drawing.VERDICTS[sample.correct]
    objects = [" ".join(word for word, _ in entry) for entry in sample.plan or ()] or [sample.raw_trace]
    axis.set_xlabel("\n".join(["", *drawing.wrapped(objects, width)]), fontsize=5.8, linespacing=1.25, labelpad=3)
    axis.annotate(
        said, (0.5, 0), xytext=(0, -2.5), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="top", fontsize=6.2, fontweight="bold", color=color,
    )  # fmt: skip
