"""The network of the learned reward, and its folder: model.json and model.safetensors.

Image and text towers are open_clip's; because a dual encoder binds attributes and places poorly, a fusion head lets
every word look at every image patch (a patch is a cell of the world). Two more heads serve training only: whether the
fact that a word states holds, and what stands in each cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rewards._support.declarations import MOST_WORDS as CONTEXT
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_json, write_json
from unigrpo.core.records import Prompt
from unigrpo.core.settings import from_dict, require, to_dict
from unigrpo.core.tensor_files import load_weights, read_tensors, shapes_only, write_tensors
from unigrpo.core.weights import pick_device
from unigrpo.models import torchvision_compat
from unigrpo.study.config import RewardConfig
from unigrpo.world.prompts import vocabulary
from unigrpo.world.scenes import CLASSES, COLORS, GRID

torchvision_compat.ensure_torchvision()  # open_clip imports it

from open_clip.model import CustomTextCLIP  # noqa: E402

PAD, FIRST_WORD = 0, 1


@dataclass(frozen=True)
class Card:
    """What model.json holds: sizes, and the side of the images in pixels."""

    settings: RewardConfig
    image_size: int

    def __post_init__(self):
        require(self.image_size > 0 and self.image_size % GRID == 0, "image_size", f"a multiple of {GRID}")


class LearnedReward(nn.Module):
    """Logit that an image satisfies its prompt: images (B, 3, H, W) in [0, 1], word ids (B, CONTEXT) -> (B,)."""

    def __init__(self, settings: RewardConfig, image_size: int):
        super().__init__()
        self.card = Card(settings, image_size)
        width, heads = settings.width, settings.heads
        self.words = {word: i for i, word in enumerate(vocabulary(), FIRST_WORD)}
        both = {"width": width, "mlp_ratio": 2.0, "output_tokens": True}
        vision = {"image_size": image_size, "patch_size": image_size // GRID, "layers": settings.layers}
        text = {"context_length": CONTEXT, "vocab_size": FIRST_WORD + len(self.words), "layers": 1}
        self.towers = CustomTextCLIP(
            embed_dim=width,
            vision_cfg=both | vision | {"head_width": width // heads},
            text_cfg=both | text | {"heads": heads, "no_causal_mask": True},
        )
        layer = nn.TransformerDecoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.fusion = nn.TransformerDecoder(layer, settings.fusion_layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, 1)
        self.fact_head = nn.Linear(width, 1)
        self.cell_head = nn.Linear(width, 1 + len(CLASSES) + len(COLORS))
        # open_clip's small initial embeddings suit large data; here words and places must not drown at first.
        nn.init.normal_(self.towers.text.token_embedding.weight, std=1.0)
        nn.init.normal_(self.towers.text.positional_embedding, std=0.5)
        nn.init.normal_(self.towers.visual.positional_embedding, std=0.5)

    def word_ids(self, prompts: Sequence[Prompt]) -> Tensor:
        """(B, CONTEXT) ids, padded. Raises UserError for a prompt that is empty, too long or not in known words."""
        ids = torch.full((len(prompts), CONTEXT), PAD)
        for i, prompt in enumerate(prompts):
            words = prompt.text.split()
            if not 0 < len(words) <= CONTEXT:
                raise UserError(f"learned reward: prompt {prompt.text!r}: expected 1 to {CONTEXT} words")
            if unknown := [w for w in words if w not in self.words]:
                raise UserError(f"learned reward: prompt {prompt.text!r}: unknown word {unknown[0]!r}")
            ids[i, : len(words)] = torch.tensor([self.words[w] for w in words])
        return ids

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        return self.heads(images, ids)[0]

    def heads(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the verdict (B,), of each word's fact (B, CONTEXT), and per cell (B, 9, 1 + classes +
        colours): nothing or which class, then which colour."""
        _, patches = self.towers.visual((images - 0.5) / 0.25)
        _, text = self.towers.text(ids)
        padding = ids == PAD
        fused = self.fusion(text, patches, tgt_key_padding_mask=padding)
        pooled = fused.masked_fill(padding[..., None], 0).sum(1) / (~padding).sum(1, keepdim=True)
        return self.head(pooled)[:, 0], self.fact_head(fused)[..., 0], self.cell_head(patches)


def skeleton(settings: RewardConfig, image_size: int):
    """The reward without numbers, for plans."""
    with shapes_only():
        model = LearnedReward(settings, image_size).eval().requires_grad_(False)
    return model, lambda images, prompts: model(images, model.word_ids(prompts)).sigmoid()


def load(path: str | Path, device: str = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    path, device = Path(path), pick_device(device)
    names = Card.__dataclass_fields__
    data = read_json(path / "model.json", *names)
    with error_prefix(path / "model.json"):
        card = from_dict(Card, {name: data[name] for name in names})
    model = LearnedReward(card.settings, card.image_size)
    weights = path / "model.safetensors"
    load_weights(model, read_tensors(weights), weights)
    model, side = model.to(device).eval().requires_grad_(False), card.image_size

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if images.shape[1:] != (3, side, side):
            raise UserError(f"reward {path}: expected images (n, 3, {side}, {side}), got {tuple(images.shape)}")
        return model(images.to(device), model.word_ids(prompts).to(device)).sigmoid()

    return score


def save(model: LearnedReward, folder: Path) -> None:
    """Write ``model`` into ``folder``, for :func:`load`."""
    half = model.card.settings.half
    tensors = {name: tensor.half() if half else tensor for name, tensor in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "model.json", to_dict(model.card))
