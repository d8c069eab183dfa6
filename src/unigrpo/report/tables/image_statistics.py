"""What the images of every run are like without any judge: edges, darkness, colours, and how unlike the images of a
prompt are. A number far from that of the other runs is a reason to look at the pictures.
"""

from __future__ import annotations

from unigrpo.report.data import lines
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import STATISTICS, KindFacts

MEANING = "; ".join(f"{name.replace('_', ' ')} {meaning}" for name, meaning in STATISTICS.items())
FACTS = KindFacts("Numbers without a judge", __doc__, shows="rows", notes=(f"Of an image: {MEANING}.",))


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    found = lines.head(row, sources)
    for benchmark in sources.benchmarks:
        for name in STATISTICS:
            found |= lines.columns(f"{benchmark}_{name}", sources.estimate(row, benchmark, name))
    return found


def text(line: Line, sources: Sources) -> Line:
    cells = {"thinking": line["thinking"]}
    for benchmark, entry in sources.benchmarks.items():
        heads = {name: f"{entry.label}, {name.replace('_', ' ')}" for name in STATISTICS}
        cells |= {head: lines.number(line, f"{benchmark}_{name}") for name, head in heads.items()}
    return cells
