"""What guidance and temperature alone bring SFT on validation prompts, in either mode, beside reinforcement: a gain
that a knob would also bring shows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from unigrpo.core.errors import reading
from unigrpo.core.lazy import lazy
from unigrpo.report.data import lines, logs, phrases, stats
from unigrpo.report.data.results import Line, Row, Sources
from unigrpo.study import catalogue
from unigrpo.study.facts import KindFacts

np, prompts = lazy("numpy"), lazy("unigrpo.world.prompts")

NOTE = (
    "All numbers are of validation prompts, categories weighing equally. SFT is shown at every guidance that was "
    "tried, with thinking also at every temperature at the chosen guidance; temperature 0, greedy text, is never "
    "chosen. Other rows are the last validations of reinforced runs, at their mode's choice. The difference is that "
    "of the last reinforced run of the row's mode, paired by prompt and seed."
)
FACTS = KindFacts(
    "What decoding alone brings, beside reinforcement",
    __doc__,
    notes=(NOTE, phrases.BRACKETS),
    scores=False,
    reads="run.json",
)
MEANS = {"official": "GenEval", "trace_correct": "right traces", "image_given_trace": "images that follow their trace"}


@dataclass(frozen=True)
class Tried(Row):
    """A decoding of SFT; of a reinforced run the choice of its mode, and no numbers of it."""

    scale: float | None = None
    temperature: float | None = None


def rows(runs: list[str], sources: Sources) -> list[Row]:
    """SFT's decodings, then the other runs."""
    grid = [each for file in sources.folder.decodings().values() for each in file.grid]
    keys = {(each.thinking, each.guidance, each.temperature) for each in grid}
    ordered = sorted(keys, key=lambda key: (key[0], key[1], -(key[2] or 0)))
    tried = [Tried(catalogue.SFT, "yes" if thinking else "no", "", *knobs) for thinking, *knobs in ordered]
    others = [(run, sources.folder.config(run).get("rl", {}).get("thinking")) for run in runs if run != catalogue.SFT]
    return tried + [Tried(run, "yes" if thinking else "no") for run, thinking in others]


def line(row: Tried, rows: list[Tried], sources: Sources) -> Line:
    course = logs.course(row.run, sources.folder) if row.run != catalogue.SFT else None
    if row.run == catalogue.SFT:
        cells, means, chosen = _measured(row, sources)
    else:
        cells, chosen = course and course.cells("gold", -1), None
        ends = {name: logs.validated(row.run, name, sources.folder).values() for name in MEANS}
        means = {name: [by[max(by)] for by in each if by] for name, each in ends.items()}
    beside = [other.run for other in rows if other.run != catalogue.SFT and other.thinking == row.thinking]
    best = logs.course(beside[-1], sources.folder) if beside and beside[-1] != row.run else None
    gap = None
    if best and cells and set(best.seeds) & set(cells.seeds):
        shared = set(best.prompts) & set(cells.prompts)
        gap = stats.difference(best.cells("gold", -1).of(shared), cells.of(shared), one_for_all=False)
    return {
        "thinking": row.thinking,
        "guidance": row.scale,
        "temperature": row.temperature,
        "chosen": chosen,
        "seeds": len(cells.seeds) if cells else 0,
        **lines.estimates({"gold": logs.measured(cells), "gold_gap": logs.measured(gap)}),
        **{name: mean(values) if values else None for name, values in means.items()},
    }


def _measured(row: Tried, sources: Sources) -> tuple[stats.Cells, dict[str, list[float]], int]:
    """Of a decoding of SFT: gold of every seed and prompt, the seeds' MEANS, and how many seeds chose it."""
    tags, found, chosen = {prompt.id: prompt.tag for prompt in prompts.prompt_set("val")}, {}, 0
    for seed, file in sources.folder.decodings().items():
        choice = file.think if row.thinking == "yes" else file.direct
        for each in file.grid:
            if (each.thinking, each.guidance, each.temperature) == (row.thinking == "yes", row.scale, row.temperature):
                found[seed] = each
                chosen += (row.scale, row.temperature) == (choice.guidance, getattr(choice, "temperature", None))
    with reading(f"{sources.folder.root}: decoding.json", "gold of every validation prompt"):
        by_seed = np.array([[each.gold_by_prompt[prompt] for prompt in tags] for each in found.values()])
    means = {name: [v for each in found.values() if (v := getattr(each, name)) is not None] for name in MEANS}
    return stats.Cells(by_seed, tuple(found), tuple(tags), tuple(tags.values())), means, chosen


def text(line: Line, sources: Sources) -> Line:
    knobs = {name: "" if line[name] is None else f"{line[name]:g}" for name in ("guidance", "temperature")}
    return {
        "thinking": line["thinking"],
        **knobs,
        "chosen by": "" if line["chosen"] is None else f"{line['chosen']} of {line['seeds']}",
        "gold": lines.interval(line, "gold"),
        **{head: "" if line[name] is None else lines.number(line, name) for name, head in MEANS.items()},
        "gold: reinforced − this row": "" if line["gold_gap"] is None else lines.interval(line, "gold_gap"),
        "seeds": lines.seeds(line),
    }
