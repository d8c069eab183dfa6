"""The comparisons of claims about training itself: its reward, over-optimisation, regularisers.

They read training records and validations, not scores. A run's validations are compared with the first, with the best
(chosen on the other seeds, see report.data.validations) or with another run's last. The runs are those that the
catalogue's entry of the claim names, by their place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unigrpo.core.seeding import numpy_generator
from unigrpo.report.claims.verdicts import ARTEFACT_MARGIN, YES, Finding, answer, not_worse
from unigrpo.report.data import validations
from unigrpo.report.data.anchors import anchor
from unigrpo.report.data.logs import ENDS, column
from unigrpo.report.data.results import Folder
from unigrpo.report.data.rows import Sources
from unigrpo.report.data.stats import Cells, estimate
from unigrpo.report.data.validations import Course, course


def higher_training_reward(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """Training reward of the first run - the second's over the last ENDS rollouts, paired by seed and rollout, whose
    prompts are the same."""
    labels = [sources.folder.label(name) for name in runs]
    what = f"training reward, last {ENDS} rollouts: {labels[0]} − {labels[1]}"
    a, b = (_rewards(name, sources) for name in runs)
    if not (a and b):
        return [Finding(what, missing=tuple(x for x, found in zip(labels, (a, b), strict=True) if not found))]
    seeds = sorted(a.keys() & b.keys())
    rollouts = sorted(set.intersection(*(set(log[seed]) for log in (a, b) for seed in seeds))) if seeds else []
    if not rollouts:
        return [Finding(what, missing=(f"a rollout that {labels[0]} and {labels[1]} share",))]
    last = rollouts[-ENDS:]
    values = np.array([[a[seed][r] - b[seed][r] for r in last] for seed in seeds])
    cells = Cells(values, tuple(seeds), tuple(map(str, last)), ("",) * len(last))
    e = estimate(cells, numpy_generator(0, "training reward", *runs), by_category=False)
    return [Finding.of(what, e, answer(e), unit="rollouts")]


def _rewards(run: str, sources: Sources) -> dict[int, dict[int, float]]:
    """Seed -> rollout -> mean reward on its training prompts, of the seeds that were trained."""
    logs = {
        seed: dict(zip(column(rows, "train", "rollout"), column(rows, "train", "proxy"), strict=True))
        for seed, rows in sources.folder.metrics(run).items()
    }
    return {seed: log for seed, log in logs.items() if log}


def _finished(run: str, folder: Folder) -> Course | None:
    """The run's validations; None as long as a seed is still to be trained."""
    return course(run, folder) if len(folder.records(run)) == len(folder.seed_folders(run)) else None


def _absent(runs: Sequence[str], folder: Folder) -> list[Finding]:
    """What is missing where the validations of a run are; a study has them where they were asked for."""
    absent = [folder.label(run) for run in runs if _finished(run, folder) is None]
    missing = (f"{', '.join(absent)}, made by `make overoptimise`",)
    return [Finding(f"validations of {', '.join(absent)}", missing=missing)] if absent else []


def _since_peak(c: Course, metric: str, label: str, sign: int, said: Callable, **more) -> Finding:
    """Last validation - best, or with ``sign`` -1 the fall from the best."""
    what = f"validation {metric} of {label}: " + ("last − peak" if sign > 0 else "peak − last")
    change = validations.change_since_peak(c, metric)
    if change is None:
        return Finding(what, missing=(f"a second seed of {label}",), **more)
    change = Cells(sign * change.values, change.seeds, change.prompts, change.tags)
    e = validations.measured(change, "claims", c.run, metric)
    return Finding.of(what, e, said(e), **more)


def _ends_above(a: Course, b: Course, metric: str, sources: Sources, **more) -> Finding:
    """``a`` - ``b`` at their last validations."""
    first, second = (sources.folder.label(c.run) for c in (a, b))
    what = f"validation {metric}, last: {first} − {second}"
    e = validations.measured(validations.apart(a, b, metric), "claims", a.run, b.run, metric)
    if e is None:
        return Finding(what, missing=(f"a seed that {first} and {second} share",), **more)
    return Finding.of(what, e, answer(e), **more)


def hacked(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """The one run's rise of the proxy, gold's fall from its peak and, not counted, the proxy's."""
    if absent := _absent(runs, sources.folder):
        return absent
    c, label = course(runs[0], sources.folder), sources.folder.label(runs[0])
    up = validations.measured(validations.rise(c, "proxy"), "claims", c.run, "rise")
    return [
        Finding.of(f"validation proxy of {label}: last − first", up, answer(up)),
        _since_peak(c, "gold", label, -1, answer),
        _since_peak(c, "proxy", label, -1, answer, counted=False),
    ]


def lets_artefacts_in(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """For every run but the first, one weight of a regulariser each, whether it ends with less reward than the first
    (not counted), and if so the rise of artefacts. The first two must be there."""
    folder = sources.folder
    if absent := _absent(runs[:2], folder):
        return absent
    found = {run: c for run in runs[1:] if (c := _finished(run, folder))}
    weights = {run: anchor(folder.config(run)).weight for run in found}
    listed = []
    for run in sorted(found, key=weights.get):
        stronger = _ends_above(course(runs[0], folder), found[run], "proxy", sources, counted=False)
        listed.append(stronger)
        if stronger.answer == YES:
            e = validations.measured(validations.rise(found[run], "artefact"), "claims", run, "artefact")
            what = f"artefacts, share of the image: last − first, {folder.label(run)} at weight {weights[run]:g}"
            listed.append(Finding.of(what, e, answer(e, ARTEFACT_MARGIN)))
    if any(finding.counted for finding in listed):
        return listed
    none = "no latent KL lowered the reward clearly"
    return [*listed, Finding("artefacts under a latent KL that lowers the reward", missing=(none,))]


def steady_and_best(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """The first run's gold at the end against its peak, and against the other runs at the end."""
    if absent := _absent(runs, sources.folder):
        return absent
    first, *others = (course(run, sources.folder) for run in runs)
    best = [_ends_above(first, other, "gold", sources) for other in others]
    return [_since_peak(first, "gold", sources.folder.label(first.run), 1, not_worse), *best]
