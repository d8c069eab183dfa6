"""What every run cost to train, and how its rewards went: gold, which training never sees, and the reward that it is
trained on, at the first, the best and the last validation, and on the training prompts of the first and the last ten
rollouts.
"""

from operator import itemgetter
from statistics import mean, median

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

NOTE = (
    "Rewards are means over seeds. Gold, the judge that training never sees, and the reward that the run is "
    "trained on are measured on validation prompts at the tuned guidance, with or without thinking as the run is "
    "trained; the best validation is known in hindsight only. Gold of averaged weights is that of an average of the "
    "policy over the last tenth or so of the course, at the last validation. Training reward is the mean of the first "
    "and of the last ten rollouts."
)
BEST = ("gold: best", "gold: last")
FACTS = KindFacts("Cost and course of training", __doc__, best=BEST, notes=(NOTE, phrases.COSTS), **TRAINING)
REWARDS = {
    "gold_first": "gold: first",
    "gold_best": "gold: best",
    "gold_last": "gold: last",
    "average_last": "gold of averaged weights: last",
    "validation_first": "validation reward: first",
    "validation_last": "validation reward: last",
    "training_first": "training reward: first 10",
    "training_last": "training reward: last 10",
}
PICKS = {"first": itemgetter(0), "best": max, "last": itemgetter(-1)}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    trained = [log for log in sources.folder.metrics(row.run).values() if log]
    rewards = {
        "gold": [logs.column(log, "validation", "gold") for log in trained],
        "average": [[*found.values()] for found in logs.validated(row.run, "average_gold", sources.folder).values()],
        "validation": [logs.column(log, "validation", "proxy") for log in trained],
        "training": [logs.ends(row.run, "proxy", sources.folder)],
    }
    rollouts = round(median(len(logs.column(log, "train", "proxy")) for log in trained)) if trained else None
    line = {"seeds": len(trained), "rollouts": rollouts} | sources.cost(row.run)
    for name in REWARDS:
        what, when = name.split("_")
        found = [PICKS[when](values) for values in rewards[what] if values and None not in values]
        line[name] = mean(found) if found else None
    return line


def text(line: Line, sources: Sources) -> Line:
    return (
        {"seeds": line["seeds"], "rollouts": lines.number(line, "rollouts", ",")}
        | {head: lines.number(line, name, ",.0f") for head, name in lines.COSTS.items()}
        | {head: lines.number(line, name) for name, head in REWARDS.items()}
        | {"collapsed seeds": lines.number(line, "collapsed", "d")}
    )
