"""CLIP through transformers, as several rewards use it: embeddings of unit length, differentiable in the pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rewards._support.pixels import clip_input
from rewards._support.published_weights import placed
from unigrpo.core import weights
from unigrpo.models import torchvision_compat

torchvision_compat.ensure_torchvision()  # transformers imports it

from transformers import CLIPModel  # noqa: E402

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Clip:
    """Both towers, and the tokenizer where texts are read."""

    model: CLIPModel
    tokenizer: Callable | None = None

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D)."""
        pixels = clip_input(images.to(self.model.device), self.model.config.vision_config.image_size)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosine (B,) of each image and its text; a text longer than the model reads is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        words = {name: words[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        read = normalize(self.model.text_projection(self.model.text_model(**words).pooler_output), dim=-1)  # (B, D)
        return (self.embed_images(images) * read).sum(-1)

    @property
    def scale(self) -> Tensor:
        """By which the model was trained to multiply cosines."""
        return self.model.logit_scale.exp()


def load(reward: str, source: str, device: str, tokenizer: str | None = None) -> Clip:
    """``source``: hub id or folder; ``tokenizer``: the same of the tokenizer, where ``source`` is a folder without one.
    Raises UserError."""
    complete = any((Path(source) / name).is_file() for name in TOKENIZER_FILES)
    with placed(reward):
        model = weights.load_model(CLIPModel, weights.folder(source), "a CLIP", dtype=torch.float32)
        words = None if tokenizer is None else weights.tokenizer(source if complete else tokenizer)
        return Clip(model.to(weights.pick_device(device)), words)
