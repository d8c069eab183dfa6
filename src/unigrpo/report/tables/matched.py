"""Regularisers at equal terms, over the last half of the course: the first one's outcomes less another's, along the
weights of each, where the reward trained on (proxy) is equal and where the drift is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unigrpo.core.lazy import lazy
from unigrpo.report.data import equal_terms, lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

np = lazy("numpy")
NOTE = (
    "Each regulariser is drawn by straight lines between its weights, at each replicate. The lines are compared over "
    "the range that both reach, whose ends are means over replicates. Drift is the logarithm to base 10. Extra objects "
    "and wrong hues are numbers an image, pictures that follow their trace and artefacts are shares. The smallest true "
    "difference in gold is found with 80 % power."
)
FACTS = KindFacts("Regularisers at equal terms", __doc__, notes=(phrases.VALIDATED, NOTE), **TRAINING)
METRICS = {
    "gold": "gold", "image_given_trace": "pictures that follow their trace", "extra": "extra objects",
    "wrong_hues": "wrong hues", "artefact": "artefacts",
}  # fmt: skip


@dataclass(frozen=True)
class Compared(Row):
    """The first regulariser and another, whose first run names the row, by their labels and runs, ``at`` equal proxy or
    drift."""

    labels: tuple[str, str] = ("", "")
    sides: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    at: str = ""


def rows(runs: Sequence[str], sources: Sources) -> list[Compared]:
    """Every regulariser but the first at equal proxy and at equal drift."""
    (label, first), *others = equal_terms.by_weight(runs, sources.folder).items()
    pairs = [((label, name), (tuple(first), tuple(other))) for name, other in others]
    return [
        Compared(sides[1][0], labels=labels, sides=sides, at=at) for labels, sides in pairs for at in equal_terms.AT
    ]


def line(row: Compared, rows: list[Compared], sources: Sources) -> Line:
    folder = sources.folder
    a, b = ([c for run in runs if (c := logs.course(run, folder))] for runs in row.sides)
    found = {m: equal_terms.compared(a, b, row.at, m, folder) if a and b else (None, None) for m in METRICS}
    (cells, ranges), gold = found["gold"], logs.measured(found["gold"][0])
    lo, hi = (None, None) if cells is None else np.nanmean(ranges, axis=0).tolist()
    return {
        "compared": " − ".join(row.labels),
        "at": equal_terms.AT[row.at],
        "seeds": len(cells.seeds) if cells else 0,
        "range_lo": lo,
        "range_hi": hi,
        **lines.estimates({metric: logs.measured(each) for metric, (each, _) in found.items()}),
        "resolvable": gold and gold.resolvable,
    }


def text(line: Line, sources: Sources) -> Line:
    lo, hi = (lines.number(line, name) for name in ("range_lo", "range_hi"))
    return {
        "compared": line["compared"],
        "at equal": f"{line['at']}, {lo} to {hi}",
        "seeds": lines.seeds(line),
        **{head: lines.interval(line, metric, "+.3f") for metric, head in METRICS.items()},
        "gold: smallest true difference": lines.number(line, "resolvable"),
    }
