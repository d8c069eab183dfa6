"""The paper's claims: the rule, their comparisons, and what they come to in a study's results, as a CSV and a page.

A claim is made of comparisons, each a difference of two rows at tuned guidance, of training costs, or of validations: a
run's last with its first, with its best (chosen on the other seeds, see report.data.logs) or with another run's last.
The catalogue's entry of a claim names its check, and the rows, pairs of rows or runs that this takes by their place.
rule.md says what comparisons come to, and stood before any outcome was known. Where a row is missing the claim is *not
available*, and the missing rows are named.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from unigrpo.core.files import read_text, write_text
from unigrpo.report.data import logs
from unigrpo.report.data.logs import ENDS, Course, course
from unigrpo.report.data.phrases import MISSING, UNJUDGED, fates, scale_of
from unigrpo.report.data.results import Folder, Row, Sources
from unigrpo.report.data.stats import Cells, Estimate, estimate, written
from unigrpo.report.pages import page
from unigrpo.study.catalogue import READS, runs_read

GUIDANCE = "tuned"
LEAST_RANKED = 4  # rows: fewer have no rank correlation worth a number
ONCE = ("base", "sft")  # stages that are trained at one seed, which all others share
Pair = tuple[str, str]  # a row at tuned guidance: run, thinking

# ------------------------------------------------------------------------------------------ the rule

MARGIN = 0.02  # the smallest difference that matters, in benchmarks, gold and reward
ARTEFACT_MARGIN = 0.005  # in the share of image area: 12 of 48 x 48 pixels

YES, NO, UNDECIDED = "yes", "no", "undecided"
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided at this n"


def answer(difference: Estimate, margin: float = MARGIN) -> str:
    """What one comparison says of a gain."""
    if difference.lo > 0 and difference.mean >= margin:
        return YES
    return NO if difference.hi < margin else UNDECIDED


def not_worse(difference: Estimate) -> str:
    """What one comparison says where none is asked to gain: that nothing that matters is lost (non-inferiority)."""
    if difference.lo >= -MARGIN:
        return YES
    return NO if difference.hi < -MARGIN else UNDECIDED


def every_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that needs every comparison."""
    if NO in answers:
        return FAILS
    return HOLDS if set(answers) == {YES} else OPEN


def not_every_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that denies that every comparison is a gain."""
    return {HOLDS: FAILS, FAILS: HOLDS}.get(every_one(answers), OPEN)


def any_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that one comparison is enough for."""
    if YES in answers:
        return HOLDS
    return FAILS if set(answers) == {NO} else OPEN


@dataclass(frozen=True)
class Finding:
    """How one comparison came out: its effect, the interval of a difference, and on how much it rests. ``missing``
    names what it lacks; ``prompts`` (or what ``unit`` says instead) is 0 where it is a count over seeds. One that is
    not ``counted`` is shown and decides nothing. ``replicates``: the fewest seeds of its runs, without those that have
    one by design, 0 where all have; None: ``seeds``."""

    what: str
    answer: str = MISSING
    effect: float | None = None
    lo: float | None = None
    hi: float | None = None
    seeds: int = 0
    prompts: int = 0
    missing: tuple[str, ...] = ()
    counted: bool = True
    unit: str = "prompts"
    replicates: int | None = None
    form: str = ".3f"

    @property
    def n(self) -> int:
        """Paired values: prompts times seeds, or the seeds counted."""
        return self.seeds * (self.prompts or 1)

    @property
    def shown(self) -> str:
        if self.effect is None:
            return MISSING
        if not self.prompts:
            return f"{self.effect:.3f}"
        return written(self.effect, self.lo, self.hi, f"+{self.form}")

    @property
    def basis(self) -> str:
        if self.effect is None:
            return MISSING
        return f"{self.seeds} seed{'s' * (self.seeds != 1)}" + f" × {self.prompts} {self.unit}" * bool(self.prompts)

    @property
    def one_replicate(self) -> bool:
        """Whether nothing is known of its spread between trainings."""
        return (self.seeds if self.replicates is None else self.replicates) == 1

    @property
    def said(self) -> str:
        return self.answer + ", not counted" * (not self.counted)


def finding(what: str, e: Estimate | None, *missing: str, said: Callable = answer, **more) -> Finding:
    """Of an estimate, which ``said`` answers where it has an interval; without an estimate, what is ``missing``."""
    if e is None:
        return Finding(what, missing=missing, **more)
    return Finding(what, UNDECIDED if e.lo is None else said(e), e.mean, e.lo, e.hi, e.seeds, e.prompts, **more)


# ------------------------------------------------------------------------------------------ scores and costs


def differences(pairs: Sequence[tuple[Pair, Pair]], sources: Sources, said: Callable = answer) -> list[Finding]:
    """The first row of each pair - the second, on every benchmark; ``said`` answers by the interval."""
    listed = []
    for (benchmark, entry), pair in itertools.product(sources.benchmarks.items(), pairs):
        metric, rows = (benchmark, entry.metrics[0]), [Row(*each, GUIDANCE) for each in pair]
        names = [sources.name(row) for row in rows]
        unscored = [name for name, row in zip(names, rows, strict=True) if not sources.cells(row, *metric)]
        missing = unscored or [f"a seed that {' and '.join(names)} share"]
        e, stages = sources.gap(*rows, *metric), [sources.folder.config(row.run).get("stage") for row in rows]
        seeds = [
            len(sources.cells(row, *metric).seeds) for row, s in zip(rows, stages, strict=True) if e and s not in ONCE
        ]
        more = {"said": said, "replicates": min([*seeds, e.seeds]) if seeds else 0, "form": sources.form(*metric)}
        listed.append(finding(f"{entry.label}: {' − '.join(names)}", e, *missing, **more))
    return listed


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


def _lacking(runs: Sequence[str], found: Sequence, sources: Sources) -> tuple[str, ...]:
    """The labels of the runs of which nothing was found."""
    return tuple(sources.folder.label(run) for run, each in zip(runs, found, strict=True) if not each)


def half_the_evaluations(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """Model evaluations for an image in training, first run / second, which is guided: yes where exactly half."""
    what = f"model evaluations for an image: {' / '.join(map(sources.folder.label, runs))}"
    records = [[r for r in sources.folder.records(run) if r.get("images")] for run in runs]
    if missing := _lacking(runs, records, sources):
        return [Finding(what, missing=missing)]
    spent, images = ([sum(r[key] for r in found) for found in records] for key in ("model_evaluations", "images"))
    effect = spent[0] * images[1] / (spent[1] * images[0])
    return [Finding(what, YES if effect == 0.5 else NO, effect, seeds=min(map(len, records)))]


# ------------------------------------------------------------------------------------------ training itself


def higher_training_reward(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """Training reward of the first run - the second's over the last ENDS rollouts, paired by seed and rollout, whose
    prompts are the same."""
    labels = [sources.folder.label(run) for run in runs]
    what = f"training reward, last {ENDS} rollouts: {' − '.join(labels)}"
    rewards = []  # of each run: rollout x seed that was trained, mean reward on its training prompts
    for run in runs:
        logged = sources.folder.metrics(run).items()
        found = {s: [logs.column(rows, "train", name) for name in ("rollout", "proxy")] for s, rows in logged}
        rewards.append({s: pd.Series(proxy, rollouts) for s, (rollouts, proxy) in found.items() if rollouts})
    if missing := _lacking(runs, rewards, sources):
        return [Finding(what, missing=missing)]
    a, b = map(pd.DataFrame, rewards)
    apart = (a - b)[sorted({*a} & {*b})].sort_index().dropna().tail(ENDS)
    if apart.empty:
        return [Finding(what, missing=(f"a rollout that {' and '.join(labels)} share",))]
    cells = Cells(apart.T.to_numpy(), tuple(apart), tuple(map(str, apart.index)), ("",) * len(apart), None)
    e = estimate(cells, by_category=False)
    return [finding(what, e, unit="rollouts")]


def _finished(run: str, folder: Folder) -> Course | None:
    """The run's validations; None as long as a seed is still to be trained."""
    return course(run, folder) if len(folder.records(run)) == len(folder.seed_folders(run)) else None


def _absent(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """What is missing where the validations of a run are; a study has them where they were asked for."""
    absent = ", ".join(_lacking(runs, [_finished(run, sources.folder) for run in runs], sources))
    return [Finding(f"validations of {absent}", missing=(f"{absent}, made by `make overoptimise`",))] if absent else []


def _since_peak(c: Course, metric: str, label: str, sign: int = -1, **more) -> Finding:
    """The fall from the best validation to the last, or with ``sign`` 1 the last - best."""
    what = f"validation {metric} of {label}: " + ("last − peak" if sign > 0 else "peak − last")
    change = logs.change_since_peak(c, metric)
    e = logs.measured(change and replace(change, values=sign * change.values))
    return finding(what, e, f"a second seed of {label}", **more)


def _ends_above(a: Course, b: Course, metric: str, sources: Sources, **more) -> Finding:
    """``a`` - ``b`` at their last validations."""
    labels = [sources.folder.label(c.run) for c in (a, b)]
    e = logs.measured(logs.apart(a, b, metric))
    what = f"validation {metric}, last: {' − '.join(labels)}"
    return finding(what, e, f"a seed that {' and '.join(labels)} share", **more)


def hacked(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """The one run's rise of the proxy, gold's fall from its peak and, not counted, the proxy's."""
    if absent := _absent(runs, sources):
        return absent
    c, label = course(runs[0], sources.folder), sources.folder.label(runs[0])
    rise = logs.measured(logs.rise(c, "proxy"))
    return [
        finding(f"validation proxy of {label}: last − first", rise),
        _since_peak(c, "gold", label),
        _since_peak(c, "proxy", label, counted=False),
    ]


def lets_artefacts_in(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """For every run but the first, one weight of a regulariser each, whether it ends with less reward than the first
    (not counted), and if so the rise of artefacts. The first two must be there."""
    if absent := _absent(runs[:2], sources):
        return absent
    folder, listed = sources.folder, []
    found = {run: c for run in runs[1:] if (c := _finished(run, folder))}
    weights = {run: logs.anchor(folder.config(run)).weight for run in found}
    for run in sorted(found, key=weights.get):
        listed.append(_ends_above(course(runs[0], folder), found[run], "proxy", sources, counted=False))
        if listed[-1].answer == YES:
            rise = logs.measured(logs.rise(found[run], "artefact"))
            what = f"artefacts, share of the image: last − first, {folder.label(run)} at weight {weights[run]:g}"
            listed.append(finding(what, rise, said=partial(answer, margin=ARTEFACT_MARGIN)))
    if not any(each.counted for each in listed):
        none = ("no latent KL lowered the reward clearly",)
        listed.append(Finding("artefacts under a latent KL that lowers the reward", missing=none))
    return listed


def steady_and_best(runs: Sequence[str], sources: Sources) -> list[Finding]:
    """The first run's gold at the end against its peak, and against the other runs at the end."""
    if absent := _absent(runs, sources):
        return absent
    first, *others = (course(run, sources.folder) for run in runs)
    steady = _since_peak(first, "gold", sources.folder.label(first.run), 1, said=not_worse)
    return [steady, *(_ends_above(first, other, "gold", sources) for other in others)]


# ------------------------------------------------------------------------------------------ checks and outcomes

CHECKS = {  # check -> its comparisons, and the verdict of their answers
    "highest": (highest, every_one),
    "gains": (differences, every_one),
    "no_losses": (partial(differences, said=not_worse), every_one),
    "not_all_gains": (differences, not_every_one),
    "all_collapsed": (collapsed_seeds, every_one),
    "half_the_evaluations": (half_the_evaluations, every_one),
    "higher_training_reward": (higher_training_reward, every_one),
    "hacked": (hacked, every_one),
    "lets_artefacts_in": (lets_artefacts_in, any_one),
    "steady_and_best": (steady_and_best, every_one),
}
RULE = Path(__file__).with_name("rule.md")  # paragraphs with names of this module in braces


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
        counted = [each for each in found if each.counted]
        if missing := list(dict.fromkeys(name for each in counted for name in each.missing)):
            verdict, decisive = f"{MISSING}: {'; '.join(missing)}", Finding(MISSING)
        else:
            verdict, turns = verdict_of([each.answer for each in counted]), max if verdict_of is any_one else min
            decisive = turns(counted, key=lambda each: ((NO, UNDECIDED, YES).index(each.answer), each.effect))
            rests_on = counted if verdict == HOLDS and verdict_of is every_one else [decisive]
            verdict += " (one replicate)" * any(each.one_replicate for each in rests_on)
        kind = "designed in" if entry.get("designed") else "could have failed"
        outcomes.append(Outcome(name, entry, kind, verdict, found, decisive))
    return outcomes


def _unjudged(o: Outcome) -> Outcome:
    """The outcome without its answers, where numbers mean nothing; what is missing stays."""
    findings = [f if f.effect is None else replace(f, answer=UNJUDGED) for f in o.findings]
    return replace(o, findings=findings, verdict=o.verdict if o.decisive.effect is None else UNJUDGED)


def rankings(sources: Sources) -> Iterator[str]:
    """How far our order of rows is the paper's, a sentence a metric."""
    for benchmark in sources.in_paper():
        name, metric, pairs = sources.benchmarks[benchmark].label, sources.benchmarks[benchmark].metrics[0], []
        for run, thinking in sources.paper.rows:
            theirs = sources.paper.value(run, thinking, benchmark)
            ours = sources.estimate(Row(run, thinking, GUIDANCE), benchmark, metric)
            if theirs and ours:
                pairs.append((ours.mean, float(theirs)))
        rho = pd.DataFrame(pairs).corr("spearman").iat[0, 1] if len(pairs) >= LEAST_RANKED else math.nan
        shown = MISSING if math.isnan(rho) else f"{rho:.2f}"
        yield f"{name}: Spearman's rank correlation of our rows with the paper's: {shown}, n = {len(pairs)} rows."


def write(entries: Mapping[str, Mapping], sources: Sources, out: Path) -> None:
    """Write claims.csv, a line a claim with empty cells where not available, and claims.md and .html."""
    outcomes = check(entries, sources)
    if sources.folder.trial:
        outcomes = [*map(_unjudged, outcomes)]
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
    title, rule = f"The paper's claims, {GUIDANCE} guidance", read_text(RULE).format_map(globals()).split("\n\n")
    sections = [
        ("", [scale_of(runs, sources.folder)]),
        ("", pd.DataFrame(summary)),
        ("Why it was designed in, or could have failed", [f"**{o.id}**: {o.entry['why']}" for o in outcomes]),
        ("The order of rows", [*rankings(sources)]),
        ("The rule", [*(" ".join(part.split()) for part in rule), *fates(runs, sources.folder)]),
        ("All comparisons", pd.DataFrame(comparisons)),
    ]
    numbers = pd.DataFrame(lines).astype({"n": "Int64"})
    write_text(out / "claims.csv", numbers.to_csv(index=False, float_format="%.4f"))
    write_text(out / "claims.md", page.markdown(title, sections))
    write_text(out / "claims.html", page.parts(title, sections))
