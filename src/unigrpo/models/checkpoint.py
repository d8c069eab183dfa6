"""Checkpoints: safetensors + JSON, each file replaced completely. Loading one never executes code.

Its backbone decides what the folder of a finished model contains; every folder has a ``model.json``.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from unigrpo.core.errors import UserError
from unigrpo.core.registry import declarations
from unigrpo.study.config import ModelConfig, RunConfig
from unigrpo.study.facts import BACKBONES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from unigrpo.models.base import UnifiedModel


def backbone_of(folder: Path) -> ModuleType:
    """The backbone whose checkpoint a folder is. Raises UserError where it is nobody's."""
    path = folder / "model.json"
    with declarations():
        holding = [name for name in BACKBONES.names() if BACKBONES.load(name).holds(folder)]
    if holding:
        return BACKBONES.load(holding[0])
    if not path.exists():
        raise UserError(f"{path}: not found, expected the folder of a model")
    raise UserError(f"{path}: backbone: expected one of {', '.join(BACKBONES.names())}")


def new_model(cfg: RunConfig) -> UnifiedModel:
    """A model from scratch, of a backbone that is trained."""
    return BACKBONES.load(cfg.backbone, "backbone").new_model(cfg)


def load_model(
    folder: str | Path, device: torch.device | str = "cpu", expected: ModelConfig | None = None
) -> UnifiedModel:
    """Rebuild a model from its folder alone. Raises UserError for absent, damaged or foreign checkpoints, and for
    another architecture than ``expected``."""
    return backbone_of(Path(folder)).load(Path(folder), device, expected)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer's files into ``folder``. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"{folder}: cannot be written ({error})") from None
