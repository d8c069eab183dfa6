"""Runs trained with and without guidance, each evaluated with and without it; their rewards in training, and what an
update cost (the paper's Figure 4).
"""

from collections.abc import Iterator, Sequence
from statistics import median

from unigrpo.core import errors
from unigrpo.report.data import lines, logs
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

NOTE = (
    "Training reward is the mean of the last ten rollouts; with guidance in training it is that of guided images. "
    "Validation is that on validation prompts at the tuned guidance, categories weighing equally, at the last one "
    "that all seeds reached. Model evaluations and seconds are those of a gradient update: a rollout's over its "
    "updates, medians over the rollouts of all seeds, without validations."
)
FACTS = KindFacts(
    "Guidance in training",
    __doc__,
    best=("validation gold: last",),
    notes=(NOTE,),
    rewards=True,
    mode="yes",
    reinforced=True,
    reads="run.json",
)
COUNTS = ("update", "model_evaluations", "seconds_rollout", "seconds_update")


def costs(rows: Sequence[tuple[str, dict]]) -> Iterator[tuple[float, float]]:
    """Model evaluations and seconds per update of a seed's rollouts. Raises UserError for a row that does not go on."""
    counts = zip(*(logs.column(rows, "train", name) for name in COUNTS), strict=True)
    places = [where for where, row in rows if row.get("kind") == "train"]
    before = (0, 0)
    for where, (update, evaluations, *seconds) in zip(places, counts, strict=True):
        if update <= before[0]:
            raise errors.UserError(f"{where}: 'update' must be above the row before's {before[0]}, found {update}")
        updates = update - before[0]
        yield (evaluations - before[1]) / updates, sum(seconds) / updates
        before = (update, evaluations)


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    run, folder = row.run, sources.folder
    c, trained = logs.course(run, folder), [x for log in folder.metrics(run).values() for x in costs(log)]
    spent = map(median, zip(*trained, strict=True)) if trained else (None, None)
    return {
        **lines.head(row, sources),
        **lines.overall(row, sources),
        "guidance_in_training": folder.config(run).get("rl", {}).get("guidance"),
        "training_last": logs.ends(run, "proxy", folder)[1],
        **lines.estimates({f"validation_{metric}": logs.at_end(c, metric) for metric in ("proxy", "gold")}),
        **dict(zip(("evaluations_per_update", "seconds_per_update"), spent, strict=True)),
    }


def text(line: Line, sources: Sources) -> Line:
    return {
        "evaluated": line["guidance"],
        "guidance in training": lines.number(line, "guidance_in_training", "g"),
        **lines.verdicts(line, sources),
        "training reward: last 10": lines.number(line, "training_last"),
        "validation reward: end": lines.interval(line, "validation_proxy"),
        "validation gold: end": lines.interval(line, "validation_gold"),
        "model evaluations an update": lines.number(line, "evaluations_per_update", ",.0f"),
        "seconds an update": lines.number(line, "seconds_per_update", ",.1f"),
        "seeds": lines.seeds(line),
    }
