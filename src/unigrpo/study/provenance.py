"""Where a result came from, and what it took: ``run.json`` in a run's folder, made and read. Imports no torch.

What each piece of a run was made by is among its facts (``training.state.piece``); what is out of date by it,
``study.standing`` says. Runs of earlier versions have their configuration in ``training.json`` or ``config.json``.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from unigrpo.core.code_identity import ROOT
from unigrpo.core.errors import UserError
from unigrpo.core.files import at_work, read_json
from unigrpo.core.settings import CountOrNone, NotNegative, Settings, checked, to_dict
from unigrpo.core.sitting import stoppable
from unigrpo.study.config import RunConfig

MB = 2**20 if sys.platform == "darwin" else 2**10  # units of ru_maxrss
PROVENANCE = ("commit", "source_hash", "versions", "device", "threads")  # keys of run.json
PACKAGES = ("torch", "numpy", "transformers", "diffusers", "open_clip_torch", "safetensors")


class Piece(Settings, extra="allow"):
    """Of run.json and of records of steps: what one process was made by, module -> hash."""

    code: dict[str, str | None] = {}


class Config(Settings, extra="allow"):
    """What is needed of the configuration of a run, which may be one of an earlier version."""

    label: str = ""
    stage: str = ""
    init: str | None = None
    rl: dict | None = None
    supervised: dict | None = None


class RunRecord(Settings, extra="allow"):
    """What is needed of run.json."""

    run: str = ""
    seed: CountOrNone = 0
    ema: bool = False
    collapsed: bool = False
    published: bool = False
    collapse: str | None = None
    not_trained: str | None = None
    model_evaluations: NotNegative | None = None
    images: CountOrNone | None = None
    wall_seconds: NotNegative | None = None
    dropped_groups: CountOrNone | None = None
    best_update: CountOrNone | None = None
    inputs: dict[str, str | None] = {}
    pieces: list[Piece] = []
    config: Config | None = None


def source_hash(root: Path = ROOT) -> str:
    """Hash of every Python file of the method, the rewards and the evaluations: paths and contents."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in ("src", "rewards", "evals"):
        for path in sorted((root / folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str | None:
    """The git commit checked out at ``root``, ``-dirty`` after local changes; None outside a repository."""
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def peak_memory_mb() -> float:
    """Largest memory used so far, in MB: of the accelerator where this process used one, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


def record(config: RunConfig, *, device: str, wall_seconds: float, **facts: object) -> dict[str, object]:
    """The content of ``run.json`` for one finished run: ``device`` is the one used ("cpu", or an accelerator's name);
    ``wall_seconds`` counts all sittings of a resumed run; ``facts`` are the numbers of the stage (updates, ...)."""
    return {
        **{key: getattr(config, key) for key in ("run", "seed", "scale")},
        "parent": config.init,
        "source_hash": source_hash(),
        "commit": commit(),
        "versions": versions(),
        "device": device,
        "threads": config.threads,
        "wall_seconds": round(wall_seconds, 1),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "config": to_dict(config),
    }


def read_record(folder: Path) -> dict:
    """The content of run.json; empty without one."""
    path = folder / "run.json"
    return checked(RunRecord, read_json(path), path) if path.exists() else {}


def weights_file(folder: Path) -> Path:
    """The file that holds the network's weights: BAGEL's keep the name under which they are published."""
    released = folder / "ema.safetensors"
    return released if released.exists() else folder / "model.safetensors"


def configuration(folder: Path) -> tuple[str, dict] | None:
    """(where it stands, resolved configuration), None where the folder has none. Raises UserError without a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run")
    if (config := read_record(folder).get("config")) is not None:
        return f"{folder / 'run.json'}", config
    paths = [folder / name for name in ("training.json", "config.json") if (folder / name).exists()]
    return (f"{paths[0]}", checked(Config, read_json(paths[0]), paths[0])) if paths else None


def needed_configuration(folder: Path) -> tuple[str, dict]:
    """The same. Raises UserError where there is none."""
    found = configuration(folder)
    if found is None:
        raise UserError(f"{folder}: expected a run's configuration in run.json, training.json or config.json")
    return found


@contextmanager
def recorded(path: Path, step: str, made: Callable[[], dict] | None = None) -> Iterator[None]:
    """On leaving, a line ``{"step", "seconds", "cpu_seconds", "max_rss_mb"}`` in ``path``: of this process since its
    start and of those that it waited for. Each of several processes started together adds a line; after a success that
    of the first holds what the step was ``made`` from. Until then the process is ``at_work`` on the step."""
    first = os.environ.get("RANK", "0") == "0"
    if first:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    started, ended = time.monotonic(), {}
    with at_work(path.with_suffix("")):
        try:
            yield
            if first and made is not None:
                with stoppable():  # it has ended, and is to say so
                    ended = {"made": made()}
        finally:
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            line = {
                "step": step,
                "seconds": round(time.monotonic() - started, 2),
                "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in used), 2),
                "max_rss_mb": round(max(u.ru_maxrss for u in used) / MB, 1),
            }
            with path.open("a") as file:
                file.write(json.dumps(line | ended) + "\n")
