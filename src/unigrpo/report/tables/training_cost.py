"""What every run cost to train, and how its rewards went: gold, which training never sees, and the reward that it is
trained on, at the first, the best and the last validation, and on the training prompts of the first and the last ten
rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

FACTS = KindFacts(
    title="Cost and course of training",
    caption=__doc__,
    notes=(
        "Rewards are means over seeds. Gold, the judge that training never sees, and the reward that the run is "
        "trained on are measured on validation prompts at the tuned guidance, with or without thinking as the run is "
        "trained; the best validation is known in hindsight only. Training reward is the mean of the first and of the "
        "last ten rollouts.",
        phrases.COSTS,
    ),
    **TRAINING,
)
REWARDS = {
    "gold_first": "gold: first",
    "gold_best": "gold: best",
    "gold_last": "gold: last",
    "validation_first": "validation reward: first",
    "validation_last": "validation reward: last",
    "training_first": "training reward: first 10",
    "training_last": "training reward: last 10",
}
COSTS = {"images": "images", "model_evaluations": "model evaluations", "wall_seconds": "wall seconds"}


def _course(log: Sequence[tuple[str, dict]]) -> Line:
    """One seed's rollouts and rewards; {} of a seed that was not trained."""
    gold, proxy = (logs.column(log, "validation", name) for name in ("gold", "proxy"))
    rewards, course = logs.column(log, "train", "proxy"), {}
    if gold:
        course |= {"gold_first": gold[0], "gold_best": max(gold), "gold_last": gold[-1]}
        course |= {"validation_first": proxy[0], "validation_last": proxy[-1]}
    if rewards:
        course |= {"training_first": mean(rewards[: logs.ENDS]), "training_last": mean(rewards[-logs.ENDS :])}
    return {"rollouts": len(rewards)} | course if log else {}


def line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    courses = [course for course in map(_course, sources.folder.metrics(row.run).values()) if course]

    def over_seeds(middle: Callable, name: str) -> float | None:
        values = [course[name] for course in courses if name in course]
        return middle(values) if values else None

    rollouts = over_seeds(median, "rollouts")
    return (
        {"seeds": len(courses), "rollouts": None if rollouts is None else round(rollouts)}
        | sources.cost(row.run)
        | {name: over_seeds(mean, name) for name in REWARDS}
    )


def text(line: Mapping) -> Line:
    return (
        {"seeds": line["seeds"], "rollouts": lines.number(line, "rollouts", ",")}
        | {words: lines.number(line, name, ",.0f") for name, words in COSTS.items()}
        | {words: lines.number(line, name) for name, words in REWARDS.items()}
        | {"collapsed seeds": lines.number(line, "collapsed", "d")}
    )
