"""How strong each update rule is: the end of its course on validation prompts for every weight of its regulariser and
every learning rate of the image that was tried, and the choice (docs/protocol.md).
"""

from unigrpo.core.lazy import lazy
from unigrpo.report.data import lines, logs
from unigrpo.report.data.results import Folder, Line, Row, Sources
from unigrpo.study.facts import TRAINING, KindFacts

choosing = lazy("unigrpo.core.choosing")
NOTE = (
    "Gold is that of validation prompts at the tuned guidance, with or without thinking as the run is trained, over "
    "the last third of the updates, with the interval over prompts. Drift is the mean squared difference of the "
    "velocity from the start, over the same. Chosen is, of the runs of a rule that are within one standard error of "
    "its best, paired by prompt, the one with the smallest drift."
)
FACTS = KindFacts("The strength of update rules", __doc__, notes=(NOTE,), **TRAINING)


def rule_of(run: str, folder: Folder) -> str:
    """The run whose settings are varied in ``run``: the line that its line is like."""
    lines = folder.study.catalogue["runs"][run]["like"] if folder.study else [run]
    return lines[-2] if len(lines) > 1 else run


def chosen(rows: list[Row], folder: Folder) -> dict[str, str]:
    """Rule -> the chosen of its runs among ``rows``, as far as they are trained and know their drift."""
    found = {row.run: c for row in rows if (c := logs.course(row.run, folder))}
    drift = {run: logs.drifts(c, folder)[:, c.late()].mean() for run, c in found.items()}
    picks = {}
    for rule in dict.fromkeys(rule_of(run, folder) for run in found):
        tried = sorted((run for run in found if rule_of(run, folder) == rule and drift[run] >= 0), key=drift.get)
        if tried:
            ends = {run: found[run].end("gold") for run in tried}
            picks[rule] = choosing.choose({run: end.values.mean(0) for run, end in ends.items()}, ends[tried[0]].tags)
    return picks


def line(row: Row, rows: list[Row], sources: Sources) -> Line:
    folder = sources.folder
    c, config, rule = logs.course(row.run, folder), folder.config(row.run), rule_of(row.run, folder)
    anchor = logs.anchor(config) if config else None
    drift = logs.drifts(c, folder)[:, c.late()].mean() if c else None
    return {
        "rule": folder.label(rule),
        "weight": anchor and (anchor.weight or 0),
        "lr_image": config["rl"]["lr_image"] if config else None,
        "seeds": len(c.seeds) if c else 0,
        **lines.estimates({"gold": logs.at_end(c, "gold")}),
        "drift": drift if drift is not None and drift >= 0 else None,
        "chosen": "yes" if chosen(rows, folder).get(rule) == row.run else "no",
    }


def text(line: Line, sources: Sources) -> Line:
    return {
        "rule": line["rule"],
        "weight": lines.number(line, "weight", "g"),
        "image learning rate": lines.number(line, "lr_image", ".0e"),
        "gold: end": lines.interval(line, "gold"),
        "drift: end": lines.number(line, "drift", ".4f"),
        "chosen": "chosen" if line["chosen"] == "yes" else "",
    }
