"""The hub of published weights: a repository's folder on this machine, fetched once, and one line where that fails.

Imports no torch, and the hub's client only when something is fetched.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unigrpo.core.errors import UserError

ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/name


def repository(name: str, wanted: str, patterns: Sequence[str]) -> Path:
    """The folder of the repository ``name`` with its files that match ``patterns``. Raises UserError as
    :func:`fetch`."""
    from huggingface_hub import snapshot_download

    return fetch(name, wanted, lambda: snapshot_download(name, allow_patterns=list(patterns)))


def fetch(name: str, wanted: str, get: Callable[[], str | Path]) -> Path:
    """The folder that ``get`` brings from the repository ``name`` of the hub into its cache. Raises UserError, in one
    line with what to do instead, for a name that no repository can have, and for what cannot be had: ``wanted``."""
    if not ID.fullmatch(name):
        raise UserError(f"{name}: no such file or folder, expected {wanted}, or a repository of the hub (owner/name)")
    try:
        with quiet():
            return Path(get())
    except Exception as error:  # the hub's client raises its own errors, and those of its transport
        raise unfetched(name, wanted, sentence(error)) from None


def unfetched(name: str, wanted: str, why: str) -> UserError:
    """The line for ``wanted`` of the repository ``name``, which cannot be had because of ``why``."""
    return UserError(
        f"{name}: no such folder here, and {wanted} cannot be fetched from the hub ({why});"
        f" `hf download {name} --local-dir DIR` where there is a network, then give DIR"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries that fetch and load: what goes wrong is one line of ours."""
    from huggingface_hub.utils import logging

    loggers = [logging]
    if "transformers" in sys.modules:
        loggers.append(sys.modules["transformers"].utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


def sentence(error: Exception) -> str:
    """The kind of an error, and the first sentence of what may have many lines."""
    said = " ".join(str(error).split()).split(". ")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
