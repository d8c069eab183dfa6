"""What a reader must know beside a table: the notes under its Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.report.regularisers import regulariser
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
GUIDED = (
    "Training reward is the mean of the last ten rollouts; with guidance in training it is that of guided images. "
    "Validation is that on validation prompts at the tuned guidance, categories weighing equally, at the last one that "
    "all seeds reached. Model evaluations and seconds are those of a gradient update: a rollout's over its "
    "updates, medians over the rollouts of all seeds, without validations."
)
VALIDATED = (
    "Gold, the judge that training never sees, the reward that a run is trained on (proxy) and artefacts, the share of "
    "an image that fits neither object nor background, are measured on validation prompts at the tuned guidance, "
    "categories weighing equally; last is the last validation that all seeds reached. Brackets are 95 % intervals: "
    "bootstrap over seeds and, within categories, over prompts. With one seed the interval covers prompts only."
)
ENDED = (
    "Gold less the first row's is paired by prompt and by the seeds that both have. Training reward and diversity (the "
    "root mean square difference between two images of a group) are means over ten rollouts. Drift is the mean squared "
    "difference of the velocity from that of the checkpoint that the run started from."
)
PARTED = (
    "Gains are last less first validation, in units of the standard deviation over the images of the first; the gap "
    "is the proxy's gain less gold's, paired by prompt. The fall is peak less last validation, the peak of each seed "
    "being where the mean of the other seeds is highest, so that its choice makes no fall; with one seed there is "
    "none. Peak and its update are those of the mean over seeds, known in hindsight only."
)
WEIGHTS = (
    "Of the weights of a regulariser, the one with the highest gold at the last validation of seed 0 was chosen and "
    "trained at every seed; the others have one."
)
REWARDS = {"learned": "reward", "weak": "weak_reward"}
"""Name of a learned reward -> its folder."""
IN_DISTRIBUTION = "Single-object prompts are in-distribution: the same prompts occur in training."

BELOW = {
    "training": [TRAINING, COSTS],
    "regularisers": [VALIDATED, ENDED],
    "overoptimisation": [VALIDATED, PARTED],
}
"""Kinds of table without scores -> what is said below them."""


def caption(kind: str, rows: Sequence[Row], sources: Sources) -> list[str]:
    """What a table needs said where its notes do not follow: the scale, the metrics, the brackets."""
    scale = scale_note(sources.folder.root.name, is_world(runs_of(rows), sources))
    if kind in BELOW:
        return [scale, *BELOW[kind]]
    cells = ["Under each official value its interval and, in parentheses, the paper's."] * (kind == "categories")
    return [scale, *cells, METRICS, INTERVALS, *[GUIDED] * (kind == "guidance")]


def scale_note(name: str, world: bool) -> str:
    """What a scale is: its name, whether it is the synthetic ``world``, and what its numbers are worth."""
    return " ".join([f"Scale `{name}`.", *[WORLD] * world, *[SMOKE] * (name == "smoke")])


def notes(kind: str, rows: Sequence[Row], lines: Sequence[Mapping], sources: Sources) -> list[str]:
    """One sentence or two each, in reading order."""
    runs = runs_of(rows)
    world = is_world(runs, sources)
    listed = [scale_note(sources.folder.root.name, world)]
    if kind in BELOW:
        listed += BELOW[kind]
        if kind != "training":
            listed += _proxies(runs, sources) + [WEIGHTS] * _swept(runs, sources)
        return listed + fates(runs, sources) + mixed_code(runs, sources)
    if kind == "categories":
        sizes = {HEADS[t]: max((line[f"{t}_n"] or 0) for line in lines) for t in CATEGORIES}
        prompts = ", ".join(f"{head} {size}" for head, size in sizes.items())
        listed.append(f"Cells: official / strict (the paper's official value). Prompts per category: {prompts}.")
    listed += [_protocol(rows, sources), METRICS, INTERVALS]
    listed += [IN_DISTRIBUTION] * world + [_agreement(rows, sources)]
    if kind == "main":
        listed += [_power(rows, sources), COSTS]
    if kind == "guidance":
        listed += [GUIDED, *_proxies(runs, sources)]
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


def _proxies(runs: Sequence[str], sources: Sources) -> list[str]:
    """What the rewards are that these runs are trained on, and how well each judges held-out images."""
    used = {run: sources.folder.config(run).get("rl", {}).get("reward") for run in runs}
    listed = []
    for reward in dict.fromkeys(name for name in used.values() if name):
        whose = "; ".join(sources.folder.label(run) for run in runs if used[run] == reward)
        proxy = f"The proxy{f' of {whose}' if len(set(used.values())) > 1 else ''} is the reward `{reward}`"
        if reward in REWARDS:
            proxy += f": {_held_out(reward, sources)}"
        if reward == "weak":
            proxy += (
                f". It was trained less so that it can be over-optimised; of `learned`: {_held_out('learned', sources)}"
            )
        listed.append(f"{proxy}.")
    return listed


def _held_out(reward: str, sources: Sources) -> str:
    """AUC of a learned reward and its steps, from its report."""
    path = sources.folder.root / REWARDS[reward] / "report.json"
    if not path.exists():
        return f"held-out AUC {MISSING}"
    report = read_json(path)
    try:
        auc, steps = report["auc"]["overall"], report["steps"]
        told = MISSING if auc is None else f"{auc:.3f}"  # None where the held-out samples are all right, or all wrong
        return f"held-out AUC {told} after {steps:,d} steps"
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected auc.overall and steps as numbers ({error!r})") from None


def _swept(runs: Sequence[str], sources: Sources) -> bool:
    """Whether one regulariser stands there with several weights."""
    found = {regulariser(config) for run in runs if (config := sources.folder.config(run))}
    return len({held.kind for held in found}) < len(found)


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
