"""What a family of vectors yields (cases made of checks), how errors are measured, how vector files are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json


@dataclass(frozen=True)
class Check:
    """One compared quantity. ``error`` and ``tolerance`` share a scale; incomparable pairs have error inf."""

    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Case:
    """One stored case of one feature. ``run`` computes ours and compares it with every stored result, and reads all of
    ``settings`` but the ``notes``, together with the other cases of the same settings."""

    feature: str
    name: str
    run: Callable[[], list[Check]]
    settings: Settings = field(default_factory=dict)
    notes: Collection[str] = ()


class Settings(dict):
    """The configuration of a case, which remembers what of it was read; so do mappings in it."""

    def __init__(self, data: dict):
        super().__init__({key: Settings(value) if isinstance(value, dict) else value for key, value in data.items()})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def unread(self, notes: Collection[str] = (), prefix: str = "") -> list[str]:
        """Keys that no check has used, ``notes`` left out: keys, or ``key.*`` for all below one."""
        found = []
        for key, value in self.items():
            if prefix + key in notes or f"{prefix}*" in notes:
                continue
            if key not in self.read:
                found.append(prefix + key)
            elif isinstance(value, Settings):
                found += value.unread(notes, f"{prefix}{key}.")
        return found


def compare(
    quantity: str,
    ours: Tensor,
    theirs: Tensor,
    tolerance: float,
    relative_to: Literal["element", "largest"] = "element",
    floor: float | Tensor = 1.0,
) -> Check:
    """Largest |ours - theirs| / scale; scale is max(|theirs|, floor) per element, or the largest |theirs|.

    ``theirs`` may have fewer axes or axes of length 1 (a value stored once for a whole batch).
    """
    ours, theirs = ours.detach().double(), theirs.double()
    try:
        theirs = theirs.expand_as(ours)
    except RuntimeError:
        return Check(f"{quantity} (shape {tuple(theirs.shape)}, ours {tuple(ours.shape)})", math.inf, tolerance)
    if not ours.numel():
        return Check(quantity, 0.0, tolerance)
    if relative_to == "element":
        scale = theirs.abs().clamp(min=floor)
    else:
        scale = theirs.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    error = ((ours - theirs).abs() / scale).max().item()
    return Check(quantity, _or_inf(error), tolerance)


def close(quantity: str, ours: Tensor, theirs: Tensor, atol: float, rtol: float) -> Check:
    """|ours - theirs| <= atol + rtol |theirs|; reports the element that comes nearest to its bound."""
    ours, theirs = ours.detach().double().flatten(), theirs.double().flatten()
    if ours.shape != theirs.shape:
        return Check(f"{quantity} ({theirs.numel()} values, ours {ours.numel()})", math.inf, atol)
    error, bound = (ours - theirs).abs(), atol + rtol * theirs.abs()
    worst = (error / bound.clamp(min=torch.finfo(torch.float32).tiny)).argmax()
    return Check(quantity, _or_inf(error[worst].item()), bound[worst].item())


def _or_inf(error: float) -> float:
    return math.inf if math.isnan(error) else error


def same(quantity: str, ours: Any, theirs: Any) -> Check:
    """Equality; the error is 0 or 1."""
    return Check(quantity, float(ours != theirs), 0.0)


def supported(settings: Settings, where: str = "", **values: Any) -> None:
    """Raise UserError where a setting that is stated is not the one value that can be checked."""
    for name, value in values.items():
        if settings.get(name, value) != value:
            raise UserError(f"{where}{name}: expected {value!r}, got {settings[name]!r}")


def read_pair(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """``name.json`` and the ``name.safetensors`` beside it; path may be either. Raises UserError."""
    info = read_json(path.with_suffix(".json"))
    tensor_path = path.with_suffix(".safetensors")
    try:
        return info, load_file(tensor_path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{tensor_path}: expected a safetensors file ({error})") from error


def numbered(tensors: dict[str, Tensor], case: int) -> dict[str, Tensor]:
    """The tensors of one case, stored as ``0012.name``, by plain name."""
    prefix = f"{case:04d}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
