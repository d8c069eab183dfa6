"""The paper's claims: their comparisons, and what they come to in a study's results, as a CSV and a page.

A claim is made of comparisons, each a difference of two rows at tuned guidance, of training costs, or of courses of
validations (report.data.logs). The catalogue's entry of a claim names its check, and the rows, pairs of rows or runs
that this takes by their place. rule.md says what comparisons come to, and stood before any outcome was known; rule.py
is its arithmetic. Where a row is missing the claim is *not available*, and the missing rows are named.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from unigrpo.core.files import read_text, write_text
from unigrpo.report.claims import rule
from unigrpo.report.claims.rule import NO, UNDECIDED, YES
from unigrpo.report.data import equal_terms, logs
from unigrpo.report.data.logs import ENDS, Course, course
from unigrpo.report.data.phrases import MISSING, UNJUDGED, fates, scale_of
from unigrpo.report.data.results import Folder, Row, Sources
from unigrpo.report.data.stats import Cells, Estimate, difference, estimate, written
from unigrpo.report.pages import page
from unigrpo.study.catalogue import BASE, READS, SFT, runs_in_use, runs_read

GUIDANCE = "tuned"
FEW = 3  # runs that are named where they are missing
LEAST_RANKED = 4  # rows: fewer have no rank correlation worth a number
ARTEFACT_MARGIN = 0.005  # in the share of image area: 12 of 48 x 48 pixels
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided at this n"
WORDS = {YES: ("yes", HOLDS), NO: ("no", FAILS), UNDECIDED: ("undecided", OPEN)}  # as an answer, as a verdict
WORDS[UNJUDGED] = (UNJUDGED, UNJUDGED)
Pair = tuple[str, str]  # a row at tuned guidance: run, thinking


@dataclass(frozen=True)
class Finding:
    """How one comparison came out: its estimate, over prompts or what ``unit`` says instead, or a count over seeds, of
    no prompts. ``missing`` names what it lacks. ``margin`` and ``gain`` as in rule.answers, which gives the ``answer``
    where it is not there. One that is not ``counted`` is shown and decides nothing. ``replicates``: the fewest seeds of
    its runs, without those that have one by design; None: those of the estimate. ``short``: its name beside others of
    its claim."""

    what: str
    e: Estimate | None = None
    missing: tuple[str, ...] = ()
    margin: float = 0.0
    gain: bool = True
    answer: int | str | None = None
    counted: bool = True
    unit: str = "prompts"
    replicates: int | None = None
    form: str = ".3f"
    short: str = ""

    @property
    def shown(self) -> str:
        if self.e is None:
            return MISSING
        return written(self.e.mean, self.e.lo, self.e.hi, f"+{self.form}") if self.e.prompts else f"{self.e.mean:.3f}"

    @property
    def basis(self) -> str:
        if self.e is None:
            return MISSING
        return f"{self.e.seeds} seed{'s' * (self.e.seeds != 1)}" + f" × {self.e.prompts} {self.unit}" * bool(
            self.e.prompts
        )

    @property
    def said(self) -> str:
        return (MISSING if self.answer is None else WORDS[self.answer][0]) + ", not counted" * (not self.counted)


def answered(findings: Sequence[Finding], enough: int = NO) -> list[Finding]:
    """The findings with their answers. Those of counts have theirs; those that lack something have none."""
    to_do = [f for f in findings if f.e and f.answer is None]
    numbers = [(f.e.mean, math.nan if f.e.error is None else f.e.error, f.e.df, f.margin, f.gain) for f in to_do]
    found = iter(rule.answers(*np.array(numbers).T[:4], np.array([f.gain for f in to_do]), enough) if to_do else ())
    return [replace(f, answer=int(next(found))) if f in to_do else f for f in findings]


def margin(gains: Sequence[Estimate | None]) -> float:
    """The smallest difference that matters where these are the gains; 0 without one that has an interval."""
    known = np.array([(e.mean, e.error, e.df) for e in gains if e and e.error is not None])
    return float(rule.margin(*known.T)) if len(known) else 0.0


# ------------------------------------------------------------------------------------------ scores and costs


def gain_over_sft(benchmark: str, metric: str, sources: Sources) -> float:
    """The margin of a benchmark: of the reinforced rows of the paper over SFT in their mode."""
    rows = [row for row in sources.paper.rows if row[0] not in (BASE, SFT)]
    return margin([sources.gap(Row(*row, GUIDANCE), Row(SFT, row[1], GUIDANCE), benchmark, metric) for row in rows])


def differences(
    pairs: Sequence[tuple[Pair, Pair]], sources: Sources, gain: bool = True, without: str | None = None
) -> list[Finding]:
    """The first row of each pair - the second, on every benchmark; also, not counted, on one ``without`` a category."""
    listed, benchmarks = [], sources.benchmarks.items()
    least = {name: gain_over_sft(name, each.metrics[0], sources) for name, each in benchmarks}
    for (benchmark, entry), pair in itertools.product(benchmarks, pairs):
        metric, rows = (benchmark, entry.metrics[0]), [Row(*each, GUIDANCE) for each in pair]
        names, cells = [sources.name(row) for row in rows], [sources.cells(row, *metric) for row in rows]
        unscored = [name for name, each in zip(names, cells, strict=True) if not each]
        missing = tuple(unscored or [f"a seed that {' and '.join(names)} share"])
        e, stages = sources.gap(*rows, *metric), [sources.folder.config(row.run).get("stage") for row in rows]
        seeds = [len(each.seeds) for each, stage in zip(cells, stages, strict=True) if e and stage != BASE]
        more = {"replicates": min([*seeds, e.seeds]) if seeds else 0, "form": sources.form(*metric), "gain": gain}
        more |= {"margin": least[benchmark], "short": f"{entry.label}: {names[1]}"}
        what = f"{entry.label}: {' − '.join(names)}"
        listed.append(Finding(what, e, () if e else missing, **more))
        if e and without in cells[0].tags:
            rest = [
                each.of({p for p, t in zip(each.prompts, each.tags, strict=True) if t != without}) for each in cells
            ]
            listed.append(Finding(f"{what}, without {without}", estimate(difference(*rest)), counted=False, **more))
    return listed


def highest(rows: Sequence[Pair], sources: Sources) -> list[Finding]:
    """Comparisons of the one row with every other row of the paper."""
    best = tuple(rows[0])
    return differences([(best, row) for row in sources.paper.rows if row != best], sources)


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
    ratio = spent[0] * images[1] / (spent[1] * images[0])
    return [Finding(what, Estimate(ratio, None, None, min(map(len, records)), 0), answer=YES if ratio == 0.5 else NO)]


# ------------------------------------------------------------------------------------------ courses


def _finished(run: str, folder: Folder) -> Course | None:
    """The run's validations; None as long as a seed is still to be trained."""
    return course(run, folder) if len(folder.records(run)) == len(folder.seed_folders(run)) else None


def _whose(runs: Sequence[str], folder: Folder) -> str:
    """Which group of tables trains these runs, where they are not trained by default."""
    known = folder.study.catalogue if folder.study else {"tables": {}}
    shown = (spec for spec in known["tables"].values() if spec.get("group") and {*runs} <= {*spec.get("runs", ())})
    group = next((spec["group"] for spec in shown if not {*runs} <= {*runs_in_use(known)}), None)
    return f", made by `unigrpo reproduce --group {group}`" if group else ""


def of_courses(compare: Callable[[list[Course], Sources], list[Finding]], least: int | None = None) -> Callable:
    """A comparison of runs' courses as one of runs: the first ``least``, all without it, must be there."""

    def found(runs: Sequence[str], sources: Sources) -> list[Finding]:
        runs = list(dict.fromkeys(runs))
        courses = [_finished(run, sources.folder) for run in runs]
        if lacking := _lacking(runs[:least], courses[:least], sources):
            more = f" and {len(lacking) - FEW} more" * (len(lacking) > FEW)
            missing = f"validations of {', '.join(lacking[:FEW])}{more}"
            return [Finding(missing, missing=(missing + _whose(runs, sources.folder),))]
        return compare([c for c in courses if c], sources)

    return found


def rise_of(courses: Sequence[Course], metric: str = "gold") -> float:
    """The margin of these courses: of their rises from the start to the peak."""
    peaks = {c.run: logs.at_peak(c, metric) for c in courses}
    return margin([logs.measured(difference(peaks[c.run], c.cells(metric, 0))) for c in courses if peaks[c.run]])


def _change(c: Course, metric: str, sources: Sources, fall: bool = True, **more) -> Finding:
    """The fall from the best validation to the end, or without ``fall`` the end - best."""
    label, change = sources.folder.label(c.run), logs.change_since_peak(c, metric)
    e = logs.measured(change and replace(change, values=(-1 if fall else 1) * change.values))
    what = f"validation {metric} of {label}: {'peak − end' if fall else 'end − peak'}"
    return Finding(what, e, () if e else (f"a second seed of {label}",), **more)


def _ends_above(a: Course, b: Course, metric: str, sources: Sources, **more) -> Finding:
    """``a`` - ``b`` at their ends."""
    labels = [sources.folder.label(c.run) for c in (a, b)]
    e = logs.measured(logs.apart(a, b, metric))
    missing = () if e else (f"a seed that {' and '.join(labels)} share",)
    return Finding(f"validation {metric}, end: {' − '.join(labels)}", e, missing, **more)


def does_not_converge(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """Gold's fall from its peak to the end at each replicate of the one run, over prompts; not counted, the share of
    replicates that collapsed."""
    (c,), label = courses, sources.folder.label(courses[0].run)
    if not (change := logs.change_since_peak(c)):
        return [_change(c, "gold", sources)]
    least, listed = rise_of(courses), []
    for k, seed in enumerate(c.seeds):
        e = logs.measured(replace(change, values=-change.values[k : k + 1], seeds=(seed,)))
        listed.append(Finding(f"validation gold of {label}, seed {seed}: peak − end", e, margin=least,
                              replicates=len(c.seeds), short=f"seed {seed}"))  # fmt: skip
    fell = [bool(r.get("collapsed")) for r in sources.folder.records(c.run) if not r.get("not_trained")]
    share = Estimate(sum(fell) / len(fell), None, None, len(fell), 0)
    said = YES if all(fell) else UNDECIDED if any(fell) else NO
    return [*listed, Finding(f"collapsed seeds of {label}, of all", share, answer=said, counted=False)]


def higher_training_reward(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """Training reward of the first run - the second's over the last ENDS rollouts, paired by seed and rollout, whose
    prompts are the same."""
    runs = [c.run for c in courses]
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
    return [Finding(what, estimate(cells, by_category=False), margin=rise_of(courses), unit="rollouts")]


def hacked(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """The one run's rise of the proxy, gold's fall from its peak and, not counted, the proxy's."""
    (c,), least = courses, rise_of(courses)
    rise = f"validation proxy of {sources.folder.label(c.run)}: end − first"
    return [
        Finding(rise, logs.measured(logs.rise(c, "proxy")), margin=least),
        _change(c, "gold", sources, margin=least),
        _change(c, "proxy", sources, margin=least, counted=False),
    ]


def _weight(c: Course, sources: Sources) -> float:
    return logs.anchor(sources.folder.config(c.run)).weight


def lets_artefacts_in(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """For every run but the first, one weight of a regulariser each, whether it ends with less reward than the first
    (not counted), and if so the rise of artefacts."""
    (none, *others), least, listed = courses, rise_of(courses), []
    for c in sorted(others, key=lambda c: _weight(c, sources)):
        listed += answered([_ends_above(none, c, "proxy", sources, margin=least, counted=False)])
        if listed[-1].answer == YES:
            weight = f"weight {_weight(c, sources):g}"
            what = f"artefacts, share of the image: end − first, {sources.folder.label(c.run)} at {weight}"
            rise = logs.measured(logs.rise(c, "artefact"))
            listed.append(Finding(what, rise, margin=ARTEFACT_MARGIN, short=weight))
    if not any(each.counted for each in listed):
        lacks = ("no latent KL lowered the reward clearly",)
        listed.append(Finding("artefacts under a latent KL that lowers the reward", missing=lacks))
    return listed


def steady_and_best(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """The first run's gold at the end against its peak, and against the run without a regulariser at the end; and over
    the last half of the course the weights of the first run's regulariser against those of each other one, at equal
    terms."""
    first, folder, least, by_run = courses[0], sources.folder, rise_of(courses), {c.run: c for c in courses}
    listed = [_change(first, "gold", sources, fall=False, margin=least, gain=False)]
    (name, weights), *others = equal_terms.by_weight(list(by_run), folder).items()
    for label, runs in others:
        if logs.anchor(folder.config(runs[0])).weight is None:
            listed.append(_ends_above(first, by_run[runs[0]], "gold", sources, margin=least))
            continue
        for at in equal_terms.AT:
            sides = ([by_run[run] for run in each] for each in (weights, runs))
            e = logs.measured(equal_terms.compared(*sides, at, "gold", folder)[0])
            missing = () if e else (f"a {at} that {name} and {label} share",)
            listed.append(Finding(f"validation gold at equal {at}: {name} − {label}", e, missing, margin=least))
    return listed


def follows_its_trace(courses: Sequence[Course], sources: Sources) -> list[Finding]:
    """The share of pictures that match their trace, first run - second, at their ends."""
    metric = "image_given_trace"
    if missing := _lacking([c.run for c in courses], [metric in c.values for c in courses], sources):
        return [Finding(metric, missing=tuple(f"{metric} of {label}" for label in missing))]
    return [_ends_above(*courses, metric, sources, margin=rise_of(courses, metric))]


# ------------------------------------------------------------------------------------------ checks and outcomes

CHECKS = {  # check -> its comparisons, and the verdict of their answers
    "highest": (highest, rule.every_one),
    "gains": (differences, rule.every_one),
    "no_losses": (partial(differences, gain=False), rule.every_one),
    "not_all_gains": (partial(differences, without="position"), rule.not_every_one),
    "does_not_converge": (of_courses(does_not_converge), rule.every_one),
    "half_the_evaluations": (half_the_evaluations, rule.every_one),
    "higher_training_reward": (of_courses(higher_training_reward), rule.every_one),
    "hacked": (of_courses(hacked), rule.every_one),
    "lets_artefacts_in": (of_courses(lets_artefacts_in, least=2), rule.any_one),
    "steady_and_best": (of_courses(steady_and_best), rule.every_one),
    "follows_its_trace": (of_courses(follows_its_trace), rule.every_one),
}
RULE = Path(__file__).with_name("rule.md")  # paragraphs with names of this module in braces


@dataclass(frozen=True)
class Outcome:
    """A claim, by its name and its entry in the catalogue, with its comparisons, and what they come to."""

    id: str
    entry: Mapping
    kind: str  # whether the synthetic world designs it in
    verdict: str
    count: str  # how many comparisons are a yes, and which are not
    findings: list[Finding]
    decisive: Finding  # the comparison that the verdict turns on; an empty one where any is missing


def _count(counted: Sequence[Finding]) -> str:
    names = {said: [f.short or f.what for f in counted if f.answer == said] for said in WORDS}
    parts = [f"{word}: {', '.join(names[said])}" for word, said in (("ties", UNDECIDED), ("no", NO)) if names[said]]
    return "; ".join([f"{len(names[YES])} of {len(counted)} comparisons", *parts])


def check(entries: Mapping[str, Mapping], sources: Sources) -> list[Outcome]:
    """Every claim of the catalogue checked on what its entry names."""
    outcomes = []
    for name, entry in entries.items():
        compare, verdict_of = CHECKS[entry["check"]]
        found = compare(entry[READS[entry["check"]]], sources.of(entry))
        one_is_enough = verdict_of is rule.any_one
        counted = answered([f for f in found if f.counted], YES if one_is_enough else NO)
        shown = iter(counted)
        found = [next(shown) if f.counted else answered([f])[0] for f in found]
        if missing := list(dict.fromkeys(name for each in counted for name in each.missing)):
            verdict, count, decisive = f"{MISSING}: {'; '.join(missing)}", "", Finding(MISSING)
        else:
            said = int(verdict_of(np.array([f.answer for f in counted])))
            decisive = (max if one_is_enough else min)(counted, key=lambda f: (f.answer, f.e.mean))
            rests_on = counted if said == YES and verdict_of is rule.every_one else [decisive]
            once = any((f.e.seeds if f.replicates is None else f.replicates) == 1 for f in rests_on)
            verdict, count = WORDS[said][1] + " (one replicate)" * once, _count(counted)
        kind = "designed in" if entry.get("designed") else "could have failed"
        outcomes.append(Outcome(name, entry, kind, verdict, count, found, decisive))
    return outcomes


def _unjudged(o: Outcome) -> Outcome:
    """The outcome without its answers, where numbers mean nothing; what is missing stays."""
    findings = [replace(f, answer=f.e and UNJUDGED) for f in o.findings]
    return replace(o, findings=findings, verdict=UNJUDGED if o.decisive.e else o.verdict, count="")


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
        | {"effect": e and e.mean, "lo": e and e.lo, "hi": e and e.hi, "n": e and e.seeds * (e.prompts or 1)}
        | {"verdict": o.verdict, "comparisons": o.count, "kind": o.kind, "why": o.entry["why"]}
        for o in outcomes
        for e in [o.decisive.e]
    ]
    summary = [
        {"id": o.id, "claim": o.entry["claim"], "verdict": o.verdict, "kind": o.kind}
        | {"turns on": o.decisive.what, "effect": o.decisive.shown, "n": o.decisive.basis, "yes": o.count}
        for o in outcomes
    ]
    comparisons = [
        {"id": o.id, "comparison": f.what, "effect": f.shown, "n": f.basis, "answer": f.said}
        for o in outcomes
        for f in o.findings
    ]
    paper = [run for run, _ in sources.paper.rows]
    runs = list(dict.fromkeys([*paper, *(run for entry in entries.values() for run in runs_read(entry))]))
    title, parts = f"The paper's claims, {GUIDANCE} guidance", read_text(RULE).format_map(globals()).split("\n\n")
    sections = [
        ("", [scale_of(runs, sources.folder)]),
        ("", pd.DataFrame(summary)),
        ("Why it was designed in, or could have failed", [f"**{o.id}**: {o.entry['why']}" for o in outcomes]),
        ("The order of rows", [*rankings(sources)]),
        ("The rule", [*(" ".join(part.split()) for part in parts), *fates(runs, sources.folder)]),
        ("All comparisons", pd.DataFrame(comparisons)),
    ]
    numbers = pd.DataFrame(lines).astype({"n": "Int64"})
    write_text(out / "claims.csv", numbers.to_csv(index=False, float_format="%.4f"))
    write_text(out / "claims.md", page.markdown(title, sections))
    write_text(out / "claims.html", page.parts(title, sections))
