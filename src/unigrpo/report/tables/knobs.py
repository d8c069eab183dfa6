"""What guidance and temperature alone bring, beside reinforcement: a gain that a knob would also bring shows here."""

from __future__ import annotations

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("What decoding alone brings, beside reinforcement", __doc__, mode="yes", greedy=True)
KNOBS = ("guidance", "temperature")


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    """``gold_gap`` is the last run less the row, paired by prompt and seed."""
    protocols = sources.folder.protocols(row.run, row.mode, row.guidance)
    used = {f"{knob}_used": protocols[0].get(knob) if protocols else None for knob in KNOBS}
    best = next(r for r in rows if r.run == rows[-1].run and r.guidance == "tuned")
    gap = sources.gap(best, row, "geneval", "gold") if row.run != best.run else None
    return lines.head(row, sources) | used | lines.overall(row, sources) | lines.columns("gold_gap", gap)


def text(line: Line) -> Line:
    return {
        "decoding": line["guidance"],
        **{k: phrases.MISSING if line[f"{k}_used"] is None else line[f"{k}_used"] for k in KNOBS},
        **lines.verdicts(line),
        "gold: last run − this row": "" if line["gold_gap"] is None else lines.interval(line, "gold_gap"),
        "seeds": lines.seeds(line),
    }
