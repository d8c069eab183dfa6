"""Two runs side by side: paired differences with intervals and the probability of improvement, what each cost, their
validation curves, and pairs of images on whose prompt the two verdicts differ.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from unigrpo.core.errors import UserError
from unigrpo.core.files import write_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.data import lines as cells
from unigrpo.report.data import logs, phrases, samples, stats
from unigrpo.report.data.results import Line, Row, Scores, Sources
from unigrpo.report.pages import drawing, page

PAIRS = 3  # of images, where A alone is right and where B alone is


def compared(sources: Sources) -> list[tuple[str, str, str, str | None]]:
    """What is compared, where it was scored: in words, benchmark, metric, category."""
    lines = [(words, name, metric, None) for words, (_, name, metric, _) in cells.shown(sources).items()]
    for name, benchmark in sources.benchmarks.items():
        tags = benchmark.categories()
        if benchmark.verdict:
            lines.append((f"{benchmark.label}, training reward", name, "proxy", None))
        for tag in tags if len(tags) > 1 else ():
            lines.append((f"{benchmark.label}, {tag.replace('_', ' ')}", name, benchmark.metrics[0], tag))
    return lines


def rows_of(a: str, b: str, modes: Sequence[str], guidance: str, scores: Scores) -> list[Row]:
    """Both runs with the first of the ``modes`` of thinking in which both are scored, else each with its own first."""
    rows = {mode: [Row(run, mode, guidance) for run in (a, b)] for mode in modes}
    if shared := next((pair for pair in rows.values() if all(map(scores.has, pair))), None):
        return shared
    return [next(filter(scores.has, each), each[0]) for each in zip(*rows.values(), strict=True)]


def compare(a: Row, b: Row, sources: Sources) -> list[Line]:
    """A line a metric: both means, a - b with its interval, the smallest difference that could have been resolved, and
    the probability that a beats b on a prompt. Raises UserError where one of them is not scored."""
    for row in (a, b):
        if not sources.scores.has(row):
            raise UserError(f"scores: no run {row.run!r} with thinking {row.thinking!r} at guidance '{row.guidance}'")
    lines = []
    for words, benchmark, metric, tag in compared(sources):
        first, second = sources.paired(a, b, benchmark, metric, tag)
        if first is None or second is None:
            continue
        gap = sources.gap(a, b, benchmark, metric, tag)
        better = stats.improvement(first, second)
        means = {key: sources.estimate(row, benchmark, metric, tag).mean for key, row in (("a", a), ("b", b))}
        line = {"metric": words, **means, "difference": gap.mean, "lo": gap.lo, "hi": gap.hi}
        line |= {"resolvable": gap.resolvable} | cells.columns("improvement", better)
        lines.append(line | {"seeds": gap.seeds, "prompts": gap.prompts})
    return lines


def markdown(a: Row, b: Row, lines: Sequence[Line], sources: Sources) -> str:
    """The comparison as a page."""
    first, second = sources.name(a), sources.name(b)
    forms = {words: sources.form(name, metric) for words, name, metric, _ in compared(sources)}
    table = []
    for line in lines:
        form = forms[line["metric"]]
        means = [cells.number(line, key, form) for key in ("a", "b")]
        apart = stats.written(line["difference"], line["lo"], line["hi"], f"+{form}")
        more = (cells.number(line, "resolvable", form), cells.interval(line, "improvement", ".2f"))
        table.append((line["metric"], *means, apart, *more, f"{line['seeds']} × {line['prompts']}"))
    head = ["", first, second, "difference", "resolvable", "P(improvement)", "n"]
    costs = [sources.cost(row.run) for row in (a, b)]
    spent = [(words, *(cells.number(cost, key, ",.0f") for cost in costs)) for words, key in cells.COSTS.items()]
    notes = [
        f"Differences are {phrases.escaped(first)} − {phrases.escaped(second)}, at {a.guidance} guidance, "
        "paired by prompt and seed, with 95 % intervals; resolvable is the smallest true difference found with 80 % "
        "power.",
        "P(improvement) is the chance that a seed of the first beats a seed of the second on a prompt, ties counting "
        "half; its interval covers prompts only.",
        "n is seeds × prompts. The training reward is the one that the learned reward gives the same images.",
        f"{phrases.ONE_SEED} A run's only seed is paired with every seed of the other.",
        phrases.scale_of([a.run, b.run], sources.folder),
        *phrases.parts([a.run, b.run], sources),
        *phrases.fates([a.run, b.run], sources.folder),
    ]
    frames = pd.DataFrame(table, columns=head), pd.DataFrame(spent, columns=["training cost", first, second])
    return page.markdown(f"{first} against {second}", [("", each) for each in (*frames, notes)])


def picture(a: Row, b: Row, lines: Sequence[Line], sources: Sources) -> Figure:
    """Differences, validation curves, and pairs of images."""
    figure = drawing.plt.figure(figsize=(drawing.WIDTH, 5.6))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1])
    left, right = top.subplots(1, 2, width_ratios=[1.3, 1])
    for y, line in enumerate(lines):
        left.plot([line["lo"], line["hi"]], [y, y], color=drawing.DARK, linewidth=1.2)
        left.plot(line["difference"], y, "o", color=drawing.DARK, markersize=4)
    left.axvline(0, color=drawing.GREY, linewidth=0.8)
    left.set_yticks(range(len(lines)), [line["metric"] for line in lines])
    left.set_ylim(len(lines) - 0.5, -0.5)
    left.set_xlabel("95 % intervals" + ", prompts only: one seed" * any(line["seeds"] == 1 for line in lines))
    left.set_title(f"{sources.name(a)} − {sources.name(b)}")
    for number, row in enumerate((a, b)):
        if sources.folder.metrics(row.run) and not (data := logs.curve_data([row.run], sources.folder)).empty:
            _, mean = drawing.by_seed(data, row.run, "validation", "gold", "images")
            look = drawing.look(number, "linestyle")
            right.plot(mean.index, mean, marker="o", markersize=3, label=sources.folder.label(row.run), **look)
    right.set(title="validation, gold judge", xlabel="generated images")
    if right.lines:
        right.legend(fontsize=6.5)
    _draw_pairs(bottom, a, b, sources)
    return figure


def _draw_pairs(figure, a: Row, b: Row, sources: Sources) -> None:
    """Columns of prompts: PAIRS where a alone is right, then PAIRS where b alone is; a row a run."""
    first, second = found = [samples.read_samples(sources.folder, row.run, row.mode, row.guidance) for row in (a, b)]
    rng, shown = numpy_generator(0, "pairs", a.run, b.run), []
    shared = [prompt for prompt in first if prompt in second]
    for right in (True, False):
        odd = [p for p in shared if (first[p].correct, second[p].correct) == (right, not right)]
        shown += [odd[i] for i in sorted(rng.permutation(len(odd))[:PAIRS])]
    if not shown:
        figure.text(0.5, 0.5, "no images on whose prompt the verdicts differ", ha="center")
        return
    axes = figure.subplots(2, len(shown), squeeze=False)
    for line, row, images in zip(axes, (a, b), found, strict=True):
        line[0].set_ylabel(sources.folder.label(row.run), fontsize=7)
        for axis, prompt in zip(line, shown, strict=True):
            drawing.draw_sample(axis, images[prompt])
    for axis, prompt in zip(axes[0], shown, strict=True):
        axis.set_title(drawing.subject(first[prompt].prompt, 20), fontsize=6.5)
    if any(images[prompt].disputed for images in found for prompt in shown):
        figure.supxlabel(drawing.DISAGREE, fontsize=7)


def write(a: Row, b: Row, sources: Sources, out: Path) -> None:
    """Write <a>.vs.<b>.csv, .md, .png and .pdf. Raises UserError where one of them is not scored, or both are one."""
    if a.run == b.run:
        raise UserError(f"expected two runs, got {a.run} twice")
    lines, name = compare(a, b, sources), f"{a.run}.vs.{b.run}"
    with drawing.plt.style.context(drawing.STYLE):
        drawing.save(picture(a, b, lines, sources), pd.DataFrame(lines), out, name)
    write_text(out / f"{name}.md", markdown(a, b, lines, sources))
