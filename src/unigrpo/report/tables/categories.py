"""The six GenEval categories of every run beside the paper's Table 2: official / strict (the paper's official
value).
"""

from __future__ import annotations

from unigrpo.report.data import lines, phrases, results
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts(
    title="GenEval by category",
    number="Table 2: ",
    caption=__doc__,
    shows="rows",
    printed=("Under each official value its interval and, in parentheses, the paper's.",),
)
SHORT = {
    "geneval": "overall",
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "color_attr": "attr",
}
HEADS = {name: SHORT.get(name, name) for name in ("geneval", *results.CATEGORIES)}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    line = lines.head(row, sources)
    for name in HEADS:
        tag = name if name in results.CATEGORIES else None
        official = sources.estimate(row, "geneval", "official", tag)
        line |= {f"{name}_n": official and official.prompts} | lines.columns(name, official)
        line |= lines.columns(f"{name}_strict", sources.estimate(row, "geneval", "strict", tag))
        line |= lines.published(row, sources, name)
    return line | lines.published(row, sources, "collapsed")


def _cells(line: Line, ours: dict[str, str]) -> Line:
    """Each of HEADS with our value and the paper's."""
    cells = {words: f"{ours[name]} ({lines.paper(line, name)})" for name, words in HEADS.items()}
    return {"thinking": line["thinking"]} | cells | {"seeds": lines.seeds(line)}


def text(line: Line) -> Line:
    both = {name: f"{lines.number(line, name)} / {lines.number(line, f'{name}_strict')}" for name in HEADS}
    return _cells(line, {name: phrases.MISSING if line[name] is None else both[name] for name in HEADS})


def latex(line: Line) -> Line:
    """The official values with their intervals, which leave no room for strict ones."""
    return _cells(line, {name: lines.interval(line, name) for name in HEADS})


def notes(rows: list[Row], table: list[Line], sources: Sources) -> list[str]:
    sizes = {HEADS[tag]: max((line[f"{tag}_n"] or 0) for line in table) for tag in results.CATEGORIES}
    prompts = ", ".join(f"{words} {size}" for words, size in sizes.items())
    return [f"Cells: official / strict (the paper's official value). Prompts per category: {prompts}."]
