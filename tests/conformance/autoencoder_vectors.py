"""The image autoencoder at tiny size against the official one, under the names of ``ae.safetensors``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from tests.conformance.bagel_vectors import against
from tests.conformance.checking import Case, Check, Settings, read_pair, supported
from unigrpo.core.errors import UserError
from unigrpo.models.backbones.bagel.vae import Autoencoder, sizes_of
from unigrpo.models.mot_layers import unpatchify


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    settings = Settings(info["config"])
    yield Case("bagel_tiny_vae", "autoencoder", lambda: _check(path, info, tensors, settings), settings, ["resolution"])


@torch.no_grad()
def _check(path: Path, info: dict, tensors: dict[str, torch.Tensor], settings: Settings) -> list[Check]:
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(("input.", "expected."))}
    image, packed = tensors["input.image"] / 2 + 0.5, tensors["input.packed_latent"]
    vae = _autoencoder(path, weights, packed.shape[1], settings)
    rows, cols = (n // vae.stride for n in image.shape[-2:])
    latents = unpatchify(packed[None], vae.patch, rows, cols)
    found = {
        "moments": vae.moments(image),
        "latent_mode": vae.encode(image),
        "decoded": vae.pixels(latents),
        "image_uint8": (255 * vae.decode(latents)[0]).permute(1, 2, 0).byte(),
    }
    return [against(info, tensors, name, ours) for name, ours in found.items()]


def _autoencoder(path: Path, weights: dict[str, torch.Tensor], token_dim: int, settings: Settings) -> Autoencoder:
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in weights.items()})
    supported(settings, "config.", in_channels=3, out_ch=3, z_channels=sizes.latent_channels)
    supported(settings, "config.", downsample=sizes.downsample, num_res_blocks=sizes.blocks)
    width = settings.get("ch", sizes.widths[0])
    supported(settings, "config.", ch_mult=[n / width for n in sizes.widths])
    sizes = replace(sizes, scale=settings["scale_factor"], shift=settings["shift_factor"])
    vae = Autoencoder(sizes, round((token_dim / sizes.latent_channels) ** 0.5))
    own = vae.official()
    if own.keys() != weights.keys():
        raise UserError(f"{path}: weights do not fit the autoencoder ({sorted(own.keys() ^ weights.keys())})")
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    return vae
