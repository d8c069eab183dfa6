"""Two runs side by side: paired differences with intervals and the probability of improvement, and what each cost."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from unigrpo.core.errors import UserError
from unigrpo.core.files import write_text
from unigrpo.report.data import lines as cells
from unigrpo.report.data import phrases, stats
from unigrpo.report.data.results import Line, Row, Scores, Sources
from unigrpo.report.pages import page


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


def write(a: Row, b: Row, sources: Sources, out: Path) -> None:
    """Write <a>.vs.<b>.csv and .md. Raises UserError where one of them is not scored, or both are one."""
    if a.run == b.run:
        raise UserError(f"expected two runs, got {a.run} twice")
    lines, name = compare(a, b, sources), f"{a.run}.vs.{b.run}"
    write_text(out / f"{name}.csv", pd.DataFrame(lines).to_csv(index=False, float_format="%.6g"))
    write_text(out / f"{name}.md", markdown(a, b, lines, sources))
