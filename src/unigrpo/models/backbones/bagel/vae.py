"""BAGEL's image autoencoder: diffusers' ``AutoencoderKL`` under the names of ``ae.safetensors`` (FLUX.1's).

The file carries no configuration: sizes are read off its tensors; scale and shift of the latents are FLUX.1's where
nothing says otherwise. Pixels are [0, 1] on our side and [-1, 1] inside.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from unigrpo.models.torchvision_compat import ensure_torchvision

ensure_torchvision()  # diffusers imports it through transformers

from diffusers import AutoencoderKL

GROUPS = 32  # of the group norms
RENAMED = (  # diffusers -> ae.safetensors
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"(down|up)_blocks\.(\d+)\.resnets", r"\1.\2.block"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"\1.\2.\3sample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)
POINTWISE = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")  # convolutions there, linear maps here


@dataclass(frozen=True)
class VaeConfig:
    """``widths``: channels of every level, finest first; ``blocks``: residual blocks of a level of the encoder."""

    widths: tuple[int, ...]
    blocks: int
    latent_channels: int
    scale: float = 0.3611  # latent = scale * (z - shift)
    shift: float = 0.1159

    @property
    def downsample(self) -> int:
        """Pixels per latent cell."""
        return 2 ** (len(self.widths) - 1)


def sizes_of(shapes: Mapping[str, tuple[int, ...]]) -> VaeConfig:
    """The sizes behind the shapes of ``ae.safetensors``. Raises KeyError for a tensor that is needed and missing."""
    blocks = [re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight$", name) for name in shapes]
    numbers = [(int(m[1]), int(m[2])) for m in blocks if m]
    levels, deepest = (1 + max((n[k] for n in numbers), default=0) for k in (0, 1))
    widths = tuple(shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels))
    return VaeConfig(widths, deepest, shapes["decoder.conv_in.weight"][1])


def official_name(name: str, levels: int) -> str:
    """A name of diffusers' state dict in the words of ``ae.safetensors``, which counts the decoder's levels from the
    other end."""
    for pattern, words in RENAMED:
        name = re.sub(pattern, words, name)
    return re.sub(r"\bup\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)


class Autoencoder(nn.Module):
    """encode: images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w); decode: back, clamped, differentiable."""

    def __init__(self, config: VaeConfig, patch: int):
        super().__init__()
        self.config, self.patch = config, patch
        self.channels, self.downsample = config.latent_channels, config.downsample
        self.stride = patch * config.downsample  # pixels a token side
        levels = len(config.widths)
        self.kl = AutoencoderKL(
            block_out_channels=config.widths,
            layers_per_block=config.blocks,
            latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=GROUPS,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

        self.kl.enable_slicing()  # one picture at a time: the decoder's activations are large

    def official(self) -> dict[str, Tensor]:
        """Its tensors as ``ae.safetensors`` has them (views)."""
        tensors = {official_name(k, len(self.config.widths)): v for k, v in self.kl.state_dict().items()}
        return {k: v[..., None, None] if POINTWISE.search(k) else v for k, v in tensors.items()}

    def moments(self, images: Tensor) -> Tensor:
        """Mean and log variance (B, 2 C, h, w) of the posterior, before scale and shift."""
        return self.kl.encode(2 * images - 1).latent_dist.parameters

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of the posterior's mean; with standard normal ``noise`` (B, C, h, w) a sample of it."""
        mean, log_variance = self.moments(images).chunk(2, 1)
        z = mean if noise is None else mean + (log_variance / 2).exp() * noise
        return self.config.scale * (z - self.config.shift)

    def pixels(self, latents: Tensor) -> Tensor:
        """Decoded images (B, 3, H, W), about [-1, 1], not clamped."""
        return self.kl.decode(latents / self.config.scale + self.config.shift).sample

    def decode(self, latents: Tensor) -> Tensor:
        return (self.pixels(latents) * 0.5 + 0.5).clamp(0, 1)
