"""Tensors on disk: safetensors, each file replaced completely. Loading one never executes code."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unigrpo.core.distributed import like
from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import opened, replacing

COMPLETE = "a complete safetensors file"


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write safetensors, completely or not at all; ``notes`` go into its header."""
    with replacing(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, notes)
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises UserError where the file is absent or damaged."""
    with opened(path, COMPLETE), reading(path, COMPLETE):
        return load_file(path)


def open_tensors(path: Path):
    """A safetensors file whose tensors are read one by one. Raises UserError where it is absent or damaged."""
    with opened(path, COMPLETE), reading(path, COMPLETE):
        return safe_open(path, "pt")


class _Uninitialised(TorchFunctionMode):
    """Functions of ``torch.nn.init`` do nothing: without memory they would only import torch's compiler."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return function(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built inside have no memory: a wrong size is met before any is asked for."""
    with torch.device("meta"), _Uninitialised():
        yield


def constant(make: Callable[[], Tensor], *shape: int) -> Tensor:
    """What ``make`` computes; without memory nothing is computed, and a tensor of that ``shape`` stands for it."""
    return torch.empty(shape) if torch.get_default_device().type == "meta" else make()


def check_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise UserError naming the first of ``tensors`` that is not finite or not of ``module``: name, shape, kind."""
    present = module.state_dict()
    for name in sorted(present.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path}: tensor {name} is missing: a checkpoint of another architecture?")
        if name not in present:
            raise UserError(f"{path}: unexpected tensor {name}: a checkpoint of another architecture?")
        ours, theirs = present[name], tensors[name]
        if ours.shape != theirs.shape:
            raise UserError(f"{path}: tensor {name}: expected shape {tuple(ours.shape)}, got {tuple(theirs.shape)}")
        if ours.is_floating_point() != theirs.is_floating_point():
            raise UserError(f"{path}: tensor {name}: expected {ours.dtype}, got {theirs.dtype}")
        if not theirs.isfinite().all():
            raise UserError(f"{path}: tensor {name}: expected finite numbers, got NaN or infinity")


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load ``tensors`` into ``module`` (cast to its dtypes). Raises UserError naming the first that differs."""
    check_weights(module, tensors, path)
    present = module.state_dict()
    module.load_state_dict({k: like(present[k], v.to(present[k].dtype)) for k, v in tensors.items()})
