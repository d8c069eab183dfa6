"""What a killed run resumes from: ``state/state.safetensors``, its modules and its optimiser in one file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from unigrpo.core.distributed import like
from unigrpo.core.errors import UserError
from unigrpo.core.tensor_files import load_weights, read_tensors, write_tensors
from unigrpo.models.sharding import full

STATE = "state.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], data: dict, settings: str) -> None:
    """Write what a run resumes from after ``step`` steps: one file, so that a kill at any moment leaves the old state
    or the new one. ``settings`` is the fingerprint of all that decides the run; ``data`` is JSON."""
    notes = {"step": str(step), "settings": settings, "data": json.dumps(data)}
    write_tensors(folder / STATE, tensors, notes)


def load_state(folder: Path, settings: str) -> tuple[int, dict[str, Tensor], dict] | None:
    """The saved state (step, tensors, data), or None without one or where it was saved under other ``settings``.
    Raises UserError for a damaged one."""
    path = folder / STATE
    if not path.exists():
        return None
    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        notes = file.metadata() or {}
    try:
        written_under, step, data = notes["settings"], int(notes["step"]), json.loads(notes["data"])
    except (KeyError, ValueError):
        raise UserError(f"{path}: damaged, expected a training state with its step, settings and data") from None
    return (step, tensors, data) if written_under == settings else None


def gather(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a resumed run needs, as named tensors: modules by name, and the optimiser in parameter order. Of
    split modules the main process alone gets the tensors, as they are without the split."""
    states = {name: module.state_dict() for name, module in modules.items()}
    tensors = {f"{name}/{key}": full(value) for name, state in states.items() for key, value in state.items()}
    for index, part in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": full(torch.as_tensor(value)) for key, value in part.items()}
    return tensors


def restore(
    tensors: dict[str, Tensor], modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, folder: Path
) -> None:
    """Inverse of :func:`gather`; learning rates stay those of ``optimizer``. Raises UserError for a tensor that is
    missing, damaged or of another training than that of ``modules``; ``folder`` is where they were loaded from."""
    path = folder / STATE
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, key = name.partition("/")
        parts.setdefault(owner, {})[key] = value
    for name, module in modules.items():
        load_weights(module, parts.pop(name, {}), path)
    moments = parts.pop("optimizer", {})
    if parts:
        raise UserError(f"{path}: unexpected tensors of {', '.join(parts)}: a state of another training?")
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        found = {key: moments.pop(f"{index}/{key}") for key in MOMENTS if f"{index}/{key}" in moments}
        if not found:
            continue  # a parameter that never had a gradient
        shapes = [value.shape for value in found.values()]
        if shapes != [torch.Size(), parameter.shape, parameter.shape]:
            raise UserError(f"{path}: optimizer/{index}: expected {', '.join(MOMENTS)} of its parameter's shape")
        state[index] = {key: value if key == "step" else like(parameter, value) for key, value in found.items()}
    if moments:
        raise UserError(f"{path}: unexpected tensor optimizer/{min(moments)}: a state of another training?")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
