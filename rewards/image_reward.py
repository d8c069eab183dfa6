"""ImageReward (Xu et al., arXiv 2304.05977): BLIP reads the prompt with the image before it, a head rates what it read.

Rebuilt around the published file: the image encoder is timm's ViT and the text encoder transformers' BLIP text model,
both of which call their tensors as the file does. Sizes are read off the tensors and off ``med_config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from rewards.heads import Head
from rewards.pixels import clip_input
from rewards.weights import fill, in_batches, placed, read_published
from unigrpo.core import torchvision_compat
from unigrpo.core import weights as published
from unigrpo.core.devices import pick
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json

torchvision_compat.ensure_torchvision()  # timm and transformers import it

from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from transformers import BlipTextConfig  # noqa: E402
from transformers.models.blip.modeling_blip_text import BlipTextModel  # noqa: E402

WHAT = "ImageReward v1.0: BLIP and a head, trained on human rankings"
WEIGHTS = "THUDM/ImageReward"
LICENCE = "Apache-2.0"
RANGE = (-float("inf"), float("inf"))  # standardised on the training data; images score about -2 to 2
INPUT_SIZE = 224
DIFFERENTIABLE = True

FILE, TEXT_CONFIG = "ImageReward.pt", "med_config.json"
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's raw scores, published with it
MAX_TOKENS = 35
HEAD_SIZE = 64  # of the image encoder's attention
UNUSED = r"blip\.(vision_proj|text_proj)\..*|blip\.text_encoder\.embeddings\.position_ids"  # of BLIP's pretraining


@dataclass(frozen=True)
class VisionSizes:
    side: int  # pixels
    patch: int  # pixels
    width: int
    depth: int


def vision_sizes(tensors: dict[str, Tensor], path: Path) -> VisionSizes:
    """Of the image encoder in ``tensors``. Raises UserError where a tensor that tells is missing."""
    prefix = "blip.visual_encoder."
    try:
        width, _, patch, _ = tensors[f"{prefix}patch_embed.proj.weight"].shape
        positions = tensors[f"{prefix}pos_embed"].shape[1] - 1
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: expected the tensors of ImageReward ({error})") from None
    blocks = {name.split(".")[3] for name in tensors if name.startswith(f"{prefix}blocks.")}
    return VisionSizes(round(positions**0.5) * patch, patch, width, len(blocks))


class Blip(nn.Module):
    """The two encoders of BLIP that score an image by a prompt."""

    def __init__(self, vision: VisionSizes, text: BlipTextConfig):
        super().__init__()
        self.visual_encoder = VisionTransformer(
            img_size=vision.side,
            patch_size=vision.patch,
            embed_dim=vision.width,
            depth=vision.depth,
            num_heads=vision.width // HEAD_SIZE,
            num_classes=0,
            global_pool="",
        )
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)


class ImageReward(nn.Module):
    """Tensors are called as in the published file."""

    def __init__(self, vision: VisionSizes, text: BlipTextConfig):
        super().__init__()
        self.blip = Blip(vision, text)
        self.mlp = Head(text.hidden_size)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores (B,) of pixels (B, 3, side, side), normalised, by token ids and their mask (B, T)."""
        seen = self.blip.visual_encoder.forward_features(pixels)
        read = self.blip.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen)
        return (self.mlp(read.last_hidden_state[:, 0]) - MEAN) / STD


def text_config(path: Path, encoder_width: int) -> BlipTextConfig:
    """Of transformers, from BERT's in ``med_config.json``. Raises UserError naming a key that it lacks."""
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings"
    names = (*names.split(), "layer_norm_eps", "hidden_act")
    card = read_json(path, *names)
    return BlipTextConfig(
        **{name: card[name] for name in names}, encoder_hidden_size=encoder_width, is_decoder=True, use_cache=False
    )


def build(
    weights: str = WEIGHTS,
    config: str | None = None,
    tokenizer: str = TOKENIZER,
    batch_size: int = 64,
    device: str = "auto",
):
    """``weights``: the published file, a folder with it, or a hub id; ``config``: the same for ``med_config.json``,
    beside the weights where it is not given; ``tokenizer``: hub id or folder of BERT's. Raises UserError."""
    with placed("image_reward"):
        path = published.file(weights, FILE)
        beside = str(path.parent) if config is None and Path(weights).exists() else weights
        card = published.file(beside if config is None else config, TEXT_CONFIG)
        words = published.tokenizer(tokenizer)
    tensors = read_published("image_reward", path)
    vision = vision_sizes(tensors, path)
    model = fill(ImageReward(vision, text_config(card, vision.width)), tensors, path, device, UNUSED)
    place = pick(device)

    def score(images, prompts):
        texts = [p.text for p in prompts]
        read = words(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids, mask = (read[name].to(place) for name in ("input_ids", "attention_mask"))
        return model(clip_input(images.to(place), vision.side), ids, mask)

    return in_batches(score, batch_size)
