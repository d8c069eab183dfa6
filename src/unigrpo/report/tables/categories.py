"""The categories of a benchmark of every run beside the paper's Table 2."""

from collections.abc import Callable
from functools import partial

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

PRINTED = "Under each value its interval and, in parentheses, the paper's."
FACTS = KindFacts("Scores by category", __doc__, number="Table 2: ", shows="rows", printed=(PRINTED,))


def _metrics(sources: Sources) -> tuple[str, list[str]]:
    """The benchmark's name, its headline and the metric that it shows next, if any."""
    name, benchmark = sources.divided()
    return name, benchmark.metrics[:2]


def _heads(sources: Sources) -> dict[str, str | None]:
    """Column -> category: of the whole benchmark and of each category."""
    name, benchmark = sources.divided()
    return {name: None} | {tag: tag for tag in benchmark.categories()}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    line, (benchmark, metrics) = lines.head(row, sources), _metrics(sources)
    for name, tag in _heads(sources).items():
        first, *other = (sources.estimate(row, benchmark, metric, tag) for metric in metrics)
        line |= {f"{name}_n": first and first.prompts} | lines.columns(name, first)
        for metric, estimate in zip(metrics[1:], other, strict=True):
            line |= lines.columns(f"{name}_{metric}", estimate)
        line |= lines.published(row, sources, *([name] if benchmark in sources.in_paper() else []))
    return line | lines.published(row, sources, "collapsed")


def _cells(line: Line, sources: Sources, ours: Callable[[str], str]) -> Line:
    """Each column with our value and the paper's."""
    heads = {name: tag.replace("_", " ") if tag else "overall" for name, tag in _heads(sources).items()}
    cells = {words: f"{ours(name)} ({lines.paper(line, name)})" for name, words in heads.items()}
    return {"thinking": line["thinking"]} | cells | {"seeds": lines.seeds(line)}


def text(line: Line, sources: Sources) -> Line:
    benchmark, (first, *other) = _metrics(sources)

    def ours(name: str) -> str:
        columns = {name: first} | {f"{name}_{metric}": metric for metric in other}
        each = [lines.number(line, column, sources.form(benchmark, metric)) for column, metric in columns.items()]
        return phrases.MISSING if line[name] is None else " / ".join(each)

    return _cells(line, sources, ours)


def latex(line: Line, sources: Sources) -> Line:
    """The headline with its interval, which leaves no room for more."""
    name, (first, *_) = _metrics(sources)
    return _cells(line, sources, partial(lines.interval, line, form=sources.form(name, first)))


def notes(rows: list[Row], table: list[Line], sources: Sources) -> list[str]:
    tags = [tag for tag in _heads(sources).values() if tag]
    prompts = ", ".join(
        f"{phrases.escaped(tag.replace('_', ' '))} {max((line[f'{tag}_n'] or 0) for line in table)}" for tag in tags
    )
    metrics = " / ".join(_metrics(sources)[1])
    return [f"Cells: {metrics} (the paper's value). Prompts per category: {prompts}."]
