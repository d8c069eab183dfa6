"""What a run with or without guidance in training cost and earned there, beside its scores in the table of guidance.

Costs are per gradient update: a rollout's model evaluations, and its seconds from the first trace to the last update,
over its updates; medians over the rollouts of all seeds. Validations are not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from unigrpo.core.errors import UserError
from unigrpo.report.lines import columns, interval, number
from unigrpo.report.overoptimisation import measured
from unigrpo.report.rows import Line, Sources
from unigrpo.report.training import column, ends
from unigrpo.report.validations import course

COUNTS = ("update", "model_evaluations", "seconds_rollout", "seconds_update")


def costs(rows: Sequence[tuple[str, dict]]) -> Iterator[tuple[float, float]]:
    """Model evaluations and seconds per update of each rollout of one seed; the first two COUNTS run up. Raises
    UserError naming a row whose updates do not."""
    counts = zip(*(column(rows, "train", name) for name in COUNTS), strict=True)
    before = (0, 0)
    for (where, _), (update, evaluations, *seconds) in zip(
        [row for row in rows if row[1].get("kind") == "train"], counts, strict=True
    ):
        if update <= before[0]:
            raise UserError(f"{where}: 'update' must be above the row before's {before[0]}, found {update}")
        updates = update - before[0]
        yield (evaluations - before[1]) / updates, sum(seconds) / updates
        before = (update, evaluations)


def line(run: str, sources: Sources) -> Line:
    """Columns of the CSV, the same in both rows of a run."""
    folder, c = sources.folder, course(run, sources.folder)
    spent = [cost for rows in folder.metrics(run).values() for cost in costs(rows)]
    evaluations, seconds = zip(*spent, strict=True) if spent else ((), ())
    return {
        "guidance_in_training": folder.config(run).get("rl", {}).get("guidance"),
        "training_last": ends(run, "proxy", folder)[1],
        **columns("validation_proxy", measured(c and c.cells("proxy", -1), run, "proxy")),
        **columns("validation_gold", measured(c and c.cells("gold", -1), run, "gold")),
        "evaluations_per_update": median(evaluations) if spent else None,
        "seconds_per_update": median(seconds) if spent else None,
    }


def text(line: Mapping) -> Line:
    """Columns of the Markdown."""
    return {
        "training reward: last 10": number(line, "training_last"),
        "validation reward: last": interval(line, "validation_proxy"),
        "validation gold: last": interval(line, "validation_gold"),
        "model evaluations an update": number(line, "evaluations_per_update", ",.0f"),
        "seconds an update": number(line, "seconds_per_update", ",.1f"),
    }
