"""How far runs went, and what held them: gold, which training never sees, the reward trained on (proxy), how the two
part, artefacts, diversity within a group, and the drift of the velocity from the start (the paper's Figure 5).
"""

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

NOTE = (
    "Gold less the first row's is paired by prompt and by the seeds that both have. The gap is the proxy's gain less "
    "gold's, end less first validation, each in units of the standard deviation over the images of the first. The "
    "fall is peak less end, the peak of each seed being where the mean of the other seeds is highest, so "
    "that its choice makes no fall; with one seed there is none. The peak itself is that of the mean over seeds, known "
    "in hindsight only. Training reward and diversity (the root mean square difference between two images of a group) "
    "are means over ten rollouts. Drift is the mean squared difference of the velocity from that of the checkpoint "
    "that the run started from."
)
BEST = ("gold: peak", "gold: end")
FACTS = KindFacts(
    "Over-optimisation of the reward", __doc__, best=BEST, notes=(phrases.VALIDATED, NOTE), rewards=True, **TRAINING
)
SHOWN = {  # head -> column, form
    "gold: first": ("gold_first", ".3f"),
    "gold: peak": ("gold_peak", ".3f"),
    "gold: end": ("gold", ".3f"),
    "gold: end − first row's": ("gold_gap", "+.3f"),
    "gold: fall from peak": ("fall", "+.3f"),
    "proxy: first": ("proxy_first", ".3f"),
    "proxy: end": ("proxy", ".3f"),
    "gap": ("gap", "+.2f"),
    "artefact: first": ("artefact_first", ".2%"),
    "artefact: end": ("artefact", ".2%"),
    "training reward: last 10": ("training_last", ".3f"),
    "diversity: first 10": ("diversity_first", ".3f"),
    "diversity: last 10": ("diversity_last", ".3f"),
    "drift": ("drift", ".4f"),
    "collapsed seeds": ("collapsed", "d"),
}


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    """Fall is positive where gold fell; see ``data.logs``."""
    run, folder, first = row.run, sources.folder, rows[0].run
    c, config = logs.course(run, folder), folder.config(run)
    anchor = logs.anchor(config) if config else None
    change = logs.measured(c and logs.change_since_peak(c))
    apart = logs.apart(c, logs.course(first, folder), "gold") if run != first else None
    ends = {metric: logs.at_end(c, metric) for metric in ("gold", "proxy", "artefact")}
    ends |= {"gold_gap": logs.measured(apart), "gap": logs.measured(c and logs.gap(c)), "fall": change and -change}
    return {
        "regulariser": anchor and anchor.kind,
        "weight": anchor and anchor.weight,
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        "updates": c and c.updates[-1],
        "peak_update": c and c.updates[c.peak()],
        **{f"{metric}_first": c and float(c.means[metric][:, 0].mean()) for metric in ("gold", "proxy", "artefact")},
        "gold_peak": c and float(c.means["gold"][:, c.peak()].mean()),
        **lines.estimates(ends),
        "training_last": logs.ends(run, "proxy", folder)[1],
        **dict(zip(("diversity_first", "diversity_last"), logs.ends(run, "diversity", folder), strict=True)),
        "drift": c and logs.drift_at_end(c, folder),
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Line, sources: Sources) -> Line:
    regulariser = line["regulariser"] or phrases.MISSING
    weight = "–" if line["weight"] is None else f"{line['weight']:g}"
    cells = {"regulariser": regulariser, "weight": weight, "seeds": lines.seeds(line)} | lines.cells(line, SHOWN)
    is_first = line["gold_gap"] is None and line["gold"] is not None
    return cells | {"gold: end − first row's": ""} if is_first else cells
