"""What guidance and temperature alone bring, beside reinforcement: a gain that a knob would also bring shows here."""

from unigrpo.report.data import lines, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("What decoding alone brings, beside reinforcement", __doc__, mode="yes", greedy=True)
KNOBS = ("guidance", "temperature")


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    """The gap is the last run's less the row's last number, paired by prompt and seed."""
    protocols = sources.folder.protocols(row.run, row.mode, row.guidance)
    used = {f"{knob}_used": protocols[0].get(knob) if protocols else None for knob in KNOBS}
    best = next(r for r in rows if r.run == rows[-1].run and r.guidance == "tuned")
    *_, (column, *metric, _) = lines.shown(sources).values()
    gap = sources.gap(best, row, *metric) if row.run != best.run else None
    return lines.head(row, sources) | used | lines.overall(row, sources) | lines.columns(f"{column}_gap", gap)


def text(line: Line, sources: Sources) -> Line:
    *_, (head, (column, *_, form)) = lines.shown(sources).items()
    gap = f"{column}_gap"
    return {
        "decoding": line["guidance"],
        **{k: phrases.MISSING if line[f"{k}_used"] is None else line[f"{k}_used"] for k in KNOBS},
        **lines.verdicts(line, sources),
        f"{head}: last run − this row": "" if line[gap] is None else lines.interval(line, gap, form),
        "seeds": lines.seeds(line),
    }
