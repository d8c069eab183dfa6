"""The benchmarks' scores of every row, and what each gained over the first on the same prompts and seeds."""

from unigrpo.report.data import lines
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Gain over the first row", __doc__, shows="rows", notes=("Gains are paired by prompt and seed.",))


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    scores = lines.shown(sources).values()
    gaps = {f"{c.name}_gain": sources.gap(row, rows[0], c.benchmark, c.metric) for c in scores if row != rows[0]}
    gains = lines.estimates({f"{c.name}_gain": gaps.get(f"{c.name}_gain") for c in scores})
    over = {"over": None if row == rows[0] else rows[0].run}
    return lines.head(row, sources) | lines.overall(row, sources) | over | gains | sources.cost(row.run)


def text(line: Line, sources: Sources) -> Line:
    cells = {"thinking": line["thinking"]}
    for head, column in lines.shown(sources).items():
        cells[head] = lines.interval(line, column.name, column.form)
        gain = lines.interval(line, f"{column.name}_gain", f"+{column.form}") if line["over"] else "–"
        cells[f"{head}: gain"] = gain
    return cells | {"training images": lines.number(line, "images", ",.0f"), "seeds": lines.seeds(line)}
