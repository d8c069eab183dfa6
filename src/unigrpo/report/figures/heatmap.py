"""Every row less every other on the same prompts and seeds, in hundredths; in bold, on colour, the pairs that differ
after a correction for their number.
"""

from __future__ import annotations

from unigrpo.core.lazy import lazy
from unigrpo.report.data import pairs, results
from unigrpo.report.data.phrases import MISSING
from unigrpo.report.pages import drawing
from unigrpo.study.facts import KindFacts

np = lazy("numpy")
FACTS = KindFacts("Row minus column", __doc__, shows="rows")
COLUMNS = ["benchmark", "run", "thinking", "minus", "minus_thinking", "value", "lo", "hi", "p_holm"]


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    rows = [results.Row(*row, spec.get("guidance", "tuned")) for row in spec["rows"]]
    side, count = 0.9 + 0.19 * len(rows), len(sources.benchmarks)
    figure, axes = drawing.panels(count, 1, count * side)
    data = []
    for axis, (name, benchmark) in zip(axes.flat, sources.benchmarks.items(), strict=True):
        found = {pair: each for pair, each in pairs.matrix(rows, name, sources).items() if each.apart}
        data += [
            (name, a.run, a.thinking, b.run, b.thinking, e.mean, e.lo, e.hi, p) for (a, b), (e, p) in found.items()
        ]
        _panel(axis, rows, found)
        axis.set_yticks(range(len(rows)), [f"{sources.name(row)}  {k}" for k, row in enumerate(rows, 1)])
        axis.set_title(f"{benchmark.label}: row − column, in hundredths")
    note = "bold on colour: differs from 0 after Holm's correction (family-wise 5 %); grey: does not"
    figure.supxlabel(note, fontsize=7)
    return figure, data


def _panel(axis, rows: list[results.Row], found: dict[tuple[results.Row, results.Row], pairs.Pair]) -> None:
    """A cell a pair: coloured where it differs, with its number."""
    shade = np.full((len(rows), len(rows)), np.nan)
    most = max((abs(each.apart.mean) for each in found.values()), default=1.0) or 1.0
    for (a, b), each in found.items():
        y, x = rows.index(a), rows.index(b)
        shade[y, x] = each.apart.mean / most if each.differs else np.nan
        strong = each.differs and abs(shade[y, x]) > 0.6
        axis.text(
            x, y, f"{100 * each.apart.mean:+z.0f}".replace("-", "−"), ha="center", va="center", fontsize=4.8,
            color="white" if strong else "black" if each.differs else "#8c8c8c",
            fontweight="bold" if each.differs else "normal",
        )  # fmt: skip
    for y in set(range(len(rows))) - {rows.index(a) for a, _ in found}:
        axis.text(0, y, MISSING, va="center", fontsize=4.8)
    axis.imshow(shade, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axis.set_xticks(range(len(rows)), range(1, len(rows) + 1))
    axis.tick_params(labelsize=6)
    axis.grid(False)
