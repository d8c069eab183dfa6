"""Processes, devices, precision and threads of a run, through accelerate; and the model that it starts from."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState

from unigrpo.core.errors import UserError
from unigrpo.models import checkpoint, sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.study.config import RunConfig

PATIENCE = timedelta(hours=3)  # of processes with each other: one saves or reads while the others wait


def join_others(cfg: RunConfig) -> None:
    """Where a run has several processes, meet them; chooses this one's device."""
    if cfg.launched > 1:
        PartialState(cpu=cfg.device == "cpu", timeout=PATIENCE)


def check_launch(cfg: RunConfig) -> None:
    """Raise UserError where another number of processes was started than the configuration asks for."""
    started, asked = int(os.environ.get("WORLD_SIZE", 1)), cfg.launched
    if started != asked:
        how = f"accelerate launch --num_processes {asked}" if asked > 1 else "python"
        raise UserError(
            f"processes: {asked} by the configuration, {started} started; start with {how} -m unigrpo train"
        )


def check_devices(cfg: RunConfig) -> None:
    """Raise UserError where the processes of a run have fewer CUDA devices than they need on this machine."""
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", cfg.launched)), torch.cuda.device_count()
    if cfg.launched > 1 and cfg.device != "cpu" and devices < here:
        raise UserError(f"processes: {here} here need a CUDA device each, there are {devices}; or set device: cpu")


def accelerate_for(cfg: RunConfig, **options) -> Accelerator:
    """The accelerator of a run: ``device: auto`` is CUDA where there is one. Fixes the thread count, because the
    order of floating-point sums depends on it. ``options`` are further ones of ``Accelerator``."""
    torch.set_num_threads(cfg.threads)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but this machine has no CUDA device")
    return Accelerator(cpu=cfg.device == "cpu", mixed_precision=cfg.precision, **options)


def device_memory(cfg: RunConfig) -> int:
    """Bytes of the device of one of the run's processes: of a CUDA device, or its part of the machine's memory."""
    if cfg.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0))).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def start_model(cfg: RunConfig, init: Path, device: torch.device) -> tuple[UnifiedModel, UnifiedModel | None]:
    """The model in the folder ``init``, on ``device``; or split among the run's processes, beside its empty form."""
    if not cfg.sharding:
        return checkpoint.load_model(init, device, cfg.model), None
    return sharding.load(lambda: checkpoint.load_model(init, "cpu", cfg.model), device, cfg.precision == "bf16")
