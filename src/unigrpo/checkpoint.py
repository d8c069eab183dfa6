"""Checkpoints: safetensors + JSON, written to a temporary name and renamed. Loading one never executes code.

``model.json`` + ``model.safetensors`` + ``tokenizer/`` are a finished model; ``state/step-N/`` is what a killed run
resumes from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unigrpo.backbones.codec import PatchCodec
from unigrpo.backbones.mot import MoT, MoTConfig
from unigrpo.backbones.unified import UnifiedModel
from unigrpo.cli import write_json
from unigrpo.files import read_json
from unigrpo.types import UserError

FORMAT = 1


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors atomically."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
    os.replace(temporary, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises UserError where the file is absent or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected a safetensors file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or truncated, expected a complete safetensors file ({error})") from None


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load ``tensors`` into ``module`` (cast to its dtypes). Raises UserError naming the first name that differs."""
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path}: tensor {name} is missing: a checkpoint of another architecture?")
        if name not in own:
            raise UserError(f"{path}: unexpected tensor {name}: a checkpoint of another architecture?")
        if own[name].shape != tensors[name].shape:
            expected, got = tuple(own[name].shape), tuple(tensors[name].shape)
            raise UserError(f"{path}: tensor {name}: expected shape {expected}, got {got}")
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})


def save_model(model: UnifiedModel, folder: Path, info: dict, half: bool = False) -> None:
    """Write a finished model; ``half`` stores fp16. ``info`` (provenance) goes into model.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save_pretrained(folder / "tokenizer")
    tensors = model.state_dict()
    write_tensors(folder / "model.safetensors", {k: v.half() if half else v for k, v in tensors.items()})
    codec = {
        "channels": model.codec.channels,
        "patch": model.codec.patch,
        "downsample": model.codec.downsample,
    }
    description = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(model.mot.config),
        "codec": codec,
        "image_size": model.image_size,
        **info,
    }
    write_json(folder / "model.json", description)


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> UnifiedModel:
    """Rebuild a model from its folder alone. Raises UserError for absent, damaged or foreign checkpoints."""
    folder = Path(folder)
    path = folder / "model.json"
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise UserError(f"{path}: format: expected {FORMAT}, got {data.get('format')!r}")
    try:
        mot = MoT(MoTConfig(**data["architecture"]))
        codec = PatchCodec(**data["codec"])
        image_size = int(data["image_size"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: incomplete description of the model ({error})") from None
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    model = UnifiedModel(mot, codec, tokenizer, image_size)
    weights = folder / "model.safetensors"
    load_weights(model, read_tensors(weights), weights)
    return model.to(device)


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], data: dict, settings: str) -> None:
    """Write ``state/step-N`` as a whole, then forget older ones. A kill at any moment leaves a complete state.
    ``settings`` is the fingerprint of the configuration that the state belongs to."""
    target = folder / f"step-{step:08d}"
    temporary = folder / f"{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / "state.safetensors")
    (temporary / "state.json").write_text(json.dumps({"settings": settings, **data}))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    for old in folder.iterdir():
        if old != target:
            shutil.rmtree(old)


def load_state(folder: Path, settings: str) -> tuple[int, dict[str, Tensor], dict] | None:
    """The newest complete state, or None: (step, tensors, data). One saved under other ``settings`` does not count."""
    found = sorted(p for p in folder.glob("step-*") if p.suffix != ".tmp") if folder.is_dir() else []
    if not found:
        return None
    path = found[-1]
    return (
        int(path.name.split("-")[1]),
        read_tensors(path / "state.safetensors"),
        read_json(path / "state.json"),
    )


def gather(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything a resumed run needs, as named tensors: modules by name, and the optimiser in parameter order."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, part in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in part.items()}
    return tensors


def restore(tensors: dict[str, Tensor], modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Inverse of :func:`gather`; learning rates stay those of ``optimizer``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, key = name.split("/", 1)
        parts.setdefault(owner, {})[key] = value
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts.get("optimizer", {}).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
