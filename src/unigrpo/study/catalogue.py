"""The catalogue (``pipelines/experiments.yaml``): the runs, benchmarks, tables, figures and claims of a study, read and
checked. Imports no torch."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.registry import nearest
from unigrpo.core.settings import AsTuple, Count, Settings, Several, from_dict, replace, to_dict
from unigrpo.core.yaml_files import read_yaml
from unigrpo.study import benchmark_entry
from unigrpo.study.benchmark_entry import Benchmark, Reports
from unigrpo.study.config import Ceiling, RLConfig, SupervisedConfig, rl_class
from unigrpo.study.facts import FIGURES, TABLES, KindFacts

BASE = "base"  # the one run without a parent
SFT = "sft"  # the run that decoding is chosen and the reward learned on
OUTSIDE = "outside"  # the stage of images that another program has made
CEILING = "ceiling"  # the stage of what bounds a run from above
COMMON = ("label", "stage", "init", "evaluate")  # keys of a run's line that are not settings of its stage
COLUMNS = ("run", "label", "thinking", "seeds", "n", "guidance", "images", "collapsed")  # of tables, so no benchmark
DOORS = {"tables": TABLES, "figures": FIGURES}
NAME = re.compile(r"[a-z][a-z0-9_]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
READS = {  # check of a claim (``unigrpo.report.claims.outcomes``) -> the key of its entry that it reads
    "highest": "rows",
    **dict.fromkeys(("gains", "no_losses", "not_all_gains"), "pairs"),
    **dict.fromkeys(("does_not_converge", "half_the_evaluations", "higher_training_reward"), "runs"),
    **dict.fromkeys(("hacked", "lets_artefacts_in", "steady_and_best", "follows_its_trace"), "runs"),
}
Mode = Literal["no", "yes"]  # thinking at evaluation
Row = Annotated[tuple[str, Mode], AsTuple]  # a run, so evaluated
Pair = Annotated[tuple[Row, Row], AsTuple]  # the first is compared with the second


class Line(Settings):
    """A run's line: what is not a setting of its stage. Settings stand beside these keys."""

    model_config = ConfigDict(extra="allow")

    label: str | None = None
    init: str | None = None
    like: str | None = None
    vary: dict[str, list] | None = None
    seeds: Count | None = None
    evaluate: Several[Mode] | None = None


class OutsideLine(Settings):
    """The line of images that another program has made, which are judged and shown like those of a run."""

    label: str
    images: str  # a folder or a file, relative to the checkout; with {seed} where there are several seeds
    thinking: Mode = "no"  # whether a trace came first
    seeds: Count | None = None
    partial: bool = False  # whether prompts may lack images, which tables then say


class CeilingLine(Settings):
    """The line of a ceiling: the run ``init`` with thinking, its ``painter`` or its ``traces`` made perfect."""

    label: str
    init: str
    ceiling: Ceiling


class Spec(Settings):
    """A table or a figure."""

    kind: str
    default: bool | None = None
    group: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")] | None = None
    title: str | None = None
    guidance: Literal["tuned", "unguided"] | None = None
    benchmarks: Several[str] | None = None  # all without it
    categories: Several[str] | None = None  # of the prompts that a figure draws; one of each without it
    runs: Several[str] | None = None
    rows: Several[Row] | None = None


class ClaimEntry(Settings):
    """A claim in words, why it could have failed or not, its check, and one of the three that a check reads."""

    claim: str
    check: str
    why: str
    designed: bool = False  # whether the synthetic world is made so that it holds
    benchmarks: Several[str] | None = None  # that its differences of rows are taken on; all without it
    rows: Several[Row] | None = None
    pairs: Several[Pair] | None = None
    runs: Several[str] | None = None


class Catalogue(Settings):
    """The file."""

    defaults: dict[str, Any] = {}  # settings of every reinforced run, below those of the scale
    benchmarks: dict[str, Benchmark] = {}
    runs: dict[str, Line]
    tables: dict[str, Spec] = {}
    figures: dict[str, Spec] = {}
    claims: dict[str, ClaimEntry] = {}
    also_report: Reports = {}  # rewards that judge the images of every benchmark


def load_catalogue(path: str | Path, asked: Mapping[str, dict] = MappingProxyType({})) -> dict:
    """``{"defaults": settings, "benchmarks": {name: Benchmark}, "runs": {name: line}, "tables": {name: spec},
    "figures": {name: spec}, "claims": ..., "overrides": {name: {key: line}}}``. A line holds ``label``, ``stage``
    (base, sft or rl), ``init``, ``evaluate``, its settings and ``like``, the lines that they come from, its own last;
    overrides are a run's line without each setting that it makes itself. ``asked``: lines beside the file's, of its
    runs or of new ones, which are shown wherever the run is that they are ``like``. Raises UserError naming file and
    key."""
    content = read_yaml(path)
    with error_prefix(path):
        benchmarks = _check_sections(content)
        written = content["runs"]
        runs, sweeps = _spread(written | {name: written.get(name, {}) | line for name, line in asked.items()})
        for name in asked.keys() - written.keys():
            sweeps.setdefault(runs[name]["like"], [runs[name]["like"]]).append(name)
        likes = {name: ancestors(runs, name, "like")[::-1] for name in runs}
        lines = {name: {"label": name, **_inherit(runs, name), "like": likes[name]} for name in runs}
        overrides = {name: _overrides(runs, written.keys() - asked.keys(), name) for name in runs}
        defaults = content.get("defaults", {})
        for name, line in lines.items():
            line.setdefault("init", None)
            if "images" in line:
                lines[name] = _outside(name, line)
                continue
            if "ceiling" in line:
                lines[name] = _ceiling(name, line)
                continue
            line["stage"] = BASE if name == BASE else "rl" if "train" in line else "sft"
            _check_line(name, line, defaults)
        for name, line in lines.items():
            if any(lines[parent]["stage"] in (OUTSIDE, CEILING) for parent in ancestors(lines, name, "init")[1:]):
                raise UserError(f"runs.{name}.init: expected a run that is trained")
            if line["stage"] == CEILING and (line["init"] == BASE or "yes" not in lines[line["init"]]["evaluate"]):
                raise UserError(f"runs.{name}.init: expected a run after {BASE} that is evaluated with thinking")
        filled = {"defaults": defaults, "benchmarks": benchmarks, "runs": lines, "overrides": overrides}
        for section in (*DOORS, "claims"):
            filled[section] = {name: _name_each(entry, sweeps) for name, entry in content.get(section, {}).items()}
            for name, entry in filled[section].items():
                _check_entry(f"{section}.{name}", section, entry, lines, benchmarks)
    return filled


def _check_sections(content: object) -> dict[str, Benchmark]:
    """The file's sections, as far as each can be checked alone; returns the benchmarks."""
    for kind in ("runs", "benchmarks", "tables", "figures"):
        for name in content.get(kind) or () if isinstance(content, dict) else ():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise UserError(f"{kind}.{name}: a name has small letters, digits and underscores only")
    catalogue = from_dict(Catalogue, content)
    for name, line in catalogue.runs.items():
        if line.vary is not None and not (len(line.vary) == 1 and all(line.vary.values())):
            raise UserError(f"runs.{name}.vary: expected one setting with a list of values, got {line.vary!r}")
    for name, entry in catalogue.claims.items():
        if entry.check not in READS:
            raise UserError(f"claims.{name}.check: no check is called {entry.check!r}{nearest(entry.check, READS)}")
        if getattr(entry, READS[entry.check]) is None:
            raise UserError(f"claims.{name}.{READS[entry.check]}: missing, {entry.check} reads them")
    for name in (BASE, SFT):
        if name not in catalogue.runs:
            raise UserError(f"runs.{name}: missing, the workflow needs a run of this name")
    reports = catalogue.also_report
    benchmarks = {
        name: replace(each, label=each.label or name, also_report=reports | each.also_report)
        for name, each in catalogue.benchmarks.items()
    }
    taken = set(COLUMNS)
    for name, benchmark in benchmarks.items():
        benchmark.check(f"benchmarks.{name}")
        _check_label(f"benchmarks.{name}.label", benchmark.label)
        for head, (column, _) in benchmark.columns(name).items():
            if {head, column} & taken:
                raise UserError(f"benchmarks.{name}: expected another name than {head!r}, which a table has already")
            taken |= {head, column}
    return benchmarks


def _spread(runs: dict) -> tuple[dict, dict[str, list[str]]]:
    """Every run with ``vary`` replaced by one per value, called ``<name>_<setting>_<value>``, and their names."""
    spread, sweeps = {}, {}
    for name, line in runs.items():
        if "vary" not in line:
            spread[name] = line
            continue
        ((setting, values),) = line["vary"].items()
        shared = {key: value for key, value in line.items() if key != "vary"}
        members: dict[str, dict] = {}
        for value in values:
            member = re.sub(r"[^a-z0-9_]", "_", f"{name}_{setting}_{value}".lower())
            if member in members:
                raise UserError(f"runs.{name}.vary.{setting}: two of its values make a run called {member!r}")
            members[member] = shared | {"label": f"{line.get('label', name)}, {setting} {value}", setting: value}
        for clash in members.keys() & (runs.keys() | spread.keys()):
            raise UserError(f"runs.{name}.vary: makes a run called {clash!r}, which is there already")
        spread |= members
        sweeps[name] = list(members)
    return spread, sweeps


def _name_each(spec: dict, sweeps: dict[str, list[str]]) -> dict:
    """A table or figure with each run that is varied named value by value."""
    named_each = dict(spec)
    if "runs" in spec:
        named_each["runs"] = [run for name in spec["runs"] for run in sweeps.get(name, [name])]
    if "rows" in spec:
        named_each["rows"] = [[run, *mode] for name, *mode in spec["rows"] for run in sweeps.get(name, [name])]
    return named_each


def ancestors(runs: dict, name: str, key: str) -> list[str]:
    """The chain of runs from ``name`` along ``key`` (``like`` or ``init``); every name known, none twice."""
    chain = [name]
    while (parent := runs[chain[-1]].get(key)) is not None:
        if parent not in runs:
            raise UserError(f"runs.{chain[-1]}.{key}: no run is called {parent!r}{nearest(parent, runs)}")
        if parent in chain:
            raise UserError(f"runs.{name}.{key}: goes round in a circle ({' -> '.join([*chain, parent])})")
        chain.append(parent)
    return chain


def _inherit(runs: dict, name: str) -> dict:
    """A run's line on top of the lines that it is ``like``; a label is not inherited."""
    merged = {}
    for ancestor in reversed(ancestors(runs, name, "like")):
        merged.pop("label", None)
        merged |= runs[ancestor]
    merged.pop("like", None)
    return merged


def _overrides(runs: dict, written: Collection[str], name: str) -> dict[str, dict]:
    """For each setting of ``name``'s line, the line without it; none where the line is not ``written``."""
    keys = runs[name].keys() - {*COMMON, "seeds", "like", "train"} if name in written else set()
    return {key: _inherit(runs | {name: {k: v for k, v in runs[name].items() if k != key}}, name) for key in keys}


def _check_label(where: str, label: str) -> None:
    if CONTROL.search(label) or not label.strip():
        raise UserError(f"{where}: expected one line of text, got {label!r}")


def _outside(name: str, line: dict) -> dict:
    """The line of a run whose images another program has made, with what it says of its evaluation."""
    given = {key: value for key, value in line.items() if key != "like" and (key, value) != ("init", None)}
    checked = to_dict(from_dict(OutsideLine, given, f"runs.{name}"))
    _check_label(f"runs.{name}.label", checked["label"])
    seeds = {"seeds": 1} if "{seed}" not in line["images"] else {}
    return checked | seeds | {"stage": OUTSIDE, "init": None, "evaluate": [checked["thinking"]]}


def _ceiling(name: str, line: dict) -> dict:
    """The line of a ceiling, with what is so for all of them."""
    given = {key: value for key, value in line.items() if key != "like"}
    checked = to_dict(from_dict(CeilingLine, given, f"runs.{name}"))
    _check_label(f"runs.{name}.label", checked["label"])
    return checked | {"stage": CEILING, "evaluate": ["yes"]}


def _check_line(name: str, line: dict, defaults: dict) -> None:
    """What a line cannot say alone: it has a parent, a mode, and only settings of its stage."""
    where = f"runs.{name}"
    _check_label(f"{where}.label", line["label"])
    if line["init"] is None and name != BASE:
        raise UserError(
            f"{where}.init: missing, the run it starts from (only {BASE} and lines with `images` have none)"
        )
    if line["init"] is not None and name == BASE:
        raise UserError(f"{where}.init: unexpected, {BASE} starts from nothing")
    if not line.get("evaluate"):
        raise UserError(f"{where}.evaluate: missing, [yes], [no] or [no, yes] (thinking at evaluation)")
    method = str(line.get("method", defaults.get("method")))
    try:
        known = (rl_class(method) if line["stage"] == "rl" else SupervisedConfig).model_fields
    except UserError as error:
        raise UserError(f"{where}: {error}".replace(": rl.", ".", 1)) from None
    for key in line.keys() - known.keys() - {*COMMON, "seeds", "like"}:
        ours = key in RLConfig.model_fields
        hint = "; it needs `train`: [text], [image] or both" if ours else nearest(key, known)
        raise UserError(f"{where}.{key}: not a setting of {line['stage']} runs{hint}")


def facts_of(section: str, spec: dict, where: str = "") -> KindFacts:
    """What the kind of an entry of ``tables`` or ``figures`` declares of itself. Raises UserError where the entry lacks
    what its kind shows, or shows more than it has room for."""
    facts = DOORS[section].load(spec["kind"], f"{where}.kind").FACTS
    if facts.shows not in spec:
        raise UserError(f"{where}.{facts.shows}: missing, kind {spec['kind']} shows them")
    if facts.most_runs is not None and len(spec["runs"]) > facts.most_runs:
        raise UserError(f"{where}.runs: expected at most {facts.most_runs}, got {', '.join(spec['runs'])}")
    return facts


def _check_entry(where: str, section: str, entry: dict, runs: dict, benchmarks: dict[str, Benchmark]) -> None:
    """What a table, figure or claim reads exists, is evaluated as it asks and trained as its kind needs."""
    facts = facts_of(section, entry, where) if section in DOORS else None
    for name in entry.get("benchmarks", ()):
        if facts and not facts.scores:
            raise UserError(f"{where}.benchmarks: changes nothing, kind {entry['kind']} shows training alone")
        if name not in benchmarks:
            raise UserError(f"{where}.benchmarks: no benchmark is called {name!r}{nearest(name, benchmarks)}")
        if benchmarks[name].group not in (None, entry.get("group")):
            raise UserError(f"{where}.benchmarks: expected group: {benchmarks[name].group} beside {name}")
    chosen = entry.get("benchmarks") or list(benchmark_entry.of_group(benchmarks))
    if len({benchmarks[name].group for name in chosen}) > 1:
        raise UserError(f"{where}.benchmarks: expected those of one group, got {', '.join(chosen)}")
    apart = any(benchmarks[name].group for name in chosen)
    tags = {tag for name in chosen for tag in benchmarks[name].categories()}
    for tag in entry.get("categories", ()):
        if tag not in tags:
            raise UserError(f"{where}.categories: no prompt is of category {tag!r}{nearest(tag, tags)}")
    for key, run, thinking in rows_read(entry):
        if run not in runs:
            raise UserError(f"{where}.{key}: no run is called {run!r}{nearest(run, runs)}")
        if apart and runs[run]["stage"] == OUTSIDE:
            raise UserError(f"{where}.{key}: {run!r} was made elsewhere, expected a run that is sampled here")
        mode = thinking or (facts and facts.mode)
        if mode and mode not in runs[run]["evaluate"]:
            raise UserError(f"{where}.{key}: run {run!r} is not evaluated with thinking {mode!r}")
        if facts and facts.reinforced and runs[run]["stage"] != "rl":
            raise UserError(f"{where}.{key}: run {run!r} is not trained by reinforcement")


def rows_read(entry: Mapping) -> list[tuple[str, str, str | None]]:
    """(key, run, thinking) of all that an entry names; no thinking where it names a run alone."""
    rows = [(f"rows.{i}", *row) for i, row in enumerate(entry.get("rows", ()))]
    rows += [(f"pairs.{i}.{j}", *row) for i, pair in enumerate(entry.get("pairs", ())) for j, row in enumerate(pair)]
    return rows + [(f"runs.{i}", run, None) for i, run in enumerate(entry.get("runs", ()))]


def runs_read(entry: Mapping) -> list[str]:
    """The runs that an entry names, each once."""
    return list(dict.fromkeys(run for _, run, _ in rows_read(entry)))


def by_default(specs: dict) -> list[str]:
    """The tables or figures that are made unless they say ``default: false`` or belong to a group."""
    return [name for name, spec in specs.items() if spec.get("default", "group" not in spec)]


def of_group(specs: dict, group: str | None) -> list[str]:
    """The tables or figures of a group, which are made together when it is asked for."""
    return [name for name, spec in specs.items() if group is not None and spec.get("group") == group]


def runs_in_use(catalogue: dict, judged: bool = False) -> list[str]:
    """Runs that default tables and figures (where ``judged``: that need images) name, and their ancestors, in order."""
    specs = [(kind, catalogue[kind][name]) for kind in DOORS for name in by_default(catalogue[kind])]
    shown = {run for kind, spec in specs if not judged or facts_of(kind, spec).scores for run in runs_read(spec)}
    used = {ancestor for run in shown for ancestor in ancestors(catalogue["runs"], run, "init")}
    return [run for run in catalogue["runs"] if run in used]
