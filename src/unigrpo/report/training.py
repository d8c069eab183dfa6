"""The table of training: what runs cost and how their rewards went, from run.json and metrics.jsonl alone.

Costs are medians over seeds, rewards means over seeds: a validation's gold and proxy (the learned reward, or the
run's own) at the first, the best and the last validation, and the proxy on training prompts over the rollouts at
either end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median

from unigrpo.core.errors import UserError
from unigrpo.report.notes import MISSING
from unigrpo.report.results import Folder
from unigrpo.report.rows import Line, Row, Sources

ENDS = 10  # rollouts at either end of training

REWARDS = {
    "gold_first": "gold: first",
    "gold_best": "gold: best",
    "gold_last": "gold: last",
    "validation_first": "validation reward: first",
    "validation_last": "validation reward: last",
    "training_first": f"training reward: first {ENDS}",
    "training_last": f"training reward: last {ENDS}",
}
"""Column of the CSV -> head in Markdown."""


def column(rows: Sequence[tuple[str, dict]], kind: str, name: str) -> list[float]:
    """``name`` in the rows of this kind, in order. Raises UserError naming a row without it."""
    for where, row in rows:
        if row.get("kind") == kind and not isinstance(row.get(name), int | float):
            raise UserError(f"{where}: '{name}' must be a number, found {row.get(name)!r}")
    return [row[name] for _, row in rows if row.get("kind") == kind]


def recorded(rows: Sequence[tuple[str, dict]], kind: str, name: str) -> list[float]:
    """``column``, but empty where no row of this kind has it."""
    return column(rows, kind, name) if any(row.get("kind") == kind and name in row for _, row in rows) else []


def ends(run: str, name: str, folder: Folder) -> tuple[float | None, float | None]:
    """Mean of ``name`` over the first and over the last ENDS rollouts, mean over seeds; None where no seed has it."""
    seeds = [values for rows in folder.metrics(run).values() if (values := recorded(rows, "train", name))]
    if not seeds:
        return None, None
    return mean(mean(values[:ENDS]) for values in seeds), mean(mean(values[-ENDS:]) for values in seeds)


def at_validation(run: str, name: str, update: int, folder: Folder) -> float | None:
    """``name`` at the validation after this update, mean over the seeds that have it; None where none has."""
    rows = [row for rows in folder.metrics(run).values() for row in rows if row[1].get("update") == update]
    values = recorded(rows, "validation", name)
    return mean(values) if values else None


def _course(rows: Sequence[tuple[str, dict]]) -> Line:
    """One seed's rollouts and rewards; {} of a seed that was not trained."""
    gold, proxy = (column(rows, "validation", name) for name in ("gold", "proxy"))
    rewards = column(rows, "train", "proxy")
    validation = {
        "gold_first": gold[0],
        "gold_best": max(gold),
        "gold_last": gold[-1],
        "validation_first": proxy[0],
        "validation_last": proxy[-1],
    } if gold else {}  # fmt: skip
    ends = {"training_first": mean(rewards[:ENDS]), "training_last": mean(rewards[-ENDS:])} if rewards else {}
    return {"rollouts": len(rewards)} | validation | ends if rows else {}


def line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    """The row of the CSV."""
    courses = [course for course in map(_course, sources.folder.metrics(row.run).values()) if course]

    def over_seeds(middle, name: str) -> float | None:
        values = [course[name] for course in courses if name in course]
        return middle(values) if values else None

    rollouts = over_seeds(median, "rollouts")
    return {
        "run": row.run,
        "label": sources.folder.label(row.run),
        "seeds": len(courses),
        "rollouts": None if rollouts is None else round(rollouts),
        **sources.cost(row.run),
        **{name: over_seeds(mean, name) for name in REWARDS},
    }


def text(line: Mapping) -> Line:
    """The row of the Markdown."""

    def shown(name: str, form: str) -> str:
        return MISSING if line[name] is None else format(line[name], form)

    return {
        "run": line["label"],
        "seeds": line["seeds"],
        "rollouts": shown("rollouts", ","),
        "images": shown("images", ","),
        "model evaluations": shown("model_evaluations", ","),
        "wall seconds": shown("wall_seconds", ",.0f"),
        **{head: shown(name, ".3f") for name, head in REWARDS.items()},
        "collapsed seeds": shown("collapsed", "d"),
    }
