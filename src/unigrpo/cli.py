"""What every command line shares: how bad input ends, and how small files are written. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unigrpo.files import replacing
from unigrpo.types import UserError


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a UserError ends the process with its message alone on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` whole or not at all: a temporary file beside it, then a rename. Creates the folder."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole or not at all. Raises ValueError on NaN and infinities."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def exclusive(path: str | Path) -> Iterator[int]:
    """Hold the lock file ``path``; yields its descriptor, which child processes may inherit to hold it too.

    Waits while another process holds it, and says so on stderr. The system drops the lock when its last
    holder ends, however it ends, so there is never a stale one to remove.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process holds {path}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
