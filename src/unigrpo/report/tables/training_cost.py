"""What every run cost to train, and how its rewards went: gold, which training never sees, and the reward that it is
trained on, at the first, the best and the last validation, and on the training prompts of the first and the last ten
rollouts.
"""

from collections.abc import Iterable
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


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    trained = [log for log in sources.folder.metrics(row.run).values() if log]
    rollouts = [len(logs.column(log, "train", "proxy")) for log in trained]
    gold, proxy = ([logs.column(log, "validation", name) for log in trained] for name in ("gold", "proxy"))
    training_first, training_last = logs.ends(row.run, "proxy", sources.folder)

    def over_seeds(values: Iterable[float]) -> float | None:
        found = list(values)
        return mean(found) if found else None

    return {
        "seeds": len(trained),
        "rollouts": round(median(rollouts)) if trained else None,
        **sources.cost(row.run),
        "gold_first": over_seeds(values[0] for values in gold if values),
        "gold_best": over_seeds(max(values) for values in gold if values),
        "gold_last": over_seeds(values[-1] for values in gold if values),
        "validation_first": over_seeds(values[0] for values in proxy if values),
        "validation_last": over_seeds(values[-1] for values in proxy if values),
        "training_first": training_first,
        "training_last": training_last,
    }


def text(line: Line, sources: Sources) -> Line:
    return (
        {"seeds": line["seeds"], "rollouts": lines.number(line, "rollouts", ",")}
        | {head: lines.number(line, name, ",.0f") for head, name in lines.COSTS.items()}
        | {head: lines.number(line, name) for name, head in REWARDS.items()}
        | {"collapsed seeds": lines.number(line, "collapsed", "d")}
    )
