"""The command line inside a test: what it raises is raised here."""

from __future__ import annotations

import shlex

from unigrpo.__main__ import call


def unigrpo(words: str) -> int:
    """``unigrpo <words>``. Raises UserError as the verb does."""
    return call(shlex.split(words))
