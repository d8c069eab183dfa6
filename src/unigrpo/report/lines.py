"""A table's numbers: as columns of its CSV, and as the cells of its Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from unigrpo.report.notes import MISSING
from unigrpo.report.rows import Line
from unigrpo.report.stats import Estimate


def columns(name: str, e: Estimate | None) -> Line:
    """Mean and interval; None where there is no estimate."""
    return {name: e and e.mean, f"{name}_lo": e and e.lo, f"{name}_hi": e and e.hi}


def number(line: Mapping, name: str, form: str = ".3f") -> str:
    return MISSING if line[name] is None else format(line[name], form)


def interval(line: Mapping, name: str, form: str = ".3f") -> str:
    """Mean and interval of ``columns``."""
    if line[name] is None:
        return MISSING
    return "{} [{}, {}]".format(*(format(line[key], form) for key in (name, f"{name}_lo", f"{name}_hi")))


def seeds(line: Mapping) -> str:
    return "1 (prompts only)" if line["seeds"] == 1 else str(line["seeds"])
