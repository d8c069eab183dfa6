"""The catalogue's entries under ``claims``: which rows and runs each claim of the paper reads. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from unigrpo.core.errors import UserError
from unigrpo.core.registry import nearest
from unigrpo.core.settings import AsTuple, Settings

READS = {  # check (``unigrpo.report.claims.checks``) -> the key of an entry that it reads
    "highest": "rows",
    "gains": "pairs",
    "no_losses": "pairs",
    "not_all_gains": "pairs",
    "all_collapsed": "runs",
    "half_the_evaluations": "runs",
    "higher_training_reward": "runs",
    "hacked": "runs",
    "lets_artefacts_in": "runs",
    "steady_and_best": "runs",
}

Row = Annotated[tuple[str, Literal["no", "yes"]], AsTuple]  # a run, and thinking at evaluation
Pair = Annotated[tuple[Row, Row], AsTuple]  # the first is compared with the second


class ClaimEntry(Settings):
    """A claim in words, why it could have failed or not, its check, and one of the three that a check reads."""

    claim: str
    check: str
    why: str
    designed: bool = False  # whether the synthetic world is made so that it holds
    rows: Annotated[tuple[Row, ...], AsTuple, Field(min_length=1)] | None = None
    pairs: Annotated[tuple[Pair, ...], AsTuple, Field(min_length=1)] | None = None
    runs: Annotated[tuple[str, ...], AsTuple, Field(min_length=1)] | None = None


def require_check(entry: Mapping, where: str) -> None:
    """Raise UserError for a check that there is not, and for an entry that lacks what its check reads."""
    if entry["check"] not in READS:
        raise UserError(f"{where}.check: no check is called {entry['check']!r}{nearest(entry['check'], READS)}")
    if READS[entry["check"]] not in entry:
        raise UserError(f"{where}.{READS[entry['check']]}: missing, {entry['check']} reads them")


def rows_read(entry: Mapping) -> list[tuple[str, str, str | None]]:
    """(key, run, thinking) of all that an entry names; no thinking where it names a run alone."""
    rows = [(f"rows.{i}", *row) for i, row in enumerate(entry.get("rows", ()))]
    rows += [(f"pairs.{i}.{j}", *row) for i, pair in enumerate(entry.get("pairs", ())) for j, row in enumerate(pair)]
    return rows + [(f"runs.{i}", run, None) for i, run in enumerate(entry.get("runs", ()))]


def runs_read(entry: Mapping) -> list[str]:
    """The runs that an entry names, each once."""
    return list(dict.fromkeys(run for _, run, _ in rows_read(entry)))
