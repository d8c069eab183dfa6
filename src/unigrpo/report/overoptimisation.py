"""Over-optimisation in numbers: how the reward that a run is trained on, the proxy, and the gold judge part.

Of a run's validations, K seeds x U validations x P prompts, each as Cells (K, P), paired by prompt and seed:

* rise: the last validation less the first
* gap: the proxy's rise less gold's, each in units of the spread over the images of the first validation
* change_since_peak: the last validation less the best. The best of seed k is where the mean of the *other* seeds is
  highest, so that the choice of the best flatters nothing; with one seed there is none
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unigrpo.core.seeding import numpy_generator
from unigrpo.report.lines import columns, interval, number, seeds
from unigrpo.report.notes import MISSING
from unigrpo.report.rows import Line, Row, Sources
from unigrpo.report.stats import Cells, Estimate, estimate
from unigrpo.report.validations import Course, course

# ------------------------------------------------------------------------------------------ measures


def rise(course: Course, metric: str) -> Cells:
    """Last validation - first."""
    values = course.values[metric]
    return Cells(values[:, -1] - values[:, 0], course.seeds, course.prompts, course.tags)


def gap(course: Course) -> Cells | None:
    """The proxy's rise - gold's, in units of the spread at the start; None where either has no spread."""
    if not (course.spread["proxy"] and course.spread["gold"]):
        return None
    proxy, gold = (rise(course, metric).values / course.spread[metric] for metric in ("proxy", "gold"))
    return Cells(proxy - gold, course.seeds, course.prompts, course.tags)


def change_since_peak(course: Course, metric: str = "gold") -> Cells | None:
    """Last validation - best, the best of each seed chosen on the others; None with one seed."""
    if len(course.seeds) == 1:
        return None
    means, values, changes = course.means[metric], course.values[metric], []
    for k in range(len(course.seeds)):
        best = np.delete(means, k, axis=0).mean(0).argmax()
        changes.append(values[k, -1] - values[k, best])
    return Cells(np.array(changes), course.seeds, course.prompts, course.tags)


def measured(cells: Cells | None, *names: str) -> Estimate | None:
    """Mean and interval of validation prompts, categories weighing equally; ``names`` choose the resamples."""
    return None if cells is None else estimate(cells, numpy_generator(0, "validation", *names))


# ------------------------------------------------------------------------------------------ the table


def line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    """The row of the CSV: levels, gains in spreads, gap and fall from the peak (positive where gold fell)."""
    run, c = row.run, course(row.run, sources.folder)
    fell = measured(c and change_since_peak(c), run, "fall")
    fall = fell and Estimate(-fell.mean, -fell.hi, -fell.lo, fell.seeds, fell.prompts)

    def level(metric: str, at: int) -> float | None:
        return c and float(c.means[metric][:, at].mean())

    def gain(metric: str) -> float | None:
        return (level(metric, -1) - level(metric, 0)) / c.spread[metric] if c and c.spread[metric] else None

    return {
        "run": run,
        "label": sources.folder.label(run),
        "seeds": len(c.seeds) if c else 0,
        "prompts": len(c.prompts) if c else 0,
        "updates": c and c.updates[-1],
        "gold_first": level("gold", 0),
        "gold_peak": c and level("gold", c.peak()),
        "gold_last": level("gold", -1),
        "peak_update": c and c.updates[c.peak()],
        "proxy_first": level("proxy", 0),
        "proxy_last": level("proxy", -1),
        "proxy_spread": c and c.spread["proxy"],
        "gold_spread": c and c.spread["gold"],
        "proxy_gain": gain("proxy"),
        "gold_gain": gain("gold"),
        **columns("gap", measured(c and gap(c), run, "gap")),
        **columns("fall", fall),
        "artefact_first": level("artefact", 0),
        "artefact_last": level("artefact", -1),
        "collapsed": sources.cost(run)["collapsed"],
    }


def text(line: Mapping) -> Line:
    """The row of the Markdown."""
    return {
        "run": line["label"],
        "seeds": seeds(line),
        "gold: first": number(line, "gold_first"),
        "gold: peak": number(line, "gold_peak"),
        "gold: last": number(line, "gold_last"),
        "peak at update": number(line, "peak_update", ",d") + (f" of {line['updates']:,d}" if line["updates"] else ""),
        "proxy: first": number(line, "proxy_first"),
        "proxy: last": number(line, "proxy_last"),
        "proxy gain": number(line, "proxy_gain", "+.2f"),
        "gold gain": number(line, "gold_gain", "+.2f"),
        "gap": interval(line, "gap", "+.2f"),
        "gold: fall from peak": interval(line, "fall", "+.3f"),
        "artefact: first": number(line, "artefact_first", ".2%"),
        "artefact: last": number(line, "artefact_last", ".2%"),
        "collapsed seeds": MISSING if line["collapsed"] is None else str(line["collapsed"]),
    }
