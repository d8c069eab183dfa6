"""Reading JSON with errors that name file and line, and replacing large files whole. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unigrpo.types import UserError


def read_text(path: str | Path) -> str:
    """The text of a file. Raises UserError where it cannot be read."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def read_json(path: str | Path) -> dict:
    """A JSON object. Raises UserError naming the file and the line."""
    return _object(read_text(path), f"{path}", first=1)


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict]]:
    """("file, line n", object) of every line. Raises UserError naming the line, or the file if empty."""
    lines = read_text(path).splitlines()
    if not lines:
        raise UserError(f"{path}: is empty, expected one JSON object a line")
    for number, line in enumerate(lines, 1):
        yield f"{path}, line {number}", _object(line, f"{path}", first=number)


def _object(text: str, path: str, first: int) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {first + error.lineno - 1}: not valid JSON ({error.msg})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {first}: expected a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place at the end, or vanishes after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
