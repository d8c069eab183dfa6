"""ImageReward (Xu et al., arXiv 2304.05977): BLIP reads the prompt with the image before it, a head rates what it read.

Rebuilt around the published file: the image encoder is timm's ViT and the text encoder transformers' BLIP text model,
both of which call their tensors as the file does. Sizes are read off the tensors and off ``med_config.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.lazy import lazy
from unigrpo.core.settings import Count, Device, Published
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

published = lazy("unigrpo.core.weights")

WEIGHTS = "THUDM/ImageReward"
MAX_TOKENS = 35
FACTS = RewardFacts(
    what="ImageReward v1.0: BLIP and a head, trained on human rankings",
    weights=WEIGHTS,
    licence="Apache-2.0",
    range=(-float("inf"), float("inf")),  # standardised on the training data; images score about -2 to 2
    input_size=224,
    differentiable=True,
    most_tokens=MAX_TOKENS,
)
FILE, TEXT_CONFIG = "ImageReward.pt", "med_config.json"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's raw scores, published with it
HEAD_SIZE = 64  # of the image encoder's attention
UNUSED = r"blip\.(vision_proj|text_proj)\..*|blip\.text_encoder\.embeddings\.position_ids"  # of BLIP's pretraining


@dataclass(frozen=True)
class VisionSizes:
    side: int  # pixels
    patch: int  # pixels
    width: int
    depth: int


def vision_sizes(tensors: dict[str, Tensor], path: Path) -> VisionSizes:
    """Of the image encoder in ``tensors``. Raises UserError where a tensor that it is read from is missing."""
    prefix = "blip.visual_encoder."
    try:
        width, _, patch, _ = tensors[f"{prefix}patch_embed.proj.weight"].shape
        positions = tensors[f"{prefix}pos_embed"].shape[1] - 1
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: expected the tensors of ImageReward ({error})") from None
    blocks = {name.split(".")[3] for name in tensors if name.startswith(f"{prefix}blocks.")}
    return VisionSizes(round(positions**0.5) * patch, patch, width, len(blocks))


def network(vision: VisionSizes, card: Path) -> nn.Module:
    """BLIP's two encoders and the head, with tensors called as in the published file; ``card`` is ``med_config.json``.
    Raises UserError naming a key that it lacks."""
    from unigrpo.models import torchvision_compat

    torchvision_compat.ensure_torchvision()  # timm and transformers import it
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    from rewards._support.published_weights import Head

    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings"
    names = (*names.split(), "layer_norm_eps", "hidden_act")
    values = read_json(card, *names)
    text = BlipTextConfig(
        **{name: values[name] for name in names}, encoder_hidden_size=vision.width, is_decoder=True, use_cache=False
    )
    eyes = VisionTransformer(
        img_size=vision.side,
        patch_size=vision.patch,
        embed_dim=vision.width,
        depth=vision.depth,
        num_heads=vision.width // HEAD_SIZE,
        num_classes=0,
        global_pool="",
    )
    blip = nn.ModuleDict({"visual_encoder": eyes, "text_encoder": BlipTextModel(text, add_pooling_layer=False)})
    return nn.ModuleDict({"blip": blip, "mlp": Head(text.hidden_size)})


def rate(model: nn.Module, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Scores (B,) of pixels (B, 3, side, side), normalised, by token ids and their mask (B, T)."""
    seen = model["blip"]["visual_encoder"].forward_features(pixels)
    read = model["blip"]["text_encoder"](input_ids=ids, attention_mask=mask, encoder_hidden_states=seen)
    return (model["mlp"](read.last_hidden_state[:, 0]) - MEAN) / STD


def build(
    weights: Published = WEIGHTS,
    config: Published | None = None,
    tokenizer: Published = TOKENIZER,
    batch_size: Count = 64,
    device: Device = "auto",
):
    """``weights``: the published file, a folder with it, or a hub id; ``config``: the same for ``med_config.json``,
    beside the weights where it is not given; ``tokenizer``: hub id or folder of BERT's. Raises UserError."""
    from rewards._support.pixels import clip_input
    from rewards._support.published_weights import cutting, fill, in_batches, placed, read_published

    with placed("image_reward"):
        path = published.file(weights, FILE)
        beside = str(path.parent) if config is None and Path(weights).exists() else weights
        card = published.file(beside if config is None else config, TEXT_CONFIG)
        words = published.tokenizer(tokenizer)
    tensors = read_published("image_reward", path)
    vision = vision_sizes(tensors, path)
    used = {name: value for name, value in tensors.items() if not re.fullmatch(UNUSED, name)}
    model = fill(network(vision, card), used, path, device)
    place = published.pick_device(device)

    def score(images, prompts):
        texts = [p.text for p in prompts]
        read = words(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids, mask = (read[name].to(place) for name in ("input_ids", "attention_mask"))
        return rate(model, clip_input(images.to(place), vision.side), ids, mask)

    return in_batches(score, batch_size, cutting("image_reward", MAX_TOKENS, words))
