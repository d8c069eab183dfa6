"""Text alignment (TA) and GenEval-style accuracy of every run, with and without thinking, beside the paper's Table 1.
GenEval is the official verdict, strict wants exactly what was asked, gold adds the share of facts that hold.
"""

from __future__ import annotations

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Text alignment and GenEval", __doc__, number="Table 1: ", shows="rows")
RESOLVED = {"TA": ("ta", "ta"), "GenEval": ("geneval", "official"), "gold": ("geneval", "gold")}
COSTS = {"images": "training images", "model_evaluations": "model evaluations", "wall_seconds": "wall seconds"}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    paper = lines.published(row, sources, "ta", "geneval")
    ours = lines.head(row, sources) | lines.overall(row, sources)
    return ours | paper | sources.cost(row.run) | lines.published(row, sources, "collapsed")


def latex(line: Line) -> Line:
    """All but what a page has no room for."""
    paper = {"paper TA": lines.paper(line, "ta"), "paper GenEval": lines.paper(line, "geneval")}
    return {"thinking": line["thinking"]} | lines.verdicts(line) | paper | {"seeds": lines.seeds(line)}


def text(line: Line) -> Line:
    costs = {words: lines.number(line, name, ",.0f") for name, words in COSTS.items()}
    return latex(line) | {"images": line["n"]} | costs | {"collapsed seeds": lines.number(line, "collapsed", "d")}


def notes(rows: list[Row], table: list[Line], sources: Sources) -> list[str]:
    """Smallest differences to the last row, the paper's last where it has one, that these seeds and prompts resolve."""
    best = next((row for row in reversed(rows) if sources.paper.value(row.run, row.thinking, "geneval")), rows[-1])
    parts = []
    for name, metric in RESOLVED.items():
        gaps = [sources.gap(best, row, *metric) for row in rows if row != best]
        sizes = [gap.resolvable for gap in gaps if gap]
        parts.append(f"{name} {min(sizes):.3f} to {max(sizes):.3f}" if sizes else f"{name} {phrases.MISSING}")
    label = sources.folder.label(best.run)
    power = f"Smallest true difference to {label} found with 80 % power, paired by prompt: {', '.join(parts)}."
    return [power, phrases.COSTS]
