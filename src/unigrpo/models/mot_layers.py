"""The layers of the Mixture-of-Transformers, and what surrounds them: rotations, times, places, patches.

Shapes: T tokens, D hidden size; a piece has R rows of L tokens, N latent tokens an image. Block layout and routing as
in BAGEL's public code (arXiv 2505.14683), under its parameter names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from unigrpo.core.tensor_files import constant
from unigrpo.models.mot_pieces import Join, Piece
from unigrpo.models.mot_sizes import TIME_FEATURES

if TYPE_CHECKING:
    from unigrpo.models.mot import MoTConfig


FIXED = "~"  # suffix of the understanding expert where it gets no gradient


def part_of(owner: nn.Module, name: str, suffix: str) -> Callable[[Tensor], Tensor]:
    """A module of an expert."""
    if suffix != FIXED:
        return owner._modules[name + suffix]
    module = owner._modules[name]
    return partial(functional_call, module, {key: p.detach() for key, p in module.named_parameters()})


class Rotary(nn.Module):
    """Rotations of a head by position, its two halves paired as in Qwen2."""

    def __init__(self, head_dim: int, theta: float):
        super().__init__()
        frequencies = constant(lambda: 1 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim), head_dim // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (T,) -> what :func:`rotate` takes, (T, 1, head_dim) each, in the dtype of x."""
        angle = positions[:, None, None] * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Queries or keys x (T, heads, head_dim); the sine is negative over the first half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


class Attention(nn.Module):
    """Grouped-query attention with per-expert projections and per-head q/k norms."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        d, self.heads, self.kv_heads = config.hidden_size, config.heads, config.kv_heads
        self.head_dim = d // config.heads
        for suffix in ("", "_moe_gen"):
            kv = self.kv_heads * self.head_dim
            self.add_module("q_proj" + suffix, nn.Linear(d, d))
            self.add_module("k_proj" + suffix, nn.Linear(d, kv))
            self.add_module("v_proj" + suffix, nn.Linear(d, kv))
            self.add_module("o_proj" + suffix, nn.Linear(d, d, bias=False))
            self.add_module("q_norm" + suffix, nn.RMSNorm(self.head_dim, config.rms_norm_eps))
            self.add_module("k_norm" + suffix, nn.RMSNorm(self.head_dim, config.rms_norm_eps))

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor], suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D) -> q (T, heads, hd), k and v (T, kv_heads, hd); q and k normalised and rotated, together, and in
        the precision of v from here on."""
        by_head = (-1, self.head_dim)
        q, k, v = (part_of(self, f"{name}_proj", suffix)(x).unflatten(-1, by_head) for name in "qkv")
        norms = [self._modules[f"{name}_norm{suffix.strip(FIXED)}"] for name in "qk"]
        weight = torch.cat([n.weight.expand(x.shape[1], -1) for n, x in zip(norms, (q, k), strict=True)])
        weight = weight.detach() if suffix == FIXED else weight
        both = F.rms_norm(torch.cat([q, k], 1), by_head[1:], eps=norms[0].eps) * weight
        q, k = rotate(both, *rope).to(v.dtype).split([self.heads, self.kv_heads], 1)
        return q, k, v

    @torch.no_grad()
    def look_back(self, rope_theta: float, strength: float = 3.0, frequencies: int = 5) -> None:
        """Bias the understanding expert's first two heads of the first kv group towards one and two tokens back:
        constant parts of q and k that the fastest rotations bring into phase at that distance."""
        half = self.head_dim // 2
        angle = rope_theta ** (-torch.arange(min(frequencies, half), dtype=torch.float32) / half)
        n, q, k = len(angle), self._modules["q_proj"].bias, self._modules["k_proj"].bias
        k[:n] += strength
        for head in range(min(2, self.heads // self.kv_heads)):
            start = head * self.head_dim
            q[start : start + n] += strength * torch.cos((head + 1) * angle)
            q[start + half : start + half + n] -= strength * torch.sin((head + 1) * angle)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Joint softmax of q (R, heads, L, hd) over k and v (R, kv_heads, keys, hd); mask as :func:`additive` makes it,
        None: all is visible. Returns (R, L, D).

        Query heads that share a key head stand below each other as its queries, so that keys and values are not
        copied once a head."""
        stacked = q.reshape(len(q), self.kv_heads, -1, self.head_dim)
        out = F.scaled_dot_product_attention(stacked, k, v, attn_mask=mask)
        return out.reshape(q.shape).transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Gated MLP with SiLU, as in Qwen2. Not transformers' class: importing that takes every command seconds."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(d, inner, bias=False)
        self.up_proj = nn.Linear(d, inner, bias=False)
        self.down_proj = nn.Linear(inner, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer: each token goes through its expert, and the experts meet in the attention."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.again = False  # whether it is computed again in the backward pass, so that only its inputs are stored
        self.self_attn = Attention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module("mlp" + suffix, MLP(config))
            for name in ("input_layernorm", "post_attention_layernorm"):
                self.add_module(name + suffix, nn.RMSNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, *inputs):
        """What :meth:`compute` returns."""
        if self.again and torch.is_grad_enabled():
            return checkpoint(self.compute, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self.compute(*inputs)

    def compute(self, streams: dict[str, Tensor], ropes: dict, pieces: Sequence[Piece], joins: Sequence[Join]):
        """streams: suffix -> (T, D), the tokens of all pieces one after the other; ropes alike. ``joins`` put the keys
        and values that a piece looks back on before its own. Returns the new streams, and the keys and values
        (R, kv_heads, L, hd) of each piece."""
        attention = self.self_attn
        normed = {s: part_of(self, "input_layernorm", s)(x) for s, x in streams.items()}
        made = {s: attention.project(x, ropes[s], s) for s, x in normed.items()}
        taken, keys, values = dict.fromkeys(streams, 0), [], []
        seen: dict[str, list[Tensor]] = {s: [] for s in streams}
        for piece, join in zip(pieces, joins, strict=True):
            parts = []
            for s, length in piece.lengths:
                span = slice(taken[s], taken[s] + piece.rows * length)
                taken[s] = span.stop
                parts.append([x[span].unflatten(0, (piece.rows, length)).transpose(1, 2) for x in made[s]])
            q, k, v = (torch.cat(p, 2) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
            keys.append(k)
            values.append(v)
            out = attention.attend(q, *join(k, v, keys, values), piece.mask)
            for (s, length), x in zip(piece.lengths, out.split([n for _, n in piece.lengths], 1), strict=True):
                seen[s].append(x.reshape(piece.rows * length, x.shape[-1]))
        after = {}
        for s, x in streams.items():
            x = x + part_of(attention, "o_proj", s)(torch.cat(seen[s]) if len(seen[s]) > 1 else seen[s][0])
            after[s] = x + part_of(self, "mlp", s)(part_of(self, "post_attention_layernorm", s)(x))
        return after, keys, values


class TimeEmbedder(nn.Module):
    """Flow time in [0, 1] (not scaled) -> (B, D): cosines, then sines, of 128 frequencies; two-layer MLP."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    @staticmethod
    def features(t: Tensor) -> Tensor:
        half = TIME_FEATURES // 2
        freq = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angle = t.float()[:, None] * freq
        return torch.cat([angle.cos(), angle.sin()], -1)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(self.features(t).to(self.mlp[0].weight.dtype))


class PositionTable(nn.Module):
    """Fixed 2-D sin/cos table, rows r * size + c; the first half of a row encodes the column, the second the row."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.pos_embed = nn.Parameter(constant(lambda: sincos_table(size, dim), size * size, dim), requires_grad=False)

    def forward(self, position_ids: Tensor) -> Tensor:
        return self.pos_embed[position_ids]


def sincos_table(size: int, dim: int) -> Tensor:
    """(size * size, dim) float32 table, built in float64."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angle = torch.arange(size, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angle.sin(), angle.cos()], 1)  # (size, dim / 2)
    column, row = axis[None].expand(size, -1, -1), axis[:, None].expand(-1, size, -1)
    return torch.cat([column, row], -1).reshape(size * size, dim).float()


def position_ids(rows: int, cols: int, table_size: int, device: torch.device | None = None) -> Tensor:
    """(rows * cols,) ids into the table, anchored at its top-left corner with the table's row stride."""
    row, column = (torch.arange(n, device=device) for n in (rows, cols))
    return (row[:, None] * table_size + column).flatten()


def patchify(latent: Tensor, patch: int) -> Tensor:
    """(B, C, h*p, w*p) -> (B, h*w, p*p*C), tokens row-major, channel fastest inside a token."""
    blocks = latent.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, rows: int, cols: int) -> Tensor:
    """Inverse of :func:`patchify`: (B, rows*cols, p*p*C) -> (B, C, rows*p, cols*p)."""
    blocks = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, cols))  # (B, h, w, p, p, C)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
