"""Runs trained with and without guidance, each evaluated with and without it; their rewards in training, and what an
update cost (the paper's Figure 4).
"""

from unigrpo.core.lazy import lazy
from unigrpo.report.data import lines, logs
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

pd = lazy("pandas")
NOTE = (
    "Training reward is the mean of the last ten rollouts; with guidance in training it is that of guided images. "
    "Validation is that on validation prompts at the tuned guidance, categories weighing equally, at the last one "
    "that all seeds reached. Model evaluations and seconds are those of a gradient update: a rollout's over its "
    "updates, medians over the rollouts of all seeds, without validations."
)
BEST = ("validation gold: end",)
FACTS = KindFacts(
    "Guidance in training", __doc__, best=BEST, notes=(NOTE,), rewards=True, mode="yes", reinforced=True,
    reads="run.json",
)  # fmt: skip
SECONDS = ["seconds_rollout", "seconds_update"]
SHOWN = {  # head -> column, form
    "training reward: last 10": ("training_last", ".3f"),
    "validation reward: end": ("validation_proxy", ".3f"),
    "validation gold: end": ("validation_gold", ".3f"),
    "model evaluations an update": ("evaluations_per_update", ",.0f"),
    "seconds an update": ("seconds_per_update", ",.1f"),
}


def costs(run: str, sources: Sources) -> Line:
    """Medians over the rollouts of all seeds."""
    names, parts = ("update", "model_evaluations", *SECONDS), []
    for rows in sources.folder.metrics(run).values():
        counts = pd.DataFrame({name: logs.column(rows, "train", name) for name in names})
        since = counts.diff().fillna(counts)  # the first counts are since 0
        seconds = counts[SECONDS].sum(axis=1) / since["update"]
        parts.append(pd.DataFrame({"evaluations": since["model_evaluations"] / since["update"], "seconds": seconds}))
    medians = pd.concat(parts).median() if any(map(len, parts)) else {}
    return {f"{name}_per_update": medians.get(name) for name in ("evaluations", "seconds")}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    run, folder = row.run, sources.folder
    course = logs.course(run, folder)
    return {
        **lines.head(row, sources),
        **lines.overall(row, sources),
        "guidance_in_training": folder.config(run).get("rl", {}).get("guidance"),
        "training_last": logs.ends(run, "proxy", folder)[1],
        **lines.estimates({f"validation_{metric}": logs.at_end(course, metric) for metric in ("proxy", "gold")}),
        **costs(run, sources),
    }


def text(line: Line, sources: Sources) -> Line:
    guidance = lines.cells(line, {"guidance in training": ("guidance_in_training", "g")})
    shown = guidance | lines.verdicts(line, sources) | lines.cells(line, SHOWN)
    return {"evaluated": line["guidance"]} | shown | {"seeds": lines.seeds(line)}
