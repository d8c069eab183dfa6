"""Published weights of rewards: read, and loaded by the published names. ``unigrpo.core.weights`` finds them.

Two networks serve several rewards: CLIP through transformers, and a head on an embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from rewards._support.pixels import clip_input
from unigrpo.core import weights
from unigrpo.core.errors import UserError, reading
from unigrpo.core.tensor_files import load_weights, read_tensors
from unigrpo.judges.reward import Score

if TYPE_CHECKING:
    from transformers import CLIPModel

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
NUMBERS = "02467"  # of the head's layers in the published files, where dropout counted too


class Head(nn.Module):
    """(B, width) -> (B,), five linear layers; tensors are called ``layers.0.weight`` and so on, as in the published
    files. No activation stands between the layers, and dropout, which serves training only, is left out."""

    def __init__(self, width: int):
        super().__init__()
        layers = zip(NUMBERS, pairwise((width, 1024, 128, 64, 16, 1)), strict=True)
        self.layers = nn.Sequential(OrderedDict((number, nn.Linear(*sizes)) for number, sizes in layers))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[:, 0]


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
    with reading(f"reward {reward}: {path}", "a file of tensors"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f"reward {reward}: {path}: expected tensors by name, or them as 'state_dict'")
    return tensors


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path, device: str) -> nn.Module:
    """``module`` with the tensors of a published file, frozen, on ``device``. Raises UserError naming a tensor that is
    missing, unexpected, of another shape, or not finite."""
    load_weights(module, tensors, path)
    return module.to(weights.pick_device(device)).eval().requires_grad_(False)


def in_batches(score: Score, size: int, cut: Callable[[Sequence[str]], dict[str, int]] | None = None) -> Score:
    """``score`` that judges at most ``size`` images at once, with its ``cut``, which ``cutting`` makes."""

    def score_all(images, prompts):
        starts = range(0, len(prompts), size)
        return torch.cat([score(images[i : i + size], prompts[i : i + size]) for i in starts])

    if cut is not None:
        score_all.cut = cut
    return score_all


def cutting(reward: str, most: int, tokenizer: Callable, prefix: str = "") -> Callable[[Sequence[str]], dict[str, int]]:
    """The ``cut`` of a reward that reads ``most`` tokens of a tokenizer of transformers, for ``Reward.cut``."""

    def cut(texts):
        ids = tokenizer([prefix + text for text in texts], truncation=True, max_length=most + 1)["input_ids"]
        return {f"{most} tokens that {reward} reads": sum(len(each) > most for each in ids)}

    return cut


class Clip(NamedTuple):
    """CLIP of transformers: both towers, and the tokenizer where texts are read. Embeddings have unit length and are
    differentiable in the pixels."""

    model: CLIPModel
    tokenizer: Callable | None = None

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D)."""
        pixels = clip_input(images.to(self.model.device), self.model.config.vision_config.image_size)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    @property
    def most(self) -> int:
        """Tokens that are read of a text."""
        return self.model.config.text_config.max_position_embeddings

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosine (B,) of each image and its text; a text longer than the model reads is cut."""
        words = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.most, return_tensors="pt")
        words = {name: words[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        read = normalize(self.model.text_projection(self.model.text_model(**words).pooler_output), dim=-1)  # (B, D)
        return (self.embed_images(images) * read).sum(-1)


def load_clip(reward: str, source: str, device: str, tokenizer: str | None = None) -> Clip:
    """``source``: hub id or folder; ``tokenizer``: the same of the tokenizer, where ``source`` is a folder without one.
    Raises UserError."""
    from unigrpo.models import torchvision_compat

    torchvision_compat.ensure_torchvision()  # transformers imports it
    from transformers import CLIPModel

    complete = any((Path(source) / name).is_file() for name in TOKENIZER_FILES)
    with placed(reward):
        model = weights.load_model(CLIPModel, weights.folder(source), "a CLIP", dtype=torch.float32)
        words = None if tokenizer is None else weights.tokenizer(source if complete else tokenizer)
        return Clip(model.to(weights.pick_device(device)), words)
