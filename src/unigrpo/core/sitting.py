"""One process at work in a run's folder: nobody else is, and it can be stopped."""

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from unigrpo.core.errors import UserError
from unigrpo.core.files import accessing

LOCK = ".lock"  # of a run's folder: its owner, while the system holds it locked
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is SLURM's warning
ONE_ACT = 2.0  # seconds within which a launcher passes on what a terminal has sent too


class Stopped(Exception):
    """A signal asks the process to end."""


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Own the folder ``out``, made if absent, gone again if nothing was written. Raises UserError naming its owner."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with accessing(out, "written"):
        out.mkdir(parents=True, exist_ok=True)
        file = _locked(out)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n")
    file.flush()
    with file:
        try:
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for folder in made:
                    folder.rmdir()


def _locked(out: Path) -> TextIO:
    """The lock file of a folder, empty and held."""
    while True:
        file = (out / LOCK).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{out}: is being trained by another process ({file.read().strip()})") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(out / LOCK)):
                file.truncate(0)
                return file
        file.close()  # its owner has just left with it


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Within it the first signal of SIGNALS is put into the list that is given; a later one ends the process at once.
    Outside the main thread, which alone gets signals, nothing is changed."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    first = time.monotonic()

    def note(number: int, _) -> None:
        nonlocal first
        if seen and time.monotonic() - first > ONE_ACT:
            os._exit(128 + number)
        if not seen:
            first = time.monotonic()
            seen.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
