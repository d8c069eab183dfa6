"""What a process has used, as the operating system counts it: processor time, wall time, memory."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 2**20 if sys.platform == "darwin" else 2**10  # units of ru_maxrss


@contextmanager
def recorded(path: Path, step: str) -> Iterator[None]:
    """On leaving, a line ``{"step", "seconds", "cpu_seconds", "max_rss_mb"}`` in ``path``: of this process since its
    start and of those that it waited for. Each of several processes started together adds a line."""
    if os.environ.get("RANK", "0") == "0":
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        yield
    finally:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        line = {
            "step": step,
            "seconds": round(time.monotonic() - started, 2),
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in used), 2),
            "max_rss_mb": round(max(u.ru_maxrss for u in used) / MB, 1),
        }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
