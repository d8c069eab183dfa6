"""The comparisons of claims about judged images, at tuned guidance, and about what training cost.

A function takes what the catalogue's entry of its claim names: rows, pairs of rows, or runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unigrpo.report.claims.verdicts import NO, UNDECIDED, YES, Finding, answer
from unigrpo.report.data.rows import Row, Sources

GUIDANCE = "tuned"
METRICS = {"TA": ("ta", "ta"), "GenEval": ("geneval", "official")}
"""As tables say it -> benchmark, metric."""

Pair = tuple[str, str]
"""A row at tuned guidance: run, thinking."""


def compared(better: Pair, than: Pair, metric: str, sources: Sources, said: Callable = answer) -> Finding:
    """``better`` - ``than`` in one of METRICS; ``said`` answers by the interval."""
    rows = [Row(*pair, GUIDANCE) for pair in (better, than)]
    first, second = map(sources.name, rows)
    what = f"{metric}: {first} − {second}"
    e = sources.gap(*rows, *METRICS[metric])
    if e is None:
        missing = tuple(sources.name(row) for row in rows if sources.cells(row, *METRICS[metric]) is None)
        return Finding(what, missing=missing or (f"a seed that {first} and {second} share",))
    return Finding.of(what, e, said(e))


def differences(
    pairs: Sequence[tuple[Pair, Pair]],
    sources: Sources,
    metrics: Sequence[str] = tuple(METRICS),
    said: Callable = answer,
) -> list[Finding]:
    """Comparisons of the first row of each pair with the second, in every metric."""
    return [compared(*pair, metric, sources, said) for metric in metrics for pair in pairs]


def highest(rows: Sequence[Pair], sources: Sources) -> list[Finding]:
    """Comparisons of the one row with every other row of the paper."""
    best = tuple(rows[0])
    return differences([(best, row) for row in sources.paper.rows if row != best], sources)


def collapsed_seeds(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """The share of the one run's seeds that collapsed: yes where all did, no where none did."""
    label = sources.folder.label(runs[0])
    what = f"collapsed seeds of {label}, of all"
    fell = [bool(r.get("collapsed")) for r in sources.folder.records(runs[0]) if not r.get("not_trained")]
    if not fell:
        return [Finding(what, missing=(label,))]
    said = YES if all(fell) else UNDECIDED if any(fell) else NO
    return [Finding(what, said, sum(fell) / len(fell), seeds=len(fell))]


def half_the_evaluations(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """Model evaluations for one image in training, of the first run over those of the second, which is guided: yes
    where exactly half."""
    labels = [sources.folder.label(run) for run in runs]
    what = f"model evaluations for an image: {labels[0]} / {labels[1]}"
    records = [[r for r in sources.folder.records(run) if r.get("images")] for run in runs]
    if not all(records):
        return [Finding(what, missing=tuple(x for x, found in zip(labels, records, strict=True) if not found))]
    spent, images = ([sum(r[key] for r in found) for found in records] for key in ("model_evaluations", "images"))
    effect = spent[0] * images[1] / (spent[1] * images[0])
    return [Finding(what, YES if effect == 0.5 else NO, effect, seeds=min(map(len, records)))]
