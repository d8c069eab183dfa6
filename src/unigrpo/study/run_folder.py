"""What a run's folder says of itself: the record and the configuration its weights were trained with. Imports no torch.

``run.json`` holds both; runs of earlier versions have the configuration beside it, in ``training.json`` (what the
training step read) or ``config.json``.
"""

from __future__ import annotations

from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json

PROVENANCE = ("commit", "source_hash", "versions", "device", "threads")


def record(folder: Path) -> dict:
    """The content of run.json; empty without one."""
    path = folder / "run.json"
    return read_json(path) if path.exists() else {}


def weights(folder: Path) -> Path:
    """The file that holds the network's weights: BAGEL's keep the name under which they are published."""
    released = folder / "ema.safetensors"
    return released if released.exists() else folder / "model.safetensors"


def configuration(folder: Path) -> tuple[str, dict] | None:
    """(where it stands, resolved configuration), or None where the folder has none. Raises UserError without the
    folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a run")
    if (config := record(folder).get("config")) is not None:
        return f"{folder / 'run.json'}", config
    paths = [folder / name for name in ("training.json", "config.json") if (folder / name).exists()]
    return (f"{paths[0]}", read_json(paths[0])) if paths else None


def needed_configuration(folder: Path) -> tuple[str, dict]:
    """The same. Raises UserError where there is none."""
    found = configuration(folder)
    if found is None:
        raise UserError(f"{folder}: expected a run's configuration in run.json, training.json or config.json")
    return found


def flat(settings: dict, prefix: str = "") -> dict:
    """``{"rl.lr_text": 3e-4, ...}`` of nested settings."""
    rows = {}
    for name, value in settings.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return rows
