"""The benchmarks' scores of every run, with and without thinking, beside the paper's Table 1."""

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Scores", __doc__, number="Table 1: ", shows="rows")
COSTS = {"images": "training images", "model_evaluations": "model evaluations", "wall_seconds": "wall seconds"}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    paper = lines.published(row, sources, *sources.in_paper())
    ours = lines.head(row, sources) | lines.overall(row, sources)
    return ours | paper | sources.cost(row.run) | lines.published(row, sources, "collapsed")


def latex(line: Line, sources: Sources) -> Line:
    """All but what a page has no room for."""
    paper = {f"paper {sources.benchmarks[name].label}": lines.paper(line, name) for name in sources.in_paper()}
    return {"thinking": line["thinking"]} | lines.verdicts(line, sources) | paper | {"seeds": lines.seeds(line)}


def text(line: Line, sources: Sources) -> Line:
    costs = {words: lines.number(line, name, ",.0f") for name, words in COSTS.items()}
    costs["collapsed seeds"] = lines.number(line, "collapsed", "d")
    return latex(line, sources) | {"images": line["n"]} | costs


def notes(rows: list[Row], table: list[Line], sources: Sources) -> list[str]:
    """Smallest differences to the last row, the paper's last where it has one, that these seeds and prompts resolve."""
    named = [row for row in rows if any(lines.published(row, sources, *sources.in_paper()).values())]
    best = (named or rows)[-1]
    parts = []
    for name, (_, *metric, form) in lines.shown(sources).items():
        gaps = [sources.gap(best, row, *metric) for row in rows if row != best]
        sizes = [gap.resolvable for gap in gaps if gap and gap.lo is not None]
        name = phrases.escaped(name)
        parts.append(f"{name} {min(sizes):{form}} to {max(sizes):{form}}" if sizes else f"{name} {phrases.MISSING}")
    label = phrases.escaped(sources.folder.label(best.run))
    power = f"Smallest true difference to {label} found with 80 % power, paired by prompt: {', '.join(parts)}."
    return [power, phrases.COSTS]
