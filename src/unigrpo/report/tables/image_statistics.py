"""What the images of every run are like without any judge: edges, darkness, colours, and how unlike the images of a
prompt are. A number far from that of the other runs is a reason to look at the pictures.
"""

from unigrpo.report.data import lines
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import STATISTICS, KindFacts

MEANING = "; ".join(f"{name.replace('_', ' ')} {meaning}" for name, meaning in STATISTICS.items())
FACTS = KindFacts("Numbers without a judge", __doc__, shows="rows", notes=(f"Of an image: {MEANING}.",))


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    names = [(benchmark, name) for benchmark in sources.benchmarks for name in STATISTICS]
    return lines.head(row, sources) | lines.estimates({"_".join(each): sources.estimate(row, *each) for each in names})


def text(line: Line, sources: Sources) -> Line:
    return {"thinking": line["thinking"]} | {
        f"{entry.label}, {name.replace('_', ' ')}": lines.number(line, f"{benchmark}_{name}")
        for benchmark, entry in sources.benchmarks.items()
        for name in STATISTICS
    }
