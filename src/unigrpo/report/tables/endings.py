"""Where a run ends under its regulariser, by the gold judge and by the reward trained on, and how far it moved.

Gold, proxy and artefacts are those of the last validation that all seeds reached; ``gold_gap`` is gold less that of the
table's first run, paired by prompt and by the seeds that both have. The drift is the velocity MSE from the start there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import KindFacts

FACTS = KindFacts(
    title="Regularisers",
    caption="Where runs end under each regulariser and weight: gold, which training never sees, the reward "
    "trained on (proxy), artefacts, diversity within a group, and the drift of the velocity from the "
    "start (the paper's Figure 5).",
    scores=False,
    reinforced=True,
    reads="run.json",
    notes=(
        phrases.VALIDATED,
        "Gold less the first row's is paired by prompt and by the seeds that both have. Training reward and diversity "
        "(the root mean square difference between two images of a group) are means over ten rollouts. Drift is the "
        "mean squared difference of the velocity from that of the checkpoint that the run started from.",
    ),
)


def line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    run, folder, first = row.run, sources.folder, rows[0].run
    c, config = logs.course(run, folder), folder.config(run)
    anchor = logs.anchor(config) if config else None
    gap = logs.apart(c, logs.course(first, folder), "gold") if run != first else None
    diversity_first, diversity_last = logs.ends(run, "diversity", folder)
    last, drift = c and c.updates[-1], logs.validated(run, "drift", folder)
    drifts = [by[last] for by in drift.values() if last in by]
    return {
        "run": run,
        "label": folder.label(run),
        "regulariser": anchor and anchor.kind,
        "weight": anchor and anchor.weight,
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        **lines.columns("gold", logs.measured(c and c.cells("gold", -1), run, "gold")),
        **lines.columns("gold_gap", logs.measured(gap, run, first, "gold")),
        **lines.columns("proxy", logs.measured(c and c.cells("proxy", -1), run, "proxy")),
        **lines.columns("artefact", logs.measured(c and c.cells("artefact", -1), run, "artefact")),
        "training_last": logs.ends(run, "proxy", folder)[1],
        "diversity_first": diversity_first,
        "diversity_last": diversity_last,
        "drift": mean(drifts) if drifts else None,
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Mapping) -> Line:
    return {
        "run": line["label"],
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


def notes(rows: Sequence[Row], table: Sequence[Mapping], sources: Sources) -> list[str]:
    runs, folder = phrases.runs_of(rows), sources.folder
    return phrases.proxies(runs, folder) + phrases.chosen_weights(runs, folder)
