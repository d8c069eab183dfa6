"""Published weights of rewards: read, and loaded by the published names. ``unigrpo.core.weights`` finds them. Also the
head that two published rewards put on an embedding: five linear layers, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.tensor_files import load_weights, read_tensors
from unigrpo.judges.reward import Score

WIDTHS = (1024, 128, 64, 16, 1)  # of the head's layers
NUMBERS = (0, 2, 4, 6, 7)  # of the layers in the published files, where dropout counted too


class Head(nn.Module):
    """(B, width) -> (B,); tensors are called ``layers.0.weight`` and so on, as in the published files. No activation
    stands between the layers, and dropout, which serves training only, is left out."""

    def __init__(self, width: int):
        super().__init__()
        sizes = zip((width, *WIDTHS), WIDTHS, strict=False)
        layers = {str(number): nn.Linear(*size) for number, size in zip(NUMBERS, sizes, strict=True)}
        self.layers = nn.ModuleDict(layers)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers.values():
            features = layer(features)
        return features[:, 0]


@contextmanager
def placed(reward: str) -> Iterator[None]:
    """What goes wrong inside with a reward's weights is said with its name, and where others are given."""
    try:
        yield
    except UserError as error:
        raise UserError(f"reward {reward}: {error} (its options: rl.reward_options)") from None


def read_published(reward: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a published file: safetensors, or what ``torch.save`` wrote, without running any of its code; of
    a training checkpoint its ``state_dict``. Raises UserError where it holds none."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise other kinds
        raise UserError(f"reward {reward}: {path}: not a file of tensors ({weights.sentence(error)})") from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f"reward {reward}: {path}: expected tensors by name, or them as 'state_dict'")
    return tensors


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path, device: str, unused: str = "") -> nn.Module:
    """``module`` with the tensors of a published file, frozen, on ``device``; those whose names match ``unused`` are
    left out. Raises UserError naming a tensor that is missing, unexpected, of another shape, or not finite."""
    wanted = {name: value for name, value in tensors.items() if not (unused and re.fullmatch(unused, name))}
    load_weights(module, wanted, path)
    return module.to(weights.pick_device(device)).eval().requires_grad_(False)


def in_batches(score: Score, size: int) -> Score:
    """``score`` that judges at most ``size`` images at once."""

    def score_all(images, prompts):
        starts = range(0, len(prompts), size)
        return torch.cat([score(images[i : i + size], prompts[i : i + size]) for i in starts])

    return score_all
