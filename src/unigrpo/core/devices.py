"""Which device a model of an evaluation or reward runs on."""

from __future__ import annotations

import torch

from unigrpo.core.errors import UserError


def pick(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises UserError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected auto, cpu, cuda or cuda:<number>, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {name!r} was asked for, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
