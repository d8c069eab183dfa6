"""What a reader must know beside a table: the notes under its Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unigrpo.report.results import CATEGORIES
from unigrpo.report.rows import Row, Sources

MISSING = "not available"
HEADS = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count",
    "colors": "colors",
    "position": "position",
    "color_attr": "attr",
}
SETTINGS = ("steps", "grid", "shift", "guidance", "temperature", "resolution", "ema")

WORLD = (
    "This scale is a controlled synthetic world (small images of coloured shapes) that tests the paper's "
    "claims. It is not a rerun of BAGEL-7B: directions compare with the paper's columns, levels do not."
)
SMOKE = "It only shows that every step runs: its models are hardly trained, and its numbers mean nothing."
METRICS = (
    "GenEval is the official verdict (at least what was asked; extra objects are free). Strict wants "
    "exactly what was asked. Gold is the mean of strict and of the share of facts less a penalty for extras. "
    "All three are means of the category means. TA is the mean over images of the share of satisfied facts."
)
INTERVALS = (
    "Brackets are 95 % intervals: bootstrap over seeds and, within categories, over prompts. With one seed "
    "the interval covers prompts only. The number of images counts all seeds."
)
TRAINING = (
    "Rewards are means over seeds. Gold, the judge that training never sees, and the reward that the run is trained on "
    "are measured on validation prompts at the tuned guidance, with or without thinking as the run is trained; the "
    "best validation is known in hindsight only. Training reward is the mean of the first and of the last ten rollouts."
)
COSTS = (
    "Images, model evaluations and wall seconds are those of training: images and seconds medians over seeds, model "
    "evaluations the mean, counted in rollouts."
)
IN_DISTRIBUTION = "Single-object prompts are in-distribution: the same prompts occur in training."


def caption(kind: str, rows: Sequence[Row], sources: Sources) -> list[str]:
    """What a table needs said where its notes do not follow: the scale, the metrics, the brackets."""
    scale = scale_note(sources.folder.root.name, is_world(runs_of(rows), sources))
    if kind == "training":
        return [scale, TRAINING, COSTS]
    cells = ["Under each official value its interval and, in parentheses, the paper's."] * (kind == "categories")
    return [scale, *cells, METRICS, INTERVALS]


def scale_note(name: str, world: bool) -> str:
    """What a scale is: its name, whether it is the synthetic ``world``, and what its numbers are worth."""
    return " ".join([f"Scale `{name}`.", *[WORLD] * world, *[SMOKE] * (name == "smoke")])


def notes(kind: str, rows: Sequence[Row], lines: Sequence[Mapping], sources: Sources) -> list[str]:
    """One sentence or two each, in reading order."""
    runs = runs_of(rows)
    world = is_world(runs, sources)
    listed = [scale_note(sources.folder.root.name, world)]
    if kind == "training":
        return listed + [TRAINING, COSTS] + fates(runs, sources) + mixed_code(runs, sources)
    if kind == "categories":
        sizes = {HEADS[t]: max((line[f"{t}_n"] or 0) for line in lines) for t in CATEGORIES}
        prompts = ", ".join(f"{head} {size}" for head, size in sizes.items())
        listed.append(f"Cells: official / strict (the paper's official value). Prompts per category: {prompts}.")
    listed += [_protocol(rows, sources), METRICS, INTERVALS]
    listed += [IN_DISTRIBUTION] * world + [_agreement(rows, sources)]
    if kind == "main":
        listed += [_power(rows, sources), COSTS]
    return listed + fates(runs, sources) + mixed_code(runs, sources)


def runs_of(rows: Sequence[Row]) -> list[str]:
    """The runs of these rows, each once."""
    return list(dict.fromkeys(row.run for row in rows))


def mixed_code(runs: Sequence[str], sources: Sources) -> list[str]:
    """A warning where runs were made by different code; a shipped base, which is older by nature, apart."""
    own = [run for run in runs if sources.folder.config(run).get("source") != "shipped"]
    code = {record.get("source_hash") for run in own for record in sources.folder.records(run)}
    warning = f"**Mixed code**: these runs were made by {len(code)} versions of the source."
    return [warning] * (len(code) > 1)


def is_world(runs: Sequence[str], sources: Sources) -> bool:
    return all(sources.folder.config(run).get("backbone", "world") == "world" for run in runs)


def _protocol(rows: Sequence[Row], sources: Sources) -> str:
    """The settings of all rows; where rows differ, every value."""
    found = [p for row in rows for p in sources.folder.protocols(row.run, row.mode, row.guidance)]
    if not found:
        return f"Protocol: {MISSING}."
    parts = [f"{key} {' or '.join(sorted({str(p.get(key)) for p in found}))}" for key in SETTINGS]
    prompts = sorted({f"{p['benchmark']} version {p['version']} `{str(p.get('prompt_hash'))[:12]}`" for p in found})
    return f"Protocol: {', '.join(parts)}; prompts {', '.join(prompts)}. Each run's last checkpoint is judged."


def _agreement(rows: Sequence[Row], sources: Sources) -> str:
    share = sources.scores.agreement(sorted({row.run for row in rows}))
    if share is None:
        return f"Agreement of inspector and second evaluator: {MISSING}."
    return f"Inspector and second evaluator give the same official verdict on {share:.1%} of these runs' images."


def _power(rows: Sequence[Row], sources: Sources) -> str:
    """Smallest differences to the last row, the paper's last where it has one, that these seeds and prompts resolve."""
    best = next((row for row in reversed(rows) if sources.paper.value(row.run, row.thinking, "geneval")), rows[-1])
    parts = []
    for name, metric in {
        "TA": ("ta", "ta"),
        "GenEval": ("geneval", "official"),
        "gold": ("geneval", "gold"),
    }.items():
        gaps = [sources.gap(best, row, *metric) for row in rows if row != best]
        sizes = [gap.resolvable for gap in gaps if gap]
        parts.append(f"{name} {min(sizes):.3f} to {max(sizes):.3f}" if sizes else f"{name} {MISSING}")
    label = sources.folder.label(best.run)
    return f"Smallest true difference to {label} found with 80 % power, paired by prompt: {', '.join(parts)}."


def fates(runs: Sequence[str], sources: Sources) -> list[str]:
    """Why runs collapsed, or were not trained; the rule is the same for all of them."""
    listed = []
    for run in runs:
        for record in sources.folder.records(run):
            name = f"{sources.folder.label(run)}, seed {record.get('seed')}"
            if record.get("collapsed"):
                listed.append(f"**Collapsed**: {name}: {record.get('collapse')}. Its last finite weights are judged.")
            if record.get("not_trained"):
                listed.append(f"**Not trained**: {name}: {record['not_trained']}.")
    return listed
