"""CLIP through transformers, as several rewards use it: embeddings of unit length, differentiable in the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from rewards.pixels import clip_input
from rewards.weights import load_model, load_pretrained
from unigrpo import compat

compat.ensure_torchvision()  # transformers imports it

from transformers import AutoTokenizer, CLIPModel, CLIPVisionModelWithProjection  # noqa: E402

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Clip:
    """Both towers and the tokenizer."""

    model: CLIPModel
    tokenizer: object

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D)."""
        return embed(self.model.vision_model, self.model.visual_projection, images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, D); a text longer than the model reads is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        words = {name: words[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        pooled = self.model.text_model(**words).pooler_output
        return normalize(self.model.text_projection(pooled), dim=-1)

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosine (B,) of each image and its text."""
        return (self.embed_images(images) * self.embed_texts(texts)).sum(-1).float()

    @property
    def scale(self) -> Tensor:
        """By which the model was trained to multiply cosines."""
        return self.model.logit_scale.exp().float()


def embed(tower, projection, images: Tensor) -> Tensor:
    """(B, D) of unit length: a CLIP vision tower and its projection on images (B, 3, H, W) in [0, 1]."""
    weight = projection.weight
    pixels = clip_input(images.to(weight.device), tower.config.image_size)
    return normalize(projection(tower(pixel_values=pixels.to(weight.dtype)).pooler_output), dim=-1)


def load(reward: str, weights: str, tokenizer: str, device: str) -> Clip:
    """``weights``: hub id or folder; ``tokenizer`` is the hub id or folder of the tokenizer where that folder has none
    of its own. Raises UserError."""
    model = load_model(reward, CLIPModel, weights, device, dtype=torch.float32)
    own = any((Path(weights) / name).is_file() for name in TOKENIZER_FILES)
    return Clip(model, load_pretrained(reward, AutoTokenizer, weights if own else tokenizer))


def load_vision(reward: str, weights: str, device: str) -> CLIPVisionModelWithProjection:
    """The vision tower of ``weights`` alone, with its projection. Raises UserError."""
    return load_model(reward, CLIPVisionModelWithProjection, weights, device, dtype=torch.float32)
