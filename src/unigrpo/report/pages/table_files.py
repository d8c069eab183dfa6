"""One table of the catalogue, in its four forms: CSV, Markdown, HTML, LaTeX.

The CSV holds every number; Markdown and HTML a readable choice of them and the notes that belong beside it; LaTeX
what a paper prints. What is missing stands as an empty cell (CSV) or "not available" (elsewhere), never as a
missing row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from unigrpo.core.files import write_text
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Row, Sources
from unigrpo.report.pages import latex, page
from unigrpo.study.facts import TABLES, KindFacts

KNOBS = ("unguided", "tuned", "greedy")


def rows_of(spec: Mapping, facts: KindFacts) -> list[Row]:
    """The rows of a table: those of its entry, or of each run its training alone, or every choice of decoding."""
    if facts.shows == "rows":
        return [Row(run, thinking, spec.get("guidance", "tuned")) for run, thinking in spec["rows"]]
    if not facts.scores:
        return [Row(run) for run in spec["runs"]]
    knobs = {run: KNOBS[: 3 if facts.greedy and run == spec["runs"][0] else 2] for run in spec["runs"]}
    return [Row(run, facts.mode, guidance) for run in spec["runs"] for guidance in knobs[run]]


def make(name: str, spec: Mapping, sources: Sources) -> dict[str, str]:
    """Suffix -> text of the table of one entry of the catalogue; ``name`` is its LaTeX label."""
    kind = TABLES.load(spec["kind"])
    facts, latex_of = kind.FACTS, getattr(kind, "latex", lambda line: kind.text(line) | {"seeds": line["seeds"]})
    rows = rows_of(spec, facts)
    lines = [kind.line(row, rows, sources) for row in rows]
    runs = phrases.runs_of(rows)
    title = spec.get("title", facts.title) + f", {rows[0].guidance} guidance" * (facts.shows == "rows")
    scale, notes_of = phrases.scale_of(runs, sources.folder), getattr(kind, "notes", lambda *_: [])
    scored = phrases.scored(rows, sources) if facts.scores else []
    below = [scale, *scored, *facts.notes, *notes_of(rows, lines, sources), *phrases.fates(runs, sources.folder)]
    caption = [scale, *facts.printed, *[phrases.METRICS, phrases.INTERVALS] * facts.scores, *facts.notes]
    frame, printed = (pd.DataFrame(map(form, lines)) for form in (kind.text, latex_of))
    return {
        "csv": pd.DataFrame(lines).to_csv(index=False, float_format="%.4f"),
        "md": page.markdown(facts.number + title, [("", frame), ("", below)]),
        "html": page.parts(facts.number + title, [("", frame), ("", below)]),
        "tex": latex.table(printed, [f"{title}.", *caption], name),
    }


def write(name: str, spec: Mapping, sources: Sources, out: Path) -> None:
    """Write <name>.csv, .md, .html and .tex."""
    for suffix, text in make(name, spec, sources).items():
        write_text(out / f"{name}.{suffix}", text)
