"""Mixture-of-Transformers decoder of BAGEL, at any size.

Every layer holds two complete experts: the understanding expert (text, special tokens) and the generation expert
(``_moe_gen``: noisy latent tokens). Routing is by token kind; the experts meet only in one joint softmax attention.
Positions and masks are explicit, so the two kinds travel as two streams. Parameter names are those of BAGEL's files.

Shapes: B samples, T text tokens (right-padded), C cached tokens, N latent tokens, D hidden size. Times are flow times
in [0, 1] (1 = noise). Source: BAGEL (arXiv 2505.14683); block layout and routing as in its public code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unigrpo.core.tensor_files import constant
from unigrpo.models.base import PaintContext, Trace
from unigrpo.models.mot_sizes import ADAPTER, TIME_FEATURES, expert_of


@dataclass(frozen=True)
class MoTConfig:
    """Architecture. ``*_id`` are the special tokens that frame text pieces and image blocks."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    latent_channels: int
    latent_patch: int
    max_latent_size: int
    bos_id: int
    eos_id: int
    start_of_image_id: int
    end_of_image_id: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6

    @property
    def token_dim(self) -> int:
        """Numbers per latent token: patch x patch x channels."""
        return self.latent_patch**2 * self.latent_channels


@dataclass(frozen=True)
class Context(PaintContext):
    """Cached keys (after norm and rope) and values of the text so far.

    keys, values: per layer (B, kv_heads, C, head_dim); mask (B, C) bool, False = padding; rope (B,) int64, the next
    free position.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    rope: Tensor

    def map(self, fn) -> Context:
        return Context(tuple(map(fn, self.keys)), tuple(map(fn, self.values)), fn(self.mask), fn(self.rope))

    def drop(self, dropped: Tensor) -> Context:
        return Context(self.keys, self.values, self.mask & ~dropped[:, None], self.rope.masked_fill(dropped, 0))


class Rotary(nn.Module):
    """Rotations of a head by position, its two halves paired as in Qwen2."""

    def __init__(self, head_dim: int, theta: float):
        super().__init__()
        frequencies = constant(lambda: 1 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim), head_dim // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (B, L) -> what :func:`rotate` takes, (B, 1, L, head_dim) each, in the dtype of x."""
        angle = positions[:, None, :, None] * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Queries or keys x (B, heads, L, head_dim); the sine is negative over the first half."""
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
        """x (B, L, D) -> q (B, heads, L, hd), k and v (B, kv_heads, L, hd); q and k normalised and rotated."""
        part, by_head = self._modules, (-1, self.head_dim)
        q = part["q_norm" + suffix](part["q_proj" + suffix](x).unflatten(-1, by_head)).transpose(1, 2)
        k = part["k_norm" + suffix](part["k_proj" + suffix](x).unflatten(-1, by_head)).transpose(1, 2)
        v = part["v_proj" + suffix](x).unflatten(-1, by_head).transpose(1, 2)
        return rotate(q, *rope), rotate(k, *rope), v

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

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Joint softmax. mask (B, 1, queries or 1, keys), True = visible. Returns (B, queries, D). Query heads that
        share a key head stand below each other as its queries, so that keys and values are not copied once a head."""
        groups = self.heads // self.kv_heads
        if mask.shape[2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        stacked = q.reshape(len(q), self.kv_heads, groups * q.shape[2], self.head_dim)
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
    """One decoder layer over an understanding stream and a generation stream (either may be absent)."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.again = False  # whether it is computed again in the backward pass, so that only its inputs are stored
        self.self_attn = Attention(config)
        for suffix in ("", "_moe_gen"):
            self.add_module("mlp" + suffix, MLP(config))
            for name in ("input_layernorm", "post_attention_layernorm"):
                self.add_module(name + suffix, nn.RMSNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, streams, ropes, mask, past):
        """streams: list of (suffix, (B, L, D)); ropes alike. Returns the new streams and the keys and values."""
        if self.again and torch.is_grad_enabled():
            inputs = streams, ropes, mask, past
            return checkpoint(self.compute, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self.compute(streams, ropes, mask, past)

    def compute(self, streams, ropes, mask, past):
        normed = [self._modules["input_layernorm" + s](x) for s, x in streams]
        parts = [self.self_attn.project(x, rope, s) for x, rope, (s, _) in zip(normed, ropes, streams, strict=True)]
        q, k, v = (torch.cat(p, 2) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        attended = self.self_attn.attend(q, keys, values, mask)
        out = []
        for (s, x), seen in zip(streams, attended.split([x.shape[1] for _, x in streams], 1), strict=True):
            x = x + self.self_attn._modules["o_proj" + s](seen)
            x = x + self._modules["mlp" + s](self._modules["post_attention_layernorm" + s](x))
            out.append((s, x))
        return out, keys, values


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


def position_ids(rows: int, cols: int, table_size: int) -> Tensor:
    """(rows * cols,) ids into the table, anchored at its top-left corner with the table's row stride."""
    return (torch.arange(rows)[:, None] * table_size + torch.arange(cols)).flatten()


def patchify(latent: Tensor, patch: int) -> Tensor:
    """(B, C, h*p, w*p) -> (B, h*w, p*p*C), tokens row-major, channel fastest inside a token."""
    blocks = latent.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, rows: int, cols: int) -> Tensor:
    """Inverse of :func:`patchify`: (B, rows*cols, p*p*C) -> (B, C, rows*p, cols*p)."""
    blocks = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, cols))  # (B, h, w, p, p, C)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class MoT(nn.Module):
    """The network: text in and out, velocities out."""

    def __init__(self, config: MoTConfig):
        super().__init__()
        self.config = config
        decoder = {
            "embed_tokens": nn.Embedding(config.vocab_size, config.hidden_size),
            "layers": nn.ModuleList(Layer(config) for _ in range(config.layers)),
            "norm": nn.RMSNorm(config.hidden_size, config.rms_norm_eps),
            "norm_moe_gen": nn.RMSNorm(config.hidden_size, config.rms_norm_eps),
        }
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.language_model = nn.ModuleDict({"model": nn.ModuleDict(decoder), "lm_head": head})
        self.vae2llm = nn.Linear(config.token_dim, config.hidden_size)
        self.llm2vae = nn.Linear(config.hidden_size, config.token_dim)
        self.time_embedder = TimeEmbedder(config.hidden_size)
        self.latent_pos_embed = PositionTable(config.max_latent_size, config.hidden_size)
        self.rotary = Rotary(config.hidden_size // config.heads, config.rope_theta)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """From-scratch weights for small models.

        Token embeddings have std 1, and so has the position table, which is drawn anew: neighbouring rows of the
        sin/cos table differ in a few entries only, and the model would distinguish a few tokens a side too late.
        Projections that write into the residual stream start at half the usual size. The generation expert starts as
        a copy. Two understanding heads of the first two layers start by looking back: the attributes of an object are
        in the words before its place, and finding that out took most of a training otherwise.
        """
        for name, p in self.named_parameters():
            if "pos_embed" in name or "norm" in name or "_moe_gen" in name:
                continue
            if p.dim() < 2:
                p.zero_()
            elif "embed_tokens" in name:
                p.normal_(0, 1, generator=generator)
            else:
                gain = 0.5 if "o_proj" in name or "down_proj" in name else 1.0
                p.normal_(0, gain / math.sqrt(p.shape[1]), generator=generator)
        parameters = dict(self.named_parameters())
        for name, p in parameters.items():
            if "_moe_gen" in name:
                p.copy_(parameters[name.replace("_moe_gen", "")])
        self.llm2vae.weight.mul_(0.1)
        self.latent_pos_embed.pos_embed.normal_(0, 1, generator=generator)
        for layer in self.language_model.model.layers[:2]:
            layer.self_attn.look_back(self.config.rope_theta)

    def expert_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by expert: ``text`` = reasoning (understanding), ``image`` = denoising (generation). Of
        a network with adapters these alone."""
        named = dict(self.named_parameters())
        trained = [name for name in named if ADAPTER in name] or named
        return {expert: [named[name] for name in trained if expert_of(name) == expert] for expert in ("text", "image")}

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each layer for the backward pass, and compute the rest again there."""
        for layer in self.language_model.model.layers:
            layer.again = True

    def run(self, streams, positions, mask, context: Context | None):
        """Decoder layers over ``streams`` [(suffix, (B, L, D)), ...]; mask True = visible. Returns the streams after
        their expert's final norm, and all keys and values per layer."""
        decoder, keys, values = self.language_model.model, [], []
        ropes = [self.rotary(x, p) for (_, x), p in zip(streams, positions, strict=True)]
        for i, layer in enumerate(decoder.layers):
            past = None if context is None else (context.keys[i], context.values[i])
            streams, k, v = layer(streams, ropes, mask, past)
            keys.append(k)
            values.append(v)
        return [decoder._modules["norm" + s](x) for s, x in streams], tuple(keys), tuple(values)

    def encode_text(self, ids: Tensor, mask: Tensor, context: Context | None = None) -> tuple[Tensor, Context]:
        """Causal text after ``context``. ids, mask (B, T), right-padded. Returns hidden (B, T, D), new context."""
        b, t = ids.shape
        rope = ids.new_zeros(b) if context is None else context.rope
        steps = torch.arange(t, device=ids.device)
        visible = (steps[:, None] >= steps) & mask[:, None, :]  # (B, T, T)
        if context is not None:
            visible = torch.cat([context.mask[:, None].expand(-1, t, -1), visible], -1)
        visible = visible | ~mask[:, :, None]  # rows of padding see everything: no softmax over nothing
        x = self.language_model.model.embed_tokens(ids)
        (hidden,), keys, values = self.run([("", x)], [rope[:, None] + steps], visible[:, None], context)
        seen = mask if context is None else torch.cat([context.mask, mask], 1)
        return hidden, Context(keys, values, seen, rope + mask.sum(1))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocabulary)."""
        return self.language_model.lm_head(hidden)

    def empty_context(self, batch: int) -> Context:
        """No text at all: the unconditional branch of guidance."""
        c, weight = self.config, self.vae2llm.weight
        kv = weight.new_zeros(batch, c.kv_heads, 0, c.hidden_size // c.heads)
        zeros = torch.zeros(batch, dtype=torch.long, device=weight.device)
        return Context((kv,) * c.layers, (kv,) * c.layers, zeros[:, None][:, :0].bool(), zeros)

    def embed_block(self, x: Tensor, t: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Inputs of an image block: start and end tokens (B, 2, D) and noisy latents (B, N, D) with time and place."""
        ends = torch.tensor([self.config.start_of_image_id, self.config.end_of_image_id], device=x.device)
        und = self.language_model.model.embed_tokens(ends).expand(x.shape[0], -1, -1)
        place = self.latent_pos_embed(position_ids(*grid, self.config.max_latent_size).to(x.device))
        gen = self.vae2llm(x.to(self.vae2llm.weight.dtype)) + self.time_embedder(t)[:, None] + place
        return und, gen

    def read_block(self, context: Context, streams: list[tuple[str, Tensor]]) -> tuple[list[Tensor], Context]:
        """Hidden states of an image block as from :meth:`run`, and the context with the block in it: its keys and
        values in the order of ``streams``, the next free position one further. The block [start, latents, end] shares
        one position and attends to the context and to all of itself."""
        lengths = [x.shape[1] for _, x in streams]
        mask = torch.cat([context.mask, context.mask.new_ones(len(context.rope), sum(lengths))], 1)
        positions = [context.rope[:, None].expand(-1, n) for n in lengths]
        hidden, keys, values = self.run(streams, positions, mask[:, None, None], context)
        return hidden, Context(keys, values, mask, context.rope + 1)

    def velocity(self, context: Context, x: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """Velocity of noisy latent tokens: x (B, N, token_dim), t (B,) in (0, 1], grid (rows, cols) with N tokens.
        Start and end of the block go through the understanding expert; the block leaves no trace in the context."""
        streams = zip(("", "_moe_gen"), self.embed_block(x, t, grid), strict=True)
        (_, latents), _ = self.read_block(context, list(streams))
        return self.llm2vae(latents)

    @torch.no_grad()
    def generate_text(
        self, context: Context, max_tokens: int, *, temperature: float, uniforms: Tensor | None = None
    ) -> tuple[Trace, Context]:
        """Write one text piece after ``context``, token by token with cached keys and values.

        temperature > 0 samples from softmax(logits / temperature) by inverting its distribution function at
        ``uniforms`` (B, max_tokens) in [0, 1), so that a sample depends on its draws only; 0 takes the arg-max.
        Returns the tokens without the leading bos, end token included where it came within ``max_tokens``, and the
        context after the piece, which has an end token also where the limit cut it.
        """
        b, device = context.rope.shape[0], context.rope.device
        token = torch.full((b,), self.config.bos_id, device=device)
        alive = torch.ones(b, dtype=torch.bool, device=device)
        tokens, masks = [], []
        for step in range(max_tokens):
            hidden, context = self.encode_text(token[:, None], alive[:, None], context)
            logits = self.logits(hidden[:, -1]).float()
            if temperature > 0:
                cumulative = (logits / temperature).softmax(-1).cumsum(-1)
                draw = uniforms[:, step, None] * cumulative[:, -1:]
                token = torch.searchsorted(cumulative, draw, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
            else:
                token = logits.argmax(-1)
            tokens.append(token)
            masks.append(alive)
            alive = alive & (token != self.config.eos_id)
            if not alive.any():
                break
        end = torch.full_like(token, self.config.eos_id)
        unread = torch.stack([torch.where(alive, token, end), end], 1)  # a row that was cut has its last token too
        present = torch.stack([torch.ones_like(alive), alive], 1)
        width = 1 + int(alive.any())
        _, context = self.encode_text(unread[:, :width], present[:, :width], context)
        return Trace(torch.stack(tokens, 1), torch.stack(masks, 1)), context
