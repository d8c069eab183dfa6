"""Device, precision and threads of a process, through accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from unigrpo.config import RunConfig
from unigrpo.types import UserError


def accelerate_for(cfg: RunConfig, **options) -> Accelerator:
    """The accelerator of a run: ``device: auto`` is CUDA where there is one. Fixes the thread count, because the
    order of floating-point sums depends on it. ``options`` are further ones of ``Accelerator``."""
    torch.set_num_threads(cfg.threads)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but this machine has no CUDA device")
    return Accelerator(cpu=cfg.device == "cpu", mixed_precision=cfg.precision, **options)
