"""Sentences beside tables: those that several need, and those that depend on what is shown. Loads no pandas."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from unigrpo.core import code_identity
from unigrpo.core.errors import reading
from unigrpo.core.files import read_json
from unigrpo.core.lazy import lazy
from unigrpo.core.settings import CountOrNone, Settings, Share, checked
from unigrpo.report.data.results import Folder, Row, Sources
from unigrpo.study import catalogue, standing
from unigrpo.study.facts import BACKBONES, REWARDS, STATISTICS

gold = lazy("unigrpo.world.gold")
logs = lazy("unigrpo.report.data.logs")
MISSING = "not available"
UNJUDGED = "not judged"
CLAIMS = (
    "Which of the paper's claims hold here, which do not, and which stay undecided at this number of seeds and "
    "prompts: each by a rule that stood beforehand, with its weakest comparison, and whether the synthetic world "
    "designs it in."
)
GALLERY = (
    "Every prompt of the evaluation, the same noise in every run side by side, with the reasoning trace that each "
    "wrote before painting, verdicts and scores. Marked are the words of a trace that the verdict turned on. The "
    "filters show one category, or the prompts whose official verdict differs between two runs."
)
WORLD = (
    "This scale is a controlled synthetic world (small images of coloured shapes) that tests the paper's "
    "claims. It is not a rerun of BAGEL-7B: directions compare with the paper's columns, levels do not."
)
TRIAL = "It only shows that every step runs: its models are hardly trained, and its numbers mean nothing."
ONE_SEED = "With one seed the interval covers prompts only."
BRACKETS = (
    "Brackets are 95 % intervals: t, from the variances between seeds and, within categories, between prompts. Seeds "
    f"(replicates: a start and the run from it) are one random factor, crossed with prompts. {ONE_SEED}"
)
INTERVALS = f"{BRACKETS} The number of images counts all seeds."
COSTS = (
    "Images, model evaluations and wall seconds are those of training, of all stages where a run goes on from a "
    "reinforced one: images and seconds medians over seeds, model evaluations the mean, counted in rollouts."
)
VALIDATED = (
    "Gold, the judge that training never sees, the reward that a run is trained on (proxy) and artefacts, the share of "
    "an image that fits neither object nor background, are measured on validation prompts at the tuned guidance, "
    f"categories weighing equally. The end is the mean of the validations in the last third of the updates. {BRACKETS}"
)
BEST = "Bold: the best of a column among the rows that are methods, ties as they are written."
PICTURELESS = "published without pictures"
SETTINGS = ("steps", "grid", "shift", "guidance", "temperature", "resolution", "ema")

CEILINGS = {
    "painter": "its traces, painted by the renderer; a malformed one is an empty canvas",
    "traces": "right traces, written from the prompts' metadata, painted by its model",
}

MARKUP = re.compile(r"[\\`*|<$~]|(?<!\w)_|_(?!\w)|(?<=\])[\[(]|&(?=#?\w+;)")


def escaped(text: str) -> str:
    """Plain text, as a label is, for a place where Markdown is read: one line that shows the same characters."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))


def of_rst(text: str) -> str:
    """Plain text for a place where reStructuredText is read."""
    return re.sub(r"[\\`*_|<]", r"\\\g<0>", text)


def scale_note(name: str, world: bool, trial: bool) -> str:
    """What a scale is: its name, whether it is the synthetic ``world``, and what its numbers are worth."""
    return " ".join([f"Scale `{name}`.", *[WORLD] * world, *[TRIAL] * trial])


def scale_of(runs: Sequence[str], folder: Folder) -> str:
    """What the scale of these runs is."""
    backbones = {folder.config(run).get("backbone") for run in runs} - {None}
    world = not any(BACKBONES.load(name).FACTS.released for name in backbones)
    return scale_note(folder.root.name, world, folder.trial)


def metrics(sources: Sources) -> str:
    """What the numbers of the benchmarks are."""
    said, known = [], gold.MEANINGS | STATISTICS
    for benchmark in sources.benchmarks.values():
        for head, (_, metric) in benchmark.columns("").items():
            head, meaning = escaped(head), known.get(metric) or f"is {REWARDS.load(metric).FACTS.what}"
            said.append(f"{head[0].upper()}{head[1:]} {meaning}.")
    return " ".join([*said, "All are means of the category means."])


def scored(rows: Sequence[Row], runs: Sequence[str], sources: Sources) -> list[str]:
    """The notes of a table of judged images, whose ``rows`` are of ``runs``: protocol, metrics, intervals, judges."""
    share = sources.scores.agreement(runs, list(sources.benchmarks))
    agreement = f"Agreement of inspector and second evaluator: {MISSING}."
    if share is not None:
        same = f"{share:.1%} of these runs' images"
        agreement = f"Inspector and second evaluator give the same official verdict on {same}."
    notes = [benchmark.note for benchmark in sources.benchmarks.values() if benchmark.note]
    above = [_protocol(rows, sources), metrics(sources), INTERVALS, *_one_model(runs, sources.folder)]
    return [*above, *notes, *parts(runs, sources), agreement]


def _one_model(runs: Sequence[str], folder: Folder) -> list[str]:
    """Which of these runs have weights that all their seeds share."""
    labels = [escaped(folder.label(run)) for run in runs if folder.config(run).get("stage") == catalogue.BASE]
    return [f"{label} is one model at all seeds: its interval covers prompts and sampling only." for label in labels]


def parts(runs: Sequence[str], sources: Sources) -> list[str]:
    """Which of these runs were judged on a part of a benchmark, and on how much of it."""
    found = [(escaped(sources.folder.label(run)), n, p) for (run, n), p in sources.scores.parts.items() if run in runs]
    return [f"**Partial**: {label}: {part} of {name} were judged." for label, name, part in found]


def _protocol(rows: Sequence[Row], sources: Sources) -> str:
    """The settings of all rows; where rows differ, every value."""
    found = [p for row in rows for p in sources.folder.protocols(row.run, row.mode, row.guidance)]
    found = [p for p in found if p["benchmark"] in sources.benchmarks and "outside" not in p]
    if not found:
        return f"Protocol: {MISSING}."
    used = {key: sorted({str(p[key]) for p in found if p.get(key) is not None}) for key in SETTINGS}
    parts = [f"{key} {' or '.join(values)}" for key, values in used.items() if values]
    prompts = sorted({f"{p['benchmark']} version {p['version']} `{str(p.get('prompt_hash'))[:12]}`" for p in found})
    return f"Protocol: {', '.join(parts)}; prompts {', '.join(prompts)}. Each run's last checkpoint is judged."


def proxies(runs: Sequence[str], folder: Folder) -> list[str]:
    """What the rewards are that these runs are trained on, and how well each judges held-out images."""
    used = {run: folder.config(run).get("rl", {}).get("reward") for run in runs}
    listed = []
    for reward in dict.fromkeys(name for name in used.values() if name):
        whose = "; ".join(escaped(folder.label(run)) for run in runs if used[run] == reward)
        proxy = f"The proxy{f' of {whose}' if len(set(used.values())) > 1 else ''} is the reward `{reward}`"
        trained = REWARDS.load(reward).FACTS.trained
        listed.append(f"{proxy}{f': {_held_out(trained, folder)}' if trained else ''}.")
    return listed


class Auc(Settings):
    """Mean over ``prompts`` of the AUC among a prompt's images, with its interval."""

    auc: Share | None
    lo: Share | None
    hi: Share | None
    prompts: CountOrNone


class Aucs(Settings, extra="ignore"):
    overall: Auc


class RewardReport(Settings, extra="ignore"):
    """What is needed of report.json of a learned reward."""

    steps: CountOrNone
    within_prompts: Aucs


def _held_out(trained: str, folder: Folder) -> str:
    """AUC within prompts of a learned reward, from least to most over the starts, with the ends of their intervals, and
    its steps, from their reports; beside those of the rewards that were trained longer."""
    found, reports = defaultdict(list), {}  # reward -> reports; reward -> steps, AUC in words
    for path in sorted(folder.root.glob("starts/seed*/*/report.json")):
        found[path.parent.name].append(checked(RewardReport, read_json(path), path))
    for name, those in found.items():
        each, steps = [report["within_prompts"]["overall"] for report in those], those[0]["steps"]
        aucs, ends = [a["auc"] for a in each], [x for a in each for x in (a["lo"], a["hi"]) if x is not None]
        # None where the held-out samples of every prompt are all right, or all wrong
        shown = MISSING if None in aucs else " to ".join(dict.fromkeys(f"{end(aucs):.3f}" for end in (min, max)))
        shown += f" [{min(ends):.3f}, {max(ends):.3f}]" if ends else ""
        reports[name] = steps, f"held-out AUC within prompts {shown} after {steps:,d} steps"
    if trained not in reports:
        return f"held-out AUC {MISSING}"
    steps, shown = reports[trained]
    longer = [f"`{name}`: {words}" for name, (more, words) in reports.items() if more > steps]
    return shown + f". It was trained less so that it can be over-optimised; {', '.join(longer)}" * bool(longer)


def fates(runs: Sequence[str], folder: Folder) -> list[str]:
    """Why runs collapsed, or were not trained; the rule is the same for all of them. How many were published elsewhere,
    and by which code they were made, where that needs saying."""
    listed, published = [], [bool(record.get("published")) for run in runs for record in folder.records(run)]
    for run in runs:
        if (config := folder.config(run)).get("ceiling"):
            released = BACKBONES.load(config["backbone"]).FACTS.released
            absent = " This scale has none: it is not the synthetic world." if released else ""
            words = f"{escaped(folder.label(run))}: {CEILINGS[config['ceiling']]}.{absent}"
            listed.append(f"**A ceiling, no method**: {words}")
        for record in folder.records(run):
            name = f"{escaped(folder.label(run))}, seed {record.get('seed')}"
            if found := record.get("outside"):
                listed.append(f"**Made elsewhere**: {name}: {found}.")
            if record.get("collapsed"):
                listed.append(f"**Collapsed**: {name}: {record.get('collapse')}. Its last finite weights are judged.")
            if dropped := record.get("dropped_groups"):
                with reading(f"{name}: its configuration", "the settings of a reinforced run"):
                    rl = record["config"]["rl"]
                    of = f"{dropped} of {rl['rollouts'] * rl['prompts_per_rollout']} groups left out"
                    listed.append(f"**Incomplete**: {name}: {of}: the reward failed.")
            if record.get("not_trained"):
                listed.append(f"**Not trained**: {name}: {record['not_trained']}.")
    if any(published):
        listed.append(f"**Published**: {sum(published)} of {len(published)} runs, seeds counted, are published lines.")
    return listed + code_notes(runs, folder)


def code_notes(runs: Sequence[str], folder: Folder) -> list[str]:
    """Warnings: runs that were made by different versions of a module, or before it became what it is now."""
    versions, older = defaultdict(lambda: defaultdict(set)), defaultdict(set)  # module -> hash -> runs; module -> runs
    for run in runs:
        for seed in folder.seed_folders(run):
            name = f"{escaped(folder.label(run))}, seed {seed}"
            for code in standing.codes_of(folder.root, run, seed):
                for module, digest in code.items():
                    versions[module][digest].add(name)
                for module in code_identity.changed(code):
                    older[module].add(name)
    mixed = {  # not where the steps of all these runs are mixed in one way
        module.rpartition(".")[2]: found
        for module, found in versions.items()
        if len({*map(frozenset, found.values())}) > 1
    }
    changed = defaultdict(list)
    for module, of in older.items():
        changed[_listed(of)].append(f"`{module}`")
    fewest = {module: _listed(min(found.values(), key=len)) for module, found in mixed.items()}
    return [
        *(f"**Mixed code**: `{name}` was another one for {of} than for the other runs." for name, of in fewest.items()),
        *(
            f"**Older code**: {', '.join(modules)} {'have' if modules[1:] else 'has'} changed since {of} was made."
            for of, modules in changed.items()
        ),
    ]


def _listed(names: Collection[str], most: int = 4) -> str:
    """Names in a row; of many the first ones."""
    names, left = sorted(names), len(names) - most
    return "; ".join(names[:most]) + f" and {left} more" * (left > 0)
