"""Published weights: found locally or in the hub, read, and loaded by their own names.

A source is a hub id (``owner/name``), a folder that holds the repository's files, or the file itself. What cannot be
had is one line that says which file it is and how to place it by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from rewards import Score
from unigrpo.checkpoint import load_weights, read_tensors
from unigrpo.types import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def device_for(device: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def fetch_file(reward: str, source: str, name: str) -> Path:
    """The file ``name`` of ``source``, from the hub's cache or the hub where it is not local. Raises UserError."""
    path = Path(source)
    if path.is_file() or (path / name).is_file():
        return path if path.is_file() else path / name
    return _from_hub(reward, source, name, lambda: Path(hf_hub_download(source, name)))


def load_pretrained(reward: str, cls: Any, source: str, **settings) -> Any:
    """``cls.from_pretrained(source)`` of transformers. Raises UserError where ``source`` is not there or not of that
    kind."""
    if Path(source).is_dir():
        try:
            with _quiet():
                return cls.from_pretrained(source, local_files_only=True, **settings)
        except Exception as error:  # the library raises many kinds for one thing: not what was expected
            raise UserError(f"reward {reward}: {source}: cannot be loaded as {cls.__name__} ({_line(error)})") from None
    return _from_hub(reward, source, "the repository", lambda: cls.from_pretrained(source, **settings))


def load_model(reward: str, cls: Any, source: str, device: str, **settings) -> nn.Module:
    """The same of a model, frozen, on ``device``. Raises UserError too where ``source`` lacks some of its tensors,
    which the library would draw at random."""
    model, report = load_pretrained(reward, cls, source, output_loading_info=True, **settings)
    for kind in ("missing_keys", "mismatched_keys"):
        if report.get(kind):
            named = f"{kind.replace('_', ' ')}, the first {min(map(str, report[kind]))}"
            raise UserError(f"reward {reward}: {source}: cannot be loaded as {cls.__name__} ({named})")
    return frozen(model, device)


def _from_hub(reward: str, source: str, name: str, get: Callable[[], Any]) -> Any:
    if not HUB_ID.fullmatch(source):
        raise UserError(f"reward {reward}: {source}: no such file or folder, expected {name} or a hub id (owner/name)")
    try:
        with _quiet():
            return get()
    except Exception as error:  # the hub's client raises many kinds for one thing: it cannot be had
        raise UserError(
            f"reward {reward}: {name} of {source}: not on this machine, and not to be had from the hub"
            f" ({_line(error)}); by hand: download it from https://huggingface.co/{source} into a folder, and give"
            " that folder in place of the hub id in rl.reward_options"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of the libraries: what goes wrong is one line of ours."""
    loggers = (hub_logging, transformers_logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)


def _line(error: Exception) -> str:
    """The first sentence of a message that may have many lines."""
    return " ".join(str(error).split()).split(". ")[0] or type(error).__name__


def read_published(reward: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a published file: safetensors, or what ``torch.save`` wrote, without running any of its code; of
    a training checkpoint its ``state_dict``. Raises UserError where it holds none."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise their own kinds
        raise UserError(f"reward {reward}: {path}: not a file of tensors ({_line(error)})") from None
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise UserError(f"reward {reward}: {path}: expected tensors by name, or them as 'state_dict'")
    return held


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path, device: str, unused: str = "") -> nn.Module:
    """``module`` with the tensors of a published file, frozen, on ``device``; those whose names match ``unused`` are
    left out. Raises UserError naming a tensor that is missing, unexpected, of another shape, or not finite."""
    wanted = {name: value for name, value in tensors.items() if not (unused and re.fullmatch(unused, name))}
    load_weights(module, wanted, path)
    return frozen(module, device)


def frozen(module: nn.Module, device: str) -> nn.Module:
    return module.to(device_for(device)).eval().requires_grad_(False)


def in_batches(score: Score, size: int) -> Score:
    """``score`` that judges at most ``size`` images at once. Raises UserError for a size that is no positive count."""
    if not isinstance(size, int) or size < 1:
        raise UserError(f"batch_size: expected a whole number above 0, got {size!r}")

    def whole(images, prompts):
        starts = range(0, len(prompts), size)
        return torch.cat([score(images[i : i + size], prompts[i : i + size]) for i in starts])

    return whole
