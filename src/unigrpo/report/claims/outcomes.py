"""The paper's claims: their checks, and what they come to in a study's results, as a CSV and a page.

A check has the name that the catalogue's entries give. A claim is made of comparisons, each a difference of two rows at
tuned guidance or of training records; rule.md says what they come to, and stood before any outcome was known. Where a
row is missing the claim is *not available*, and the missing rows are named.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from unigrpo.core.files import read_text, write_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.claims import findings
from unigrpo.report.claims.findings import GUIDANCE, HOLDS, NO, UNDECIDED, YES, Finding, any_one, every_one
from unigrpo.report.data.phrases import MISSING, fates, scale_of
from unigrpo.report.data.results import Row, Sources
from unigrpo.report.data.stats import rank_correlation
from unigrpo.report.pages import page
from unigrpo.study.catalogue import READS, runs_read

CHECKS = {  # check -> its comparisons, and the verdict of their answers
    "highest": (findings.highest, every_one),
    "gains": (findings.differences, every_one),
    "no_losses": (partial(findings.differences, said=findings.not_worse), every_one),
    "not_all_gains": (findings.differences, findings.not_every_one),
    "all_collapsed": (findings.collapsed_seeds, every_one),
    "half_the_evaluations": (findings.half_the_evaluations, every_one),
    "higher_training_reward": (findings.higher_training_reward, every_one),
    "hacked": (findings.hacked, every_one),
    "lets_artefacts_in": (findings.lets_artefacts_in, any_one),
    "steady_and_best": (findings.steady_and_best, every_one),
}
RULE = Path(__file__).with_name("rule.md")  # paragraphs with names of findings in braces


@dataclass(frozen=True)
class Outcome:
    """A claim, by its name and its entry in the catalogue, with its comparisons, and what they come to."""

    id: str
    entry: Mapping
    kind: str  # whether the synthetic world designs it in
    verdict: str
    findings: list[Finding]
    decisive: Finding  # the comparison that the verdict turns on; an empty one where any is missing


def check(entries: Mapping[str, Mapping], sources: Sources) -> list[Outcome]:
    """Every claim of the catalogue checked on what its entry names."""
    outcomes = []
    for name, entry in entries.items():
        compare, verdict_of = CHECKS[entry["check"]]
        found = compare(entry[READS[entry["check"]]], sources.of(entry))
        counted = [finding for finding in found if finding.counted]
        if missing := list(dict.fromkeys(name for finding in counted for name in finding.missing)):
            verdict, decisive = f"{MISSING}: {'; '.join(missing)}", Finding(MISSING)
        else:
            verdict, turns = verdict_of([finding.answer for finding in counted]), max if verdict_of is any_one else min
            decisive = turns(counted, key=lambda finding: ((NO, UNDECIDED, YES).index(finding.answer), finding.effect))
            rests_on = counted if verdict == HOLDS and verdict_of is every_one else [decisive]
            verdict += " (one replicate)" * any(finding.one_replicate for finding in rests_on)
        kind = "designed in" if entry.get("designed") else "could have failed"
        outcomes.append(Outcome(name, entry, kind, verdict, found, decisive))
    return outcomes


def rankings(sources: Sources) -> Iterator[str]:
    """How far our order of rows is the paper's, a sentence a metric."""
    for benchmark in sources.in_paper():
        name, metric, pairs = sources.benchmarks[benchmark].label, sources.benchmarks[benchmark].metrics[0], []
        for run, thinking in sources.paper.rows:
            theirs = sources.paper.value(run, thinking, benchmark)
            ours = sources.estimate(Row(run, thinking, GUIDANCE), benchmark, metric)
            if theirs and ours:
                pairs.append((ours.mean, float(theirs)))
        found = rank_correlation(*zip(*pairs, strict=True), numpy_generator(0, "ranks", name)) if pairs else None
        shown = "{:.2f} [{:.2f}, {:.2f}]".format(*found) if found else MISSING
        yield f"{name}: Spearman's rank correlation of our rows with the paper's: {shown}, n = {len(pairs)} rows."


def write(entries: Mapping[str, Mapping], sources: Sources, out: Path) -> None:
    """Write claims.csv, a line a claim with empty cells where not available, and claims.md and .html."""
    outcomes = check(entries, sources)
    lines = [
        {"id": o.id, "claim": o.entry["claim"]}
        | {"effect": o.decisive.effect, "lo": o.decisive.lo, "hi": o.decisive.hi, "n": o.decisive.n or None}
        | {"verdict": o.verdict, "kind": o.kind, "why": o.entry["why"]}
        for o in outcomes
    ]
    summary = [
        {"id": o.id, "claim": o.entry["claim"], "verdict": o.verdict, "kind": o.kind}
        | {"turns on": o.decisive.what, "effect": o.decisive.shown, "n": o.decisive.basis}
        for o in outcomes
    ]
    comparisons = [
        {"id": o.id, "comparison": f.what, "effect": f.shown, "n": f.basis, "answer": f.said}
        for o in outcomes
        for f in o.findings
    ]
    paper = [run for run, _ in sources.paper.rows]
    runs = list(dict.fromkeys([*paper, *(run for entry in entries.values() for run in runs_read(entry))]))
    title, rule = f"The paper's claims, {GUIDANCE} guidance", read_text(RULE).format_map(vars(findings)).split("\n\n")
    sections = [
        ("", [scale_of(runs, sources.folder)]),
        ("", pd.DataFrame(summary)),
        ("Why it was designed in, or could have failed", [f"**{o.id}**: {o.entry['why']}" for o in outcomes]),
        ("The order of rows", [*rankings(sources), "Brackets are 95 % intervals: bootstrap over rows."]),
        ("The rule", [*(" ".join(part.split()) for part in rule), *fates(runs, sources.folder)]),
        ("All comparisons", pd.DataFrame(comparisons)),
    ]
    numbers = pd.DataFrame(lines).astype({"n": "Int64"})
    write_text(out / "claims.csv", numbers.to_csv(index=False, float_format="%.4f"))
    write_text(out / "claims.md", page.markdown(title, sections))
    write_text(out / "claims.html", page.parts(title, sections))
