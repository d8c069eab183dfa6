"""Processes, devices, precision and threads of a run, through accelerate; and the model that it starts from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import nn

from unigrpo.core import distributed
from unigrpo.core.distributed import PATIENCE
from unigrpo.core.errors import UserError
from unigrpo.models import checkpoint, sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.study.config import RunConfig


def started() -> int:
    """How many processes were started for this command."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join_others(cfg: RunConfig) -> None:
    """Where several processes were started, meet them; chooses this one's device."""
    if started() > 1:
        PartialState(cpu=cfg.device == "cpu", timeout=PATIENCE)


def check_launch(cfg: RunConfig) -> None:
    """Raise UserError where another number of processes was started than the configuration asks for."""
    if started() != (asked := cfg.launched):
        how = f"accelerate launch --num_processes {asked}" if asked > 1 else "python"
        raise UserError(
            f"processes: {asked} by the configuration, {started()} started; start with {how} -m unigrpo train"
        )


def check_devices(cfg: RunConfig) -> None:
    """Raise UserError where the processes that were started have fewer CUDA devices than they need on this machine."""
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", started())), torch.cuda.device_count()
    if started() > 1 and cfg.device != "cpu" and devices < here:
        raise UserError(f"processes: {here} here need a CUDA device each, there are {devices}; or set device: cpu")


def accelerate_for(cfg: RunConfig, **options) -> Accelerator:
    """The accelerator of a run: ``device: auto`` is CUDA where there is one. Fixes the thread count, because the
    order of floating-point sums depends on it. ``options`` are further ones of ``Accelerator``."""
    torch.set_num_threads(cfg.threads)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but this machine has no CUDA device")
    return Accelerator(cpu=cfg.device == "cpu", mixed_precision=cfg.precision, **options)


def device_memory(cfg: RunConfig) -> int | None:
    """Bytes of this process's CUDA device; None where it uses none."""
    if cfg.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0))).total_memory


def start_model(cfg: RunConfig, init: Path, device: torch.device) -> tuple[UnifiedModel, UnifiedModel | None]:
    """The model in the folder ``init``, on ``device``; or split among the run's processes, beside its empty form."""
    if not cfg.sharding:
        return checkpoint.load_model(init, device, cfg.model), None
    return sharding.load(lambda: checkpoint.load_model(init, "cpu", cfg.model), device, cfg.precision == "bf16")


@contextmanager
def sampler(cfg: RunConfig, folder: Path) -> Iterator[UnifiedModel]:
    """The model in ``folder``, which samples and does not learn, in each process that was started: on its device, in
    the precision of ``cfg``. Raises UserError."""
    check_devices(cfg)
    join_others(cfg)
    accelerator = accelerate_for(cfg)
    model = checkpoint.load_model(folder, accelerator.device, cfg.model).eval()
    if cfg.precision == "bf16":
        hold(model, torch.bfloat16)
    with accelerator.autocast():
        yield model
    distributed.leave()


def hold(model: UnifiedModel, kind: torch.dtype) -> None:
    """Keep the weights of linear maps of a model that does not learn in ``kind``, as autocast to it would cast them at
    every call; norms, embeddings and the stream between layers stay as they are, as autocast leaves them."""
    experts = {id(p) for parameters in model.expert_parameters().values() for p in parameters}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in experts:
            module.to(kind).requires_grad_(False)
