"""SigLIP vision transformer as BAGEL uses it: patches of pictures of any size in, tokens out.

The layers are transformers' SigLIP layers. Around them three things differ from its model: the patch embedding is a
linear map of flattened patches (row, column, colour fastest), positions are ids into a square table anchored at its
top-left corner and never interpolated, and there is no pooling head. Parameter names are those of the published
checkpoint below ``vit_model.vision_model``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unigrpo.models.torchvision_compat import ensure_torchvision

ensure_torchvision()  # transformers imports it with its models

from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

COLOURS = 3


@dataclass(frozen=True)
class VitConfig:
    """Sizes; ``side`` is that of the position table, in patches."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    patch: int
    side: int
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"


class VisionTransformer(nn.Module):
    """Pre-norm transformer with full attention inside a picture, and a norm at its end."""

    def __init__(self, config: VitConfig):
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            layer_norm_eps=config.layer_norm_eps,
            hidden_act=config.hidden_act,
            attn_implementation="sdpa",
        )
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": nn.Linear(COLOURS * config.patch**2, width),
                "position_embedding": nn.Embedding(config.side**2, width),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(SiglipEncoderLayer(siglip) for _ in range(config.layers))}
        )
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, places: Tensor) -> Tensor:
        """Flattened patches (B, N, 3 * patch^2) at ``places`` (N,) of the position table -> (B, N, width)."""
        x = self.embeddings["patch_embedding"](patches) + self.embeddings["position_embedding"](places)
        for layer in self.encoder["layers"]:
            x = layer(x, None)
        return self.post_layernorm(x)


class Connector(nn.Module):
    """Two-layer MLP from the transformer's width to the decoder's."""

    def __init__(self, width: int, hidden_size: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.nn.functional.gelu(self.fc1(x), approximate="tanh"))
