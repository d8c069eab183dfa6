"""The image autoencoder at tiny size against the official one, under the names of ``ae.safetensors``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from unigrpo.conformance.bagel_file import against
from unigrpo.conformance.core import Case, Check, read_pair
from unigrpo.core.errors import UserError
from unigrpo.models.backbones.bagel.vae import Autoencoder, sizes_of
from unigrpo.models.mot import unpatchify


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    yield Case("bagel_tiny_vae", "autoencoder", lambda: _check(path, info, tensors))


@torch.no_grad()
def _check(path: Path, info: dict, tensors: dict[str, torch.Tensor]) -> list[Check]:
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(("input.", "expected."))}
    image, packed = tensors["input.image"] / 2 + 0.5, tensors["input.packed_latent"]
    vae = _autoencoder(path, weights, packed.shape[1])
    rows, cols = (n // vae.stride for n in image.shape[-2:])
    latents = unpatchify(packed[None], vae.patch, rows, cols)
    found = {
        "moments": vae.moments(image),
        "latent_mode": vae.encode(image),
        "decoded": vae.pixels(latents),
        "image_uint8": (255 * vae.decode(latents)[0]).permute(1, 2, 0).byte(),
    }
    return [against(info, tensors, name, ours) for name, ours in found.items()]


def _autoencoder(path: Path, weights: dict[str, torch.Tensor], token_dim: int) -> Autoencoder:
    sizes = sizes_of({name: tuple(tensor.shape) for name, tensor in weights.items()})
    vae = Autoencoder(sizes, round((token_dim / sizes.latent_channels) ** 0.5))
    own = vae.official()
    if own.keys() != weights.keys():
        raise UserError(f"{path}: weights do not fit the autoencoder ({sorted(own.keys() ^ weights.keys())})")
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    return vae
