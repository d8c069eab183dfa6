"""The categories of a benchmark of every run beside the paper's Table 2."""

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

PRINTED = "Under each value its interval and, in parentheses, the paper's."
FACTS = KindFacts("Scores by category", __doc__, number="Table 2: ", shows="rows", printed=(PRINTED,))


def _columns(sources: Sources) -> dict[str, tuple[str, str | None]]:
    """Head of a cell -> column of the CSV and category: of the whole benchmark and of each category."""
    name, _ = sources.divided()
    return {head: (tag or name, tag) for head, tag in lines.categories(sources).items()}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    """Of the benchmark's headline and of the metric that it shows next, if any."""
    line, (benchmark, entry) = lines.head(row, sources), sources.divided()
    for column, tag in _columns(sources).values():
        for metric in entry.metrics[:2]:
            estimate = sources.estimate(row, benchmark, metric, tag)
            if metric == entry.metrics[0]:
                line |= {f"{column}_n": estimate and estimate.prompts} | lines.columns(column, estimate)
            else:
                line |= lines.columns(f"{column}_{metric}", estimate)
        line |= lines.published(row, sources, *([column] if benchmark in sources.in_paper() else []))
    return line | lines.published(row, sources, "collapsed")


def text(line: Line, sources: Sources) -> Line:
    benchmark, entry = sources.divided()
    cells = {}
    for head, (column, _) in _columns(sources).items():
        names = [column if metric == entry.metrics[0] else f"{column}_{metric}" for metric in entry.metrics[:2]]
        forms = [sources.form(benchmark, metric) for metric in entry.metrics[:2]]
        ours = " / ".join(lines.number(line, *each) for each in zip(names, forms, strict=True))
        cells[head] = f"{phrases.MISSING if line[column] is None else ours} ({lines.paper(line, column)})"
    return {"thinking": line["thinking"]} | cells | {"seeds": lines.seeds(line)}


def latex(line: Line, sources: Sources) -> Line:
    """The headline with its interval, which leaves no room for more."""
    name, entry = sources.divided()
    form, columns = sources.form(name, entry.metrics[0]), _columns(sources).items()
    cells = {head: f"{lines.interval(line, c, form)} ({lines.paper(line, c)})" for head, (c, _) in columns}
    return {"thinking": line["thinking"]} | cells | {"seeds": lines.seeds(line)}


def notes(rows: list[Row], table: list[Line], sources: Sources) -> list[str]:
    sizes = {head: max(line[f"{tag}_n"] or 0 for line in table) for head, (tag, of) in _columns(sources).items() if of}
    prompts = ", ".join(f"{phrases.escaped(head)} {size}" for head, size in sizes.items())
    metrics = " / ".join(sources.divided()[1].metrics[:2])
    return [f"Cells: {metrics} (the paper's value). Prompts per category: {prompts}."]
