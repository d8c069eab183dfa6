"""Trackers (TensorBoard, Weights & Biases, ...) through accelerate: a copy of metrics.jsonl as it grows.

The step is the number of rollouts (or optimiser steps) done, so the validation before the first is step 0. Numbers
are called ``train/proxy`` or ``validation/gold``, ``validation/direct/gold`` where traces were left out on purpose.
"""

import json
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from unigrpo.core.errors import UserError
from unigrpo.core.settings import flat, to_dict
from unigrpo.study.config import RunConfig
from unigrpo.study.resolve import fingerprint, part

NAMES = [kind.value for kind in LoggerType if kind is not LoggerType.ALL]
PROJECT = "unigrpo"
FOLDER = "tracker"  # of a run's folder, for trackers that write files


def options(name: str | None, out: Path) -> dict:
    """Arguments of ``Accelerator`` for the tracker called ``name``, if any. Raises UserError where there is none
    of this name, or its package is not installed."""
    if name is None:
        return {}
    if name not in NAMES:
        raise UserError(f"tracker: expected one of {', '.join(NAMES)}, got {name}")
    if LoggerType(name) not in get_available_trackers():
        raise UserError(f"tracker: {name}: expected an installed package, try: pip install {name.replace('_', '-')}")
    place = ProjectConfiguration(project_dir=str(out), logging_dir=str(out / FOLDER))
    return {"log_with": name, "project_config": place}


def follower(accelerator: Accelerator, cfg: RunConfig, key: str, first: int) -> Callable[[dict], None]:
    """Start the accelerator's trackers, if any; returns what copies a row of metrics.jsonl to them.

    ``key`` counts steps in a row; a run resumes after ``first`` of them, and TensorBoard hides what was logged later.
    All sittings of a run, and what it goes on for, are one run of Weights & Biases.
    """
    config = to_dict(cfg)
    name = f"{cfg.scale}-{cfg.run}-{cfg.seed}"
    same = {"id": f"{name}-{fingerprint(part(config, 'steps'))}", "name": name, "resume": "allow"}
    resumed = {"tensorboard": {"purge_step": first + 1 if first else 0}, "wandb": same}
    accelerator.init_trackers(PROJECT, config=_plain(config), init_kwargs=resumed)

    def follow(row: dict) -> None:
        thinking = {True: "think/", False: "direct/"}.get(row.get("thinking"), "")
        numbers = {k: v for k, v in row.items() if k != key and isinstance(v, int | float) and not isinstance(v, bool)}
        accelerator.log({f"{row['kind']}/{thinking}{k}": v for k, v in numbers.items()}, step=row[key] + 1)

    return follow


def _plain(settings: dict) -> dict:
    """``{"rl.lr_text": ...}``: settings as trackers take them, lists and none as text."""
    kinds = bool | int | float | str
    return {key: v if isinstance(v, kinds) else json.dumps(v) for key, v in flat(settings).items()}
