"""Every row less every other on the same prompts and seeds, and which differ after a correction for all pairs."""

from unigrpo.report.data import lines, pairs
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Row minus column", __doc__, shows="rows", notes=(pairs.NOTE, "Columns have the numbers of rows."))


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    line = {"number": rows.index(row) + 1} | lines.head(row, sources)
    for benchmark in sources.benchmarks:
        found = pairs.matrix(rows, benchmark, sources)
        for number, other in enumerate(rows, 1):
            apart, p = found.get((row, other), pairs.Pair(None, None))
            line |= lines.columns(f"{benchmark}_minus_{number}", apart) | {f"{benchmark}_p_{number}": p}
    return line


def text(line: Line, sources: Sources) -> Line:
    cells = {"number": line["number"], "thinking": line["thinking"]}
    for benchmark, entry in sources.benchmarks.items():
        form = sources.form(benchmark, entry.metrics[0])
        for column in (name for name in line if name.startswith(f"{benchmark}_p_")):
            number, p = column.removeprefix(f"{benchmark}_p_"), line[column]
            value = line[f"{benchmark}_minus_{number}"]
            shown = "" if value is None else f"{value:+z{form}}" + "*" * pairs.Pair(None, p).differs
            cells[f"{entry.label}: {number}"] = shown
    return cells | {"seeds": lines.seeds(line)}
