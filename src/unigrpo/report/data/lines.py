"""A table's numbers: as columns of its CSV, and as the cells of its Markdown."""

from collections.abc import Mapping
from typing import NamedTuple

from unigrpo.report.data.phrases import MISSING
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.report.data.stats import Estimate, written

# what training cost: head of a cell -> column of the CSV
COSTS = {"images": "images", "model evaluations": "model_evaluations", "wall seconds": "wall_seconds"}


class Column(NamedTuple):
    """A column of the CSV, what it is of, and the form of its numbers in Markdown."""

    name: str
    benchmark: str
    metric: str
    form: str


def shown(sources: Sources) -> dict[str, Column]:
    """Head of a cell -> its column: each benchmark's headline and what else it shows."""
    return {
        head: Column(column, name, metric, sources.form(name, metric))
        for name, benchmark in sources.benchmarks.items()
        for head, (column, metric) in benchmark.columns(name).items()
    }


def scored(sources: Sources) -> set[str]:
    """Heads of cells with a score, of a benchmark or of one of its categories."""
    return {*shown(sources), *categories(sources)}


def categories(sources: Sources) -> dict[str, str | None]:
    """Head of a cell -> category, of the benchmark that is divided; None for the whole."""
    return {"overall": None} | {tag.replace("_", " "): tag for tag in sources.divided()[1].categories()}


def columns(name: str, e: Estimate | None) -> Line:
    """Mean and interval; None where there is no estimate."""
    return {name: e and e.mean, f"{name}_lo": e and e.lo, f"{name}_hi": e and e.hi}


def estimates(found: Mapping[str, Estimate | None]) -> Line:
    """The ``columns`` of several estimates, by name."""
    return {column: value for name, e in found.items() for column, value in columns(name, e).items()}


def head(row: Row, sources: Sources) -> Line:
    """Who is judged, and on how much."""
    cells = {name: sources.cells(row, name, benchmark.metrics[0]) for name, benchmark in sources.benchmarks.items()}
    seeds = min((len(c.seeds) for c in cells.values() if c), default=0)
    sizes = {"seeds": seeds, "n": sources.scores.images(row, sources.benchmarks)}
    sizes |= {f"prompts_{benchmark}": len(c.prompts) if c else 0 for benchmark, c in cells.items()}
    return {"thinking": row.thinking, "guidance": row.guidance} | sizes


def overall(row: Row, sources: Sources) -> Line:
    """Every benchmark's numbers."""
    return estimates({c.name: sources.estimate(row, c.benchmark, c.metric) for c in shown(sources).values()})


def published(row: Row, sources: Sources, *names: str) -> Line:
    """The paper's values; None where it has none."""
    return {f"paper_{name}": sources.paper.value(row.run, row.thinking, name) or None for name in names}


def number(line: Mapping, name: str, form: str = ".3f") -> str:
    """One cell of the CSV."""
    return MISSING if line[name] is None else format(line[name], form)


def interval(line: Mapping, name: str, form: str = ".3f") -> str:
    """Mean and interval of ``columns``."""
    if line[name] is None:
        return MISSING
    return written(*(line[key] for key in (name, f"{name}_lo", f"{name}_hi")), form)


def cells(line: Mapping, shown: Mapping[str, tuple[str, str]]) -> Line:
    """Head -> cell: a column of the line in its form, with its interval where it has one."""
    return {
        head: (interval if f"{name}_lo" in line else number)(line, name, form) for head, (name, form) in shown.items()
    }


def seeds(line: Mapping) -> str:
    """How many seeds, and what one leaves unknown."""
    return "1 (prompts only)" if line["seeds"] == 1 else str(line["seeds"])


def verdicts(line: Mapping, sources: Sources) -> Line:
    """The cells of ``overall``."""
    return {head: interval(line, column.name, column.form) for head, column in shown(sources).items()}


def paper(line: Mapping, name: str) -> str:
    """The paper's value, or that its run collapsed."""
    return line.get(f"paper_{name}") or ("collapsed" if line["paper_collapsed"] == "yes" else "–")
