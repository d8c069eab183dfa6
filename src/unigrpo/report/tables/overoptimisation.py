"""How the reward trained on (proxy) and the gold judge part: gains in units of the spread at the start, their gap, and
how far gold fell from its peak.
"""

from dataclasses import replace

from unigrpo.report.data import lines, logs, phrases
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

NOTE = (
    "Gains are end less first validation, in units of the standard deviation over the images of the first; the "
    "gap is the proxy's gain less gold's, paired by prompt. The fall is peak less end, the peak of "
    "each seed being where the mean of the other seeds is highest, so that its choice makes no fall; with one "
    "seed there is none. Peak and its update are those of the mean over seeds, known in hindsight only."
)
BEST = ("gold: peak", "gold: last")
FACTS = KindFacts(
    "Over-optimisation of the reward", __doc__, best=BEST, notes=(phrases.VALIDATED, NOTE), rewards=True, **TRAINING
)


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    """Levels, gains in spreads, gap and fall from the peak (positive where gold fell); see ``data.logs``."""
    run, c = row.run, logs.course(row.run, sources.folder)
    change = c and logs.change_since_peak(c)
    fall = logs.measured(change and replace(change, values=-change.values))
    at = {"first": 0, "peak": c.peak(), "end": c.late()} if c else {}

    def levels(metric: str, *when: str) -> Line:
        return {f"{metric}_{name}": c and float(c.means[metric][:, at[name]].mean()) for name in when}

    def gain(metric: str) -> float | None:
        first, end = levels(metric, "first", "end").values()
        return (end - first) / c.spread[metric] if c and c.spread[metric] else None

    return {
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        "updates": c and c.updates[-1],
        **levels("gold", "first", "peak", "end"),
        "peak_update": c and c.updates[at["peak"]],
        **levels("proxy", "first", "end"),
        **{f"{metric}_spread": c and c.spread[metric] for metric in ("proxy", "gold")},
        **{f"{metric}_gain": gain(metric) for metric in ("proxy", "gold")},
        **lines.estimates({"gap": logs.measured(c and logs.gap(c)), "fall": fall}),
        **levels("artefact", "first", "end"),
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Line, sources: Sources) -> Line:
    of = f" of {line['updates']:,d}" if line["updates"] else ""
    return {
        "seeds": lines.seeds(line),
        "gold: first": lines.number(line, "gold_first"),
        "gold: peak": lines.number(line, "gold_peak"),
        "gold: end": lines.number(line, "gold_end"),
        "peak at update": lines.number(line, "peak_update", ",d") + of,
        "proxy: first": lines.number(line, "proxy_first"),
        "proxy: end": lines.number(line, "proxy_end"),
        "proxy gain": lines.number(line, "proxy_gain", "+.2f"),
        "gold gain": lines.number(line, "gold_gain", "+.2f"),
        "gap": lines.interval(line, "gap", "+.2f"),
        "gold: fall from peak": lines.interval(line, "fall", "+.3f"),
        "artefact: first": lines.number(line, "artefact_first", ".2%"),
        "artefact: end": lines.number(line, "artefact_end", ".2%"),
        "collapsed seeds": lines.number(line, "collapsed", "d"),
    }
