"""Announces moments of writing to ``kill_sweep.py``, which puts this file as ``sitecustomize.py`` into its checkout.

One moment is armed for all processes: a phase of what is done to a file. The first process that reaches it says so
and lingers there, until a signal reaches it or the sweep lets it go on. The phases, by Python's audit events:

    read     before the file is opened for reading
    before   before anything is written: of the temporary file that is to replace it, or of a line to append
    torn     half of an appended line is on the disk
    written  the temporary file is complete and has not replaced the file yet
    after    the write is over, and nothing else was opened since
"""

import json
import os
import pathlib
import re
import select
import signal
import sys
import threading
import time

LONGEST = 60.0  # seconds that a process lingers
ASKING = {signal.SIGINT, signal.SIGTERM}


def install(folder: pathlib.Path) -> None:
    """Linger once at the moment that ``folder/armed.json`` names: the number of the kill, phase, pattern of paths."""
    number, phase, pattern = json.loads((folder / "armed.json").read_text())
    place, owed, busy = re.compile(pattern), [], []

    def reach(now: str, path: str) -> None:
        if now == phase and not busy and place.search(path):
            busy.append(True)
            linger(folder, number, {"process": os.getpid(), "phase": now, "path": path, "words": sys.orig_argv})

    def look(event: str, words: tuple) -> None:
        if event == "open" and isinstance(words[0], str | os.PathLike):
            path, mode, flags = os.fspath(words[0]), words[1] or "", words[2]
            if owed:
                reach("after", owed.pop())
            head, name = os.path.split(path)
            if not flags & (os.O_WRONLY | os.O_RDWR):
                reach("read", path)
            elif name.startswith(".") and name.endswith(".tmp"):
                reach("before", os.path.join(head, name[1:-4]))
            elif "a" in mode:
                reach("before", path)
                owed.append(path)
        elif event == "os.rename":
            reach("written", os.fspath(words[1]))
            owed[:] = [os.fspath(words[1])]

    opened = pathlib.Path.open

    def in_halves(path: pathlib.Path, mode: str = "r", *words, **options):
        file = opened(path, mode, *words, **options)
        if mode == "a" and phase == "torn" and place.search(str(path)):
            write = file.write

            def halves(text: str) -> int:
                write(text[: len(text) // 2])
                file.flush()
                reach("torn", str(path))
                return write(text[len(text) // 2 :])

            file.write = halves
        return file

    pathlib.Path.open = in_halves
    sys.addaudithook(look)


def linger(folder: pathlib.Path, number: int, about: dict) -> None:
    """Announce the process in ``hit.<number>``, unless one has, and wait for a signal or ``release.<number>``."""
    draft = folder / f"draft.{os.getpid()}"
    draft.write_text(json.dumps(about))
    try:
        os.link(draft, folder / f"hit.{number}")
    except FileExistsError:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    main = threading.current_thread() is threading.main_thread()
    before = signal.set_wakeup_fd(writer) if main else -1
    end, arrived = time.monotonic() + LONGEST, set()
    try:
        while not arrived & ASKING and not (folder / f"release.{number}").exists() and time.monotonic() < end:
            if select.select([reader], [], [], 0.02)[0]:
                arrived |= set(os.read(reader, 16))
    finally:
        if main:
            signal.set_wakeup_fd(before)


if "KILL_SWEEP" in os.environ:
    install(pathlib.Path(os.environ["KILL_SWEEP"]))
