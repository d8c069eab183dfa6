"""The learned reward: P(the image shows what the prompt asks), in [0, 1], differentiable in the pixels.

Image and text towers are open_clip's; because a dual encoder binds attributes and places poorly, a fusion head lets
every word look at every image patch. Trained by ``rewards.train_learned``; plays the role of the paper's RewardDance
model (section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unigrpo import compat
from unigrpo.config import RewardConfig, from_dict
from unigrpo.files import read_json
from unigrpo.types import Prompt, UserError
from unigrpo.world.prompts import vocabulary

compat.ensure_torchvision()  # open_clip imports it

from open_clip.model import CustomTextCLIP  # noqa: E402

PAD, FIRST_WORD = 0, 1
CONTEXT = 24  # words


class LearnedReward(nn.Module):
    """Logit that an image satisfies its prompt: images (B, 3, H, W) in [0, 1], word ids (B, CONTEXT) -> (B,)."""

    def __init__(self, settings: RewardConfig, image_size: int):
        super().__init__()
        width, heads = settings.width, settings.heads
        self.words = {word: i for i, word in enumerate(vocabulary(), FIRST_WORD)}
        self.towers = CustomTextCLIP(
            embed_dim=width,
            vision_cfg={
                "image_size": image_size,
                "patch_size": settings.patch,
                "width": width,
                "layers": settings.layers,
                "head_width": width // heads,
                "mlp_ratio": 2.0,
                "output_tokens": True,
            },
            text_cfg={
                "context_length": CONTEXT,
                "vocab_size": FIRST_WORD + len(self.words),
                "width": width,
                "heads": heads,
                "layers": 1,
                "mlp_ratio": 2.0,
                "no_causal_mask": True,
                "output_tokens": True,
            },
        )
        layer = nn.TransformerDecoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.fusion = nn.TransformerDecoder(layer, settings.fusion_layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, 1)

    def word_ids(self, prompts: Sequence[Prompt]) -> Tensor:
        """(B, CONTEXT) ids, padded. Raises UserError for a word outside the world's vocabulary."""
        ids = torch.full((len(prompts), CONTEXT), PAD)
        for i, prompt in enumerate(prompts):
            words = prompt.text.split()[:CONTEXT]
            unknown = [w for w in words if w not in self.words]
            if unknown:
                raise UserError(f"learned reward: prompt {prompt.text!r}: unknown word {unknown[0]!r}")
            ids[i, : len(words)] = torch.tensor([self.words[w] for w in words])
        return ids

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        _, patches = self.towers.visual((images - 0.5) / 0.25)
        _, text = self.towers.text(ids)
        padding = ids == PAD
        fused = self.fusion(text, patches, tgt_key_padding_mask=padding)
        pooled = fused.masked_fill(padding[..., None], 0).sum(1) / (~padding).sum(1, keepdim=True)
        return self.head(pooled)[:, 0]


def build(path: str | Path, device: str = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    path = Path(path)
    description = read_json(path / "model.json")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    model = LearnedReward(from_dict(RewardConfig, description["settings"], "settings"), description["image_size"])
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path / 'model.safetensors'}: not a checkpoint of this reward ({error})") from None
    model = model.to(device).eval().requires_grad_(False)

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return model(images.to(device), model.word_ids(prompts).to(device)).sigmoid()

    return score


def describe(settings: RewardConfig, image_size: int) -> dict:
    """What model.json holds."""
    return {"settings": asdict(settings), "image_size": image_size}
