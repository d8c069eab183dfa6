"""Fixed linear image codec of the synthetic world: per-patch principal components in the autoencoder's place.

A patch of ``stride`` pixels a side becomes one latent token; its numbers are laid out as a latent image
(C, patch, patch), so that the network sees the same interface as with BAGEL's autoencoder. Linear, hence
differentiable both ways.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unigrpo.models.mot import patchify, unpatchify


class PatchCodec(nn.Module):
    """encode: images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w) of about unit scale; decode: back, clamped."""

    def __init__(self, channels: int, patch: int, downsample: int):
        super().__init__()
        self.channels, self.patch, self.downsample = channels, patch, downsample
        self.stride = patch * downsample  # pixels a token side
        pixels, dim = 3 * self.stride**2, channels * patch**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(pixels, dim))  # orthonormal columns
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, images: np.ndarray) -> float:
        """Principal components of uint8 images (n, H, W, 3); returns the share of variance that they explain. Their
        relative variances become the square roots of what they were."""
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x = patchify(x, self.stride).flatten(0, 1).double()
        self.mean.copy_(x.mean(0))
        variance, vectors = torch.linalg.eigh(torch.cov(x.T))
        keep = torch.arange(variance.numel() - 1, variance.numel() - 1 - self.basis.shape[1], -1)
        std = variance[keep].clamp_min(1e-10).sqrt()
        signs = vectors[:, keep].sum(0).sign()  # eigenvectors are defined up to sign
        self.basis.copy_(vectors[:, keep] * torch.where(signs == 0, 1.0, signs))
        scale = std.sqrt()
        self.scale.copy_(scale * ((std / scale) ** 2).mean().sqrt())
        return float(variance[keep].sum() / variance.sum())

    def encode(self, images: Tensor) -> Tensor:
        rows, cols = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        tokens = (patchify(images, self.stride) - self.mean) @ self.basis / self.scale
        return unpatchify(tokens, self.patch, rows, cols)

    def decode(self, latents: Tensor) -> Tensor:
        rows, cols = latents.shape[-2] // self.patch, latents.shape[-1] // self.patch
        pixels = (patchify(latents, self.patch) * self.scale) @ self.basis.T + self.mean
        return unpatchify(pixels, self.stride, rows, cols).clamp(0, 1)
