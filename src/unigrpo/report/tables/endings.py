"""Where runs end under each regulariser and weight: gold, which training never sees, the reward trained on (proxy),
artefacts, diversity within a group, and the drift of the velocity from the start (the paper's Figure 5).
"""

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

NOTE = (
    "Gold less the first row's is paired by prompt and by the seeds that both have. Training reward and diversity "
    "(the root mean square difference between two images of a group) are means over ten rollouts. Drift is the "
    "mean squared difference of the velocity from that of the checkpoint that the run started from."
)
FACTS = KindFacts("Regularisers", __doc__, best=("gold",), notes=(phrases.VALIDATED, NOTE), rewards=True, **TRAINING)


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    run, folder, first = row.run, sources.folder, rows[0].run
    c, config = logs.course(run, folder), folder.config(run)
    anchor = logs.anchor(config) if config else None
    apart = logs.apart(c, logs.course(first, folder), "gold") if run != first else None
    ends = {"gold": logs.at_end(c, "gold"), "gold_gap": logs.measured(apart)}
    ends |= {metric: logs.at_end(c, metric) for metric in ("proxy", "artefact")}
    return {
        "regulariser": anchor and anchor.kind,
        "weight": anchor and anchor.weight,
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        **lines.estimates(ends),
        "training_last": logs.ends(run, "proxy", folder)[1],
        **dict(zip(("diversity_first", "diversity_last"), logs.ends(run, "diversity", folder), strict=True)),
        "drift": c and logs.drift_at_end(c, folder),
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Line, sources: Sources) -> Line:
    return {
        "regulariser": line["regulariser"] or phrases.MISSING,
        "weight": "–" if line["weight"] is None else f"{line['weight']:g}",
        "seeds": lines.seeds(line),
        "gold": lines.interval(line, "gold"),
        "gold − first row's": "" if line["gold_gap"] is None else lines.interval(line, "gold_gap", "+.3f"),
        "proxy": lines.interval(line, "proxy"),
        "artefact": lines.interval(line, "artefact", ".2%"),
        "training reward: last 10": lines.number(line, "training_last"),
        "diversity: first 10": lines.number(line, "diversity_first"),
        "diversity: last 10": lines.number(line, "diversity_last"),
        "drift": lines.number(line, "drift", ".4f"),
        "collapsed seeds": lines.number(line, "collapsed", "d"),
    }
