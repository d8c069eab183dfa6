"""Small checkpoints with random weights in the layouts of published ones, made by the libraries' own classes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from unigrpo.core.records import Prompt
from unigrpo.models import torchvision_compat

torchvision_compat.ensure_torchvision()

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["a", "photo", "of", "red", "cat", "dog", "two"]
PROMPTS = [Prompt(f"p/{i}", text, "x", {}) for i, text in enumerate(("a red cat", "two dogs", "a photo of a dog"))]


def images(n: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth random pictures (n, 3, side, side) in [0, 1], of values that an image file can hold; by default of the
    size that the models here see, so that nothing is resized."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(side))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").mul(255).round() / 255


def clip_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer with single letters for words."""
    from transformers import CLIPTokenizer

    units = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={unit: i for i, unit in enumerate(units)}, merges=[]).save_pretrained(folder)


def clip(folder: Path, side: int = 32) -> Path:
    """A CLIP of transformers with its processor, whose embeddings are far enough apart to be told from another's."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "max_position_embeddings": 48}
    config = CLIPConfig(
        text_config=small | ids, vision_config=small | {"image_size": side, "patch_size": 8}, projection_dim=12
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CLIPModel(config)
        for p in model.parameters():
            p.data += 0.3 * torch.randn(p.shape)
        model.logit_scale.data.fill_(1.5)
    model.save_pretrained(folder)
    clip_tokenizer(folder)
    size = {"shortest_edge": side}
    CLIPImageProcessor(size=size, crop_size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def head(width: int) -> dict[str, torch.Tensor]:
    """The published head's tensors, by their names there."""
    sizes = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for number, shape in sizes.items():
        tensors[f"layers.{number}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        tensors[f"layers.{number}.bias"] = torch.randn(shape[0], generator=generator) / 4
    return tensors


def apply_head(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for number in (0, 2, 4, 6, 7):
        x = x @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
    return x[:, 0]


def open_clip_architecture(folder: Path, name: str) -> None:
    """A small model that open_clip knows by ``name``."""
    import open_clip

    sizes = {"width": 32, "layers": 1}
    card = {
        "embed_dim": 16,
        "vision_cfg": sizes | {"image_size": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": sizes | {"context_length": 77, "vocab_size": 49408, "heads": 2},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(card))
    open_clip.add_model_config(path)
