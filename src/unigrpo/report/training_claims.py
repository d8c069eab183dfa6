"""The comparisons of claims about training itself: its reward, over-optimisation, regularisers.

They read training records and validations, not scores. A run's validations are compared with the first, with the best
(chosen on the other seeds, see overoptimisation.py) or with another run's last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unigrpo.core.seeding import numpy_generator
from unigrpo.report.endings import apart
from unigrpo.report.overoptimisation import change_since_peak, measured, rise
from unigrpo.report.regularisers import regulariser
from unigrpo.report.rows import Sources
from unigrpo.report.stats import Cells, estimate
from unigrpo.report.training import ENDS, column
from unigrpo.report.validations import Course, course
from unigrpo.report.verdicts import ARTEFACT_MARGIN, YES, Finding, answer, not_worse

NONE, KL, MSE = "long_none", "long_kl", "long_mse"
"""Runs of joint training, long enough to over-optimise; every run whose name begins with KL is one more weight."""

Findings = Callable[[Sources], list[Finding]]
Courses = dict[str, Course]


def higher_training_reward(run: str, than: str) -> Findings:
    """Training reward of ``run`` - ``than`` over the last ENDS rollouts, paired by seed and rollout (same prompts)."""

    def compare(sources: Sources) -> list[Finding]:
        labels = [sources.folder.label(name) for name in (run, than)]
        what = f"training reward, last {ENDS} rollouts: {labels[0]} − {labels[1]}"
        a, b = (_rewards(name, sources) for name in (run, than))
        if not (a and b):
            return [Finding(what, missing=tuple(x for x, found in zip(labels, (a, b), strict=True) if not found))]
        seeds = sorted(a.keys() & b.keys())
        rollouts = sorted(set.intersection(*(set(log[seed]) for log in (a, b) for seed in seeds))) if seeds else []
        if not rollouts:
            return [Finding(what, missing=(f"a rollout that {labels[0]} and {labels[1]} share",))]
        last = rollouts[-ENDS:]
        values = np.array([[a[seed][r] - b[seed][r] for r in last] for seed in seeds])
        cells = Cells(values, tuple(seeds), tuple(map(str, last)), ("",) * len(last))
        e = estimate(cells, numpy_generator(0, "training reward", run, than), by_category=False)
        return [Finding.of(what, e, answer(e), unit="rollouts")]

    return compare


def _rewards(run: str, sources: Sources) -> dict[int, dict[int, float]]:
    """Seed -> rollout -> mean reward on its training prompts, of the seeds that were trained."""
    logs = {
        seed: dict(zip(column(rows, "train", "rollout"), column(rows, "train", "proxy"), strict=True))
        for seed, rows in sources.folder.metrics(run).items()
    }
    return {seed: log for seed, log in logs.items() if log}


def _finished(run: str, sources: Sources) -> Course | None:
    """The run's validations; None as long as a seed is still to be trained."""
    folder = sources.folder
    return course(run, folder) if len(folder.records(run)) == len(folder.seed_folders(run)) else None


def _of_courses(*runs: str, find: Callable[[Courses, Sources], list[Finding]]) -> Findings:
    """What ``find`` says of the validations of these runs, which a study has where they were asked for."""

    def compare(sources: Sources) -> list[Finding]:
        courses = {run: _finished(run, sources) for run in runs}
        absent = [sources.folder.label(run) for run, found in courses.items() if found is None]
        if absent:
            missing = (f"{', '.join(absent)}, made by `make overoptimise`",)
            return [Finding(f"validations of {', '.join(absent)}", missing=missing)]
        return find(courses, sources)

    return compare


def _since_peak(c: Course, metric: str, label: str, sign: int, said: Callable, **more) -> Finding:
    """Last validation - best, or with ``sign`` -1 the fall from the best."""
    what = f"validation {metric} of {label}: " + ("last − peak" if sign > 0 else "peak − last")
    change = change_since_peak(c, metric)
    if change is None:
        return Finding(what, missing=(f"a second seed of {label}",), **more)
    e = measured(Cells(sign * change.values, change.seeds, change.prompts, change.tags), "claims", c.run, metric)
    return Finding.of(what, e, said(e), **more)


def _ends_above(a: Course, b: Course, metric: str, sources: Sources, **more) -> Finding:
    """``a`` - ``b`` at their last validations."""
    first, second = (sources.folder.label(c.run) for c in (a, b))
    what, e = (
        f"validation {metric}, last: {first} − {second}",
        measured(apart(a, b, metric), "claims", a.run, b.run, metric),
    )
    if e is None:
        return Finding(what, missing=(f"a seed that {first} and {second} share",), **more)
    return Finding.of(what, e, answer(e), **more)


def _hacked(courses: Courses, sources: Sources) -> list[Finding]:
    c, label = courses[NONE], sources.folder.label(NONE)
    up = measured(rise(c, "proxy"), "claims", NONE, "rise")
    return [
        Finding.of(f"validation proxy of {label}: last − first", up, answer(up)),
        _since_peak(c, "gold", label, -1, answer),
        _since_peak(c, "proxy", label, -1, answer, counted=False),
    ]


def _let_artefacts_in(courses: Courses, sources: Sources) -> list[Finding]:
    folder = sources.folder
    names = sorted(path.name for path in (folder.root / "runs").glob(f"{KL}*"))
    found = {name: c for name in names if (c := _finished(name, sources))}
    weights = {name: regulariser(folder.config(name)).weight for name in found}
    listed = []
    for name in sorted(found, key=weights.get):
        stronger = _ends_above(courses[NONE], found[name], "proxy", sources, counted=False)
        listed.append(stronger)
        if stronger.answer == YES:
            e = measured(rise(found[name], "artefact"), "claims", name, "artefact")
            what = f"artefacts, share of the image: last − first, {folder.label(name)} at weight {weights[name]:g}"
            listed.append(Finding.of(what, e, answer(e, ARTEFACT_MARGIN)))
    if any(finding.counted for finding in listed):
        return listed
    none = "no latent KL lowered the reward clearly"
    return [*listed, Finding("artefacts under a latent KL that lowers the reward", missing=(none,))]


def _steady_and_best(courses: Courses, sources: Sources) -> list[Finding]:
    mse = courses[MSE]
    best = [_ends_above(mse, courses[run], "gold", sources) for run in (NONE, KL)]
    return [_since_peak(mse, "gold", sources.folder.label(MSE), 1, not_worse), *best]


hacked: Findings = _of_courses(NONE, find=_hacked)
"""C7: the proxy's rise, gold's fall from its peak and, not counted, the proxy's."""
lets_artefacts_in: Findings = _of_courses(NONE, KL, find=_let_artefacts_in)
"""C8: for every weight of the latent KL whether it lowers the reward (not counted), and if so the rise of artefacts."""
steady_and_best: Findings = _of_courses(NONE, KL, MSE, find=_steady_and_best)
"""C9: gold at the end against its peak, and against the other two runs at the end."""


def runs_read(sources: Sources) -> Sequence[str]:
    """The runs of these claims that are there."""
    there = sorted(path.name for path in (sources.folder.root / "runs").glob("long_*"))
    return [run for run in there if run in (NONE, MSE) or run.startswith(KL)]
