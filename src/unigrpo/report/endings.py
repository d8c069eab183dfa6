"""The table of regularisers: where a run ends, in the gold judge's eyes and in its own reward's, and how far it moved.

Gold, proxy and artefacts are those of the last validation that all seeds reached; ``gold_gap`` is gold less that of the
table's first run, paired by prompt and by the seeds that both have. The drift is the velocity MSE from the start
(unigrpo.training.drift) there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unigrpo.report.lines import columns, interval, number, seeds
from unigrpo.report.notes import MISSING
from unigrpo.report.overoptimisation import measured
from unigrpo.report.regularisers import regulariser
from unigrpo.report.rows import Line, Row, Sources
from unigrpo.report.stats import Cells, difference
from unigrpo.report.training import at_validation, ends
from unigrpo.report.validations import Course, course


def apart(a: Course | None, b: Course | None, metric: str) -> Cells | None:
    """``a`` - ``b`` at their last validations, paired by prompt and seed; None where no seed is shared."""
    if a is None or b is None or not set(a.seeds) & set(b.seeds):
        return None
    return difference(a.cells(metric, -1), b.cells(metric, -1), one_for_all=False)


def line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    """The row of the CSV."""
    run, folder, first = row.run, sources.folder, rows[0].run
    c, config = course(run, folder), folder.config(run)
    held = regulariser(config) if config else None
    gap = apart(c, course(first, folder), "gold") if run != first else None
    diversity_first, diversity_last = ends(run, "diversity", folder)
    return {
        "run": run,
        "label": folder.label(run),
        "regulariser": held and held.kind,
        "weight": held and held.weight,
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        **columns("gold", measured(c and c.cells("gold", -1), run, "gold")),
        **columns("gold_gap", measured(gap, run, first, "gold")),
        **columns("proxy", measured(c and c.cells("proxy", -1), run, "proxy")),
        **columns("artefact", measured(c and c.cells("artefact", -1), run, "artefact")),
        "training_last": ends(run, "proxy", folder)[1],
        "diversity_first": diversity_first,
        "diversity_last": diversity_last,
        "drift": c and at_validation(run, "drift", c.updates[-1], folder),
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Mapping) -> Line:
    """The row of the Markdown."""
    return {
        "run": line["label"],
        "regulariser": line["regulariser"] or MISSING,
        "weight": "–" if line["weight"] is None else f"{line['weight']:g}",
        "seeds": seeds(line),
        "gold": interval(line, "gold"),
        "gold − first row's": "" if line["gold_gap"] is None else interval(line, "gold_gap", "+.3f"),
        "proxy": interval(line, "proxy"),
        "artefact": interval(line, "artefact", ".2%"),
        "training reward: last 10": number(line, "training_last"),
        "diversity: first 10": number(line, "diversity_first"),
        "diversity: last 10": number(line, "diversity_last"),
        "drift": number(line, "drift", ".4f"),
        "collapsed seeds": MISSING if line["collapsed"] is None else str(line["collapsed"]),
    }
