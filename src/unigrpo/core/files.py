"""Reading and writing files: errors name file and line; a failed write leaves the old file. Imports no torch."""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from unigrpo.core.errors import UserError, reading

LARGEST = 2**30  # bytes of a text
DEEPEST = 20  # levels of nesting in it; a configuration needs five
ENTRIES = 10**6  # in its lists and mappings


@contextmanager
def accessing(path: str | Path, way: Literal["written", "made"]) -> Iterator[None]:
    """What the system refuses inside the block is a UserError: ``path`` cannot be accessed in that way."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be {way} ({error})") from error


def opened(path: str | Path, expected: str = "a file") -> BinaryIO:
    """A file open for reading. Raises UserError where it cannot be, and for a folder, a pipe or a device, unread."""
    with reading(path, expected):
        if not stat.S_ISREG(os.stat(path).st_mode):
            found = "a folder" if os.path.isdir(path) else "a pipe, a device or another special file"
            raise UserError(f"{path}: cannot be read, expected {expected}, found {found}")
        return Path(path).open("rb")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without the byte-order mark and the carriage returns that other programs write. Raises
    UserError where it cannot be read or has more than LARGEST bytes."""
    with opened(path, "a text in UTF-8") as file, reading(path, "a text in UTF-8"):
        content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"{path}: expected at most {LARGEST:,} bytes")
        return content.decode("utf-8-sig").replace("\r\n", "\n")


def read_result(path: str | Path) -> str:
    """The same of a file that a step has written line by line. Raises UserError where its last line is cut off."""
    text = read_text(path)
    if text and not text.endswith("\n"):
        raise UserError(f"{path}, line {text.count(chr(10)) + 1}: is cut off, expected the end of a line")
    return text


def digest(path: str | Path) -> str:
    """sha256 of a file's content. Raises UserError where it cannot be read."""
    with opened(path) as file, reading(path, "a file"):
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path, *keys: str, halves: bool = False) -> dict:
    """A JSON object. Raises UserError naming the file and the line, or the first of ``keys`` that it lacks. ``halves``
    of characters may stand in a file whose texts are judged one by one."""
    value = parse_json(read_text(path), path, halves=halves)
    for key in keys:
        if key not in value:
            raise UserError(f"{path}: '{key}' is missing, expected an object with {', '.join(keys)}")
    return value


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict]]:
    """("file, line n", object) of every line. Raises UserError naming the line, or the file if empty."""
    text = read_text(path)
    if not text:
        raise UserError(f"{path}: is empty, expected one JSON object a line")
    yield from json_lines(text, path)


def json_lines(text: str, path: str | Path) -> Iterator[tuple[str, dict]]:
    """("file, line n", object) of every line of ``text``, which was read from ``path``; none of an empty text."""
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        yield f"{path}, line {number}", parse_json(line, path, number)


def csv_rows(text: str, path: str | Path) -> Iterator[tuple[str, list[str]]]:
    """("file, line n", cells) of every row of ``text``, which was read from ``path``. Raises UserError naming the line
    of a row of another length than the first, whose cells are the columns' names, each given once."""
    rows, names = csv.reader(io.StringIO(text), strict=True), []
    with reading(path, "a table in CSV"):
        for row in rows:
            where, names = f"{path}, line {rows.line_num}", names or row
            if len(row) != len(names):
                raise UserError(f"{where}: expected {len(names)} cells, found {len(row)}")
            if names is row and len(set(row)) < len(row):
                raise UserError(f"{where}: column {Counter(row).most_common(1)[0][0]!r} is given twice")
            yield where, row


def parse_json(text: str, path: object, first: int = 1, halves: bool = False) -> dict:
    """The JSON object in ``text``, which stands in ``path`` from line ``first`` on. Raises UserError for anything else,
    a key that is given twice, a number that is not finite, half a character, and more than DEEPEST levels."""
    where = f"{path}, line {first}"
    with reading(where, "a JSON object"):
        try:
            value = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            line = first + error.lineno - 1
            raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from error
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
        if "\\u" in text and not halves:
            json.dumps(value, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > DEEPEST:
            check_tree(value, where)
        return value


def check_tree(node: object, path: object, parents: tuple[int, ...] = (), seen: list[int] | None = None) -> None:
    """Raise UserError for a node of lists and mappings that contains itself, and for a tree that is nested deeper than
    DEEPEST, has more than ENTRIES, which ``seen`` counts, or a whole number that is no finite float."""
    seen = seen or [0]
    seen[0] += 1
    if seen[0] > ENTRIES:
        raise UserError(f"{path}: expected at most {ENTRIES:,} entries, aliases spelt out")
    if id(node) in parents:
        raise UserError(f"{path}: an anchor contains itself")
    if len(parents) > DEEPEST:
        raise UserError(f"{path}: expected at most {DEEPEST} levels of nesting")
    if isinstance(node, int) and abs(node) >= 10**300:  # which many a library cannot even print
        raise UserError(f"{path}: expected numbers of at most 300 digits")
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            check_tree(child, path, (*parents, id(node)), seen)


def _distinct(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is given twice")
    return found


def _finite(text: str, kind: type = float) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return kind(text)


_STRICT = {"parse_float": _finite, "parse_int": partial(_finite, kind=int), "parse_constant": _finite}
_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, **_STRICT)


def in_order(lines: Iterable[tuple[str, dict]]) -> Iterator[tuple[str, dict]]:
    """The lines of a training record. Raises UserError naming a row of kind train that is not later than the one before
    it, by ``rollout`` or ``step``: two trainings have written there."""
    last = -1
    for where, row in lines:
        step = row.get("rollout", row.get("step")) if row.get("kind") == "train" else None
        if isinstance(step, int):
            if step <= last:
                raise UserError(f"{where}: expected a later step than {last}, found {step}; train the run anew")
            last = step
        yield where, row


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place at the end, or vanishes after an error. Both are on the
    disk then, so that a power cut leaves the old file or the new one; its mode is the umask's. Creates the folder.
    Raises UserError where no file can be written: a taken name, a read-only folder, a full disk."""
    path = Path(path)
    with accessing(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "a device or another special file"
            raise UserError(f"{path}: cannot be written, expected a file, found {found}")
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # of a killed process
    try:
        with accessing(path, "written"):
            temporary.touch()  # refused now rather than after the work
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # some libraries write a private file of their own in its place
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place at the end, or vanishes after an error. Raises UserError
    where there is something already, or no folder can be made."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path}: is there already, expected a new folder")
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with accessing(path, "made"):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        for made in (*temporary.rglob("*"), temporary):
            _flush(made)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` completely or not at all. Creates the folder."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented JSON, completely or not at all. Raises ValueError on NaN and infinities."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def exclusive(path: str | Path) -> Iterator[int]:
    """Hold the lock file ``path``; yields its descriptor, which child processes may inherit to hold it too. Waits while
    another process holds it, and says so on stderr. The system drops the lock when its last holder ends."""
    path = Path(path)
    with accessing(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process holds {path}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Lock ``<path>.<process id>.lock`` during the block, so that ``workers`` finds this process."""
    lock = path.with_name(f"{path.name}.{os.getpid()}.lock")
    with replacing(lock) as temporary:
        file = temporary.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)  # before it has its name, so that nobody finds it free
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def workers(folder: Path) -> list[tuple[str, int]]:
    """(name, process id) of the processes ``at_work`` on a path in ``folder``. Removes locks of killed ones."""
    found = []
    for path in sorted(folder.glob("*.lock")):
        with suppress(FileNotFoundError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                name, process = path.stem.rsplit(".", 1)
                found.append((name, int(process)))
    return found
