"""What a reader must know beside a table, where it depends on what the table shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.report.data import phrases
from unigrpo.report.data.anchors import anchor
from unigrpo.report.data.phrases import MISSING
from unigrpo.report.data.results import Folder
from unigrpo.report.data.rows import Row, Sources
from unigrpo.study.facts import BACKBONES, REWARDS

SETTINGS = ("steps", "grid", "shift", "guidance", "temperature", "resolution", "ema")
WEIGHTS = (
    "Of the weights of a regulariser, the one with the highest gold at the last validation of seed 0 was chosen and "
    "trained at every seed; the others have one."
)


def runs_of(rows: Sequence[Row]) -> list[str]:
    """The runs of these rows, each once."""
    return list(dict.fromkeys(row.run for row in rows))


def scale_note(runs: Sequence[str], folder: Folder) -> str:
    """What the scale of these runs is."""
    return phrases.scale_note(folder.root.name, is_world(runs, folder))


def is_world(runs: Sequence[str], folder: Folder) -> bool:
    """Whether these runs are of the synthetic world: none starts from a published release."""
    backbones = {folder.config(run).get("backbone") for run in runs} - {None}
    return not any(BACKBONES.load(name).FACTS.released for name in backbones)


def scored(rows: Sequence[Row], sources: Sources) -> list[str]:
    """The notes of a table of judged images: protocol, metrics, intervals, instruments."""
    world = is_world(runs_of(rows), sources.folder)
    familiar = [phrases.IN_DISTRIBUTION] * world
    return [_protocol(rows, sources), phrases.METRICS, phrases.INTERVALS, *familiar, _agreement(rows, sources)]


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


def proxies(runs: Sequence[str], folder: Folder) -> list[str]:
    """What the rewards are that these runs are trained on, and how well each judges held-out images."""
    used = {run: folder.config(run).get("rl", {}).get("reward") for run in runs}
    listed = []
    for reward in dict.fromkeys(name for name in used.values() if name):
        whose = "; ".join(folder.label(run) for run in runs if used[run] == reward)
        proxy = f"The proxy{f' of {whose}' if len(set(used.values())) > 1 else ''} is the reward `{reward}`"
        trained = REWARDS.load(reward).FACTS.trained
        listed.append(f"{proxy}{f': {_held_out(trained, folder)}' if trained else ''}.")
    return listed


def _held_out(trained: str, folder: Folder) -> str:
    """AUC of a learned reward and its steps, from its report; beside those of the rewards that were trained longer."""
    reports = {path.parent.name: _report(path) for path in sorted(folder.root.glob("*/report.json"))}
    if trained not in reports:
        return f"held-out AUC {MISSING}"
    steps, shown = reports.pop(trained)
    longer = [f"`{name}`: {words}" for name, (more, words) in reports.items() if more > steps]
    return shown + f". It was trained less so that it can be over-optimised; {', '.join(longer)}" * bool(longer)


def _report(path: Path) -> tuple[int, str]:
    """Steps of a learned reward, and in words how well it judges held-out samples."""
    report = read_json(path)
    try:
        auc, steps = report["auc"]["overall"], report["steps"]
        shown = MISSING if auc is None else f"{auc:.3f}"  # None where the held-out samples are all right, or all wrong
        return steps, f"held-out AUC {shown} after {steps:,d} steps"
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected auc.overall and steps as numbers ({error!r})") from None


def chosen_weights(runs: Sequence[str], folder: Folder) -> list[str]:
    """How weights were chosen, where one regulariser stands there with several."""
    found = {anchor(config) for run in runs if (config := folder.config(run))}
    return [WEIGHTS] * (len({each.kind for each in found}) < len(found))


def fates(runs: Sequence[str], folder: Folder) -> list[str]:
    """Why runs collapsed, or were not trained; the rule is the same for all of them. And a warning where runs were made
    by different code; a shipped base, which is older by nature, apart."""
    listed = []
    for run in runs:
        for record in folder.records(run):
            name = f"{folder.label(run)}, seed {record.get('seed')}"
            if record.get("collapsed"):
                listed.append(f"**Collapsed**: {name}: {record.get('collapse')}. Its last finite weights are judged.")
            if record.get("not_trained"):
                listed.append(f"**Not trained**: {name}: {record['not_trained']}.")
    trained = [run for run in runs if folder.config(run).get("source") != "shipped"]
    code = {record.get("source_hash") for run in trained for record in folder.records(run)}
    warning = f"**Mixed code**: these runs were made by {len(code)} versions of the source."
    return listed + [warning] * (len(code) > 1)
