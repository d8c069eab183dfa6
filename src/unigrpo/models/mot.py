"""Mixture-of-Transformers decoder of BAGEL, at any size.

Every layer holds two complete experts: the understanding expert (text, special tokens) and the generation expert
(``_moe_gen``: noisy latent tokens). Routing is by token kind; the experts meet only in one joint softmax attention.
Parameter names are those of BAGEL's files.

Tokens are read in pieces, each after the cached keys and values of what it looks back on; several pieces, of a prompt,
its traces and their noisy images, go through the layers in one pass.

Shapes: B samples, T text tokens (right-padded), C cached tokens, N latent tokens, D hidden size. Times are flow times
in [0, 1] (1 = noise). Source: BAGEL (arXiv 2505.14683); block layout and routing as in its public code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrpo.models.base import Trace
from unigrpo.models.mot_layers import FIXED, Layer, PositionTable, Rotary, TimeEmbedder, part_of, position_ids
from unigrpo.models.mot_pieces import (
    Context,
    Growing,
    Input,
    Output,
    See,
    all_visible,
    joined,
    look_back,
    visible_of,
)
from unigrpo.models.mot_sizes import ADAPTER, expert_of
from unigrpo.models.writing import write_text


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

    # -- initialisation ------------------------------------------------------------------------------------------

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
        groups: dict[str, list[nn.Parameter]] = {"text": [], "image": []}
        named = list(self.named_parameters())
        adapted = any(ADAPTER in name for name, _ in named)
        for name, p in named:
            if (expert := expert_of(name)) is not None and (ADAPTER in name or not adapted):
                groups[expert].append(p)
        return groups

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of each layer for the backward pass, and compute the rest again there."""
        for layer in self.language_model.model.layers:
            layer.again = True

    # -- the decoder ---------------------------------------------------------------------------------------------

    def run(self, inputs: Sequence[Input], growing: Growing | None = None) -> list[Output]:
        """The decoder over all pieces in one pass; ``growing`` takes up the keys and values of a single piece."""
        decoder, groups = self.language_model.model, self.config.heads // self.config.kv_heads
        streams, ropes = {}, {}
        for s in dict.fromkeys(name for piece in inputs for name, _ in piece.streams):
            found = [(x, piece.positions) for piece in inputs for name, x in piece.streams if name == s]
            streams[s] = joined([x.flatten(0, 1) for x, _ in found])
            ropes[s] = self.rotary(streams[s], joined([p.expand(x.shape[:2]).reshape(-1) for x, p in found]))
        pieces = [piece.plan(groups) for piece in inputs]
        keys: list[list[Tensor]] = [[] for _ in inputs]
        values: list[list[Tensor]] = [[] for _ in inputs]
        for i, layer in enumerate(decoder.layers):
            joins = [partial(growing.join, i)] if growing else [partial(look_back, piece.sees, i) for piece in inputs]
            streams, *made = layer(streams, ropes, pieces, joins)
            for kept, each in zip((keys, values), made, strict=True):
                for one, x in zip(kept, each, strict=True):
                    one.append(x)
        hidden = {s: part_of(decoder, "norm", s)(x) for s, x in streams.items()}
        sizes = {s: [piece.rows * n for piece in pieces for name, n in piece.lengths if name == s] for s in hidden}
        parts = {s: iter(x.split(sizes[s])) for s, x in hidden.items()}
        return [
            Output([next(parts[s]).unflatten(0, (p.rows, n)) for s, n in p.lengths], tuple(k), tuple(v))
            for p, k, v in zip(pieces, keys, values, strict=True)
        ]

    def text(self, ids: Tensor, mask: Tensor | None, rope: Tensor, sees: Sequence[See], before: Tensor | None) -> Input:
        """Causal text as a piece: ids, mask (R, T), right-padded, from positions ``rope`` (R,); ``before`` (R, C) the
        visible keys of what it ``sees``."""
        steps = torch.arange(ids.shape[1], device=ids.device)
        visible = (steps[:, None] >= steps)[None]  # (1, T, T)
        if mask is not None:
            visible = visible & mask[:, None]
        if before is not None:
            looked = before[:, None].expand(-1, len(steps), -1)
            visible = torch.cat([looked, visible.expand(len(ids), -1, -1)], -1)
        if mask is not None:
            visible = visible | ~mask[:, :, None]  # rows of padding see everything: no softmax over nothing
        embedded = self.language_model.model.embed_tokens(ids)
        return Input([("", embedded)], rope[:, None] + steps, sees, visible)

    def encode_text(self, ids: Tensor, mask: Tensor | None, context: Context | None = None) -> tuple[Tensor, Context]:
        """Causal text after ``context``. ids, mask (B, T), right-padded; None without padding. Returns hidden
        (B, T, D) and the new context."""
        rope = ids.new_zeros(len(ids)) if context is None else context.rope
        sees, before = ((), None) if context is None else ((See(context),), context.visible)
        (out,) = self.run([self.text(ids, mask, rope, sees, before)])
        (hidden,), after = out.hidden, rope + (ids.shape[1] if mask is None else mask.sum(1))
        if context is None:
            return hidden, Context(out.keys, out.values, mask, after)
        seen = None if mask is None and context.mask is None else torch.cat([before, visible_of(mask, ids)], 1)
        return hidden, context.followed(out, seen, after)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocabulary)."""
        return self.language_model.lm_head(hidden)

    def empty_context(self, batch: int) -> Context:
        """No text at all: the unconditional branch of guidance."""
        c, weight = self.config, self.vae2llm.weight
        kv = weight.new_zeros(batch, c.kv_heads, 0, c.hidden_size // c.heads)
        return Context((kv,) * c.layers, (kv,) * c.layers, None, weight.new_zeros(batch, dtype=torch.long))

    def embed_block(self, x: Tensor, t: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Inputs of an image block: start and end tokens (B, 2, D) and noisy latents (B, N, D) with time and place."""
        words = self.language_model.model.embed_tokens.weight
        ends = torch.stack([words[self.config.start_of_image_id], words[self.config.end_of_image_id]])
        place = self.latent_pos_embed(position_ids(*grid, self.config.max_latent_size, x.device))
        gen = self.vae2llm(x.to(self.vae2llm.weight.dtype)) + self.time_embedder(t)[:, None] + place
        return ends.expand(len(x), -1, -1), gen

    def velocity(self, context: Context, x: Tensor, t: Tensor, grid: tuple[int, int]) -> Tensor:
        """Velocity of noisy latent tokens: x (B, N, token_dim), t (B,) in (0, 1], grid (rows, cols) with N tokens.
        Start and end of the block go through the understanding expert; the block leaves no trace in the context."""
        (out,) = self.run([self.block(x, t, grid, context.rope, (See(context),), context.mask)])
        return self.llm2vae(out.hidden[1])

    def block(
        self,
        x: Tensor,
        t: Tensor,
        grid: tuple[int, int],
        rope: Tensor,
        sees: Sequence[See],
        before: Tensor | None,
        fixed: bool = False,
    ) -> Input:
        """A noisy image block as a piece, as :meth:`velocity` takes it; ``before`` (R, C) the visible keys of what it
        ``sees``, None = all; ``fixed``: the understanding expert gets no gradient."""
        und, gen = self.embed_block(x, t, grid)
        und, expert = (und.detach(), FIXED) if fixed else (und, "")
        visible = None if before is None else F.pad(before, (0, und.shape[1] + gen.shape[1]), value=True)[:, None]
        return Input([(expert, und), ("_moe_gen", gen)], rope[:, None], sees, visible)

    def replay(
        self,
        prompts: tuple[Tensor, Tensor | None],
        which: Tensor,
        pieces: Sequence[tuple[Tensor, Tensor]],
        grid: tuple[int, int],
        branches: Sequence[str],
        through: bool,
        dropped: Tensor | None = None,
    ) -> list[Tensor | dict[str, Tensor]]:
        """B episodes in one pass. prompts: ids and mask (P, T) of different prompts, ``which`` (B,) of them an episode
        has. pieces: texts, ids and mask (B, T), and images, latents (B, S, N, token_dim) and times (B, S). Returns
        hidden (B, T, D) of each text, and velocities (B, S, N, token_dim) by branch of each image, whose gradient
        reaches the texts and the understanding expert where ``through``. Images of ``dropped`` (B,) episodes see no
        text."""
        ids, mask = prompts
        lengths = ids.new_full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1)
        inputs = [self.text(ids, mask, ids.new_zeros(len(ids)), (), None)]
        seen, masks, rope = [See(0, which)], [None if mask is None else mask[which]], lengths[which]
        start, widths, blocks = rope, [ids.shape[1]], []
        for piece in pieces:
            if piece[0].dim() == 2:
                ids, mask = piece
                before = all_visible(masks, widths, which)
                inputs.append(self.text(ids, mask, rope, tuple(seen), before))
                seen, masks = [*seen, See(len(inputs) - 1)], [*masks, mask]
                rope, widths = rope + visible_of(mask, ids).sum(1), [*widths, ids.shape[1]]
            else:
                blocks.append((piece, tuple(seen), tuple(masks), tuple(widths), rope))
        n_texts, words = len(inputs), self.language_model.model.layers[0].self_attn.k_proj
        fixed = not through and torch.is_grad_enabled() and any(p.requires_grad for p in words.parameters())
        for (x, t), sees, key_masks, key_widths, at in blocks:
            rows = torch.arange(len(which), device=which.device).repeat_interleave(t.shape[1])
            for name in branches:
                n = {"full": len(sees), "prompt": 1, "empty": 0}[name]
                place = {"full": at, "prompt": start, "empty": torch.zeros_like(start)}[name]
                before = None
                if dropped is not None or any(mask is not None for mask in key_masks[:n]):
                    before = all_visible(key_masks[:n], key_widths, which)
                if dropped is not None:
                    before, place = before & ~dropped[:, None], place.masked_fill(dropped, 0)
                looks = tuple(see.again(rows, not through) for see in sees[:n])
                masked = None if before is None else before[rows]
                inputs.append(self.block(x.flatten(0, 1), t.flatten(), grid, place[rows], looks, masked, fixed))
        outputs = self.run(inputs)
        hidden = iter([out.hidden[0] for out in outputs[1:n_texts]])
        velocities = iter(outputs[n_texts:])
        return [
            next(hidden)
            if piece[0].dim() == 2
            else {name: self.llm2vae(next(velocities).hidden[1]).unflatten(0, piece[1].shape) for name in branches}
            for piece in pieces
        ]

    @torch.no_grad()
    def generate_text(
        self, context: Context, max_tokens: int, *, temperature: float, uniforms: Tensor | None = None
    ) -> tuple[Trace, Context]:
        """Write one text piece after ``context``, with cached keys and values, as :func:`write_text` does. Returns the
        tokens without the leading bos, and the context after the piece, which has an end token also where the limit cut
        it."""
        growing, eos = Growing(context, max_tokens + 2), self.config.eos_id

        def read(token: Tensor, alive: Tensor) -> Tensor:
            hidden = self.write(growing, token[:, None], alive[:, None])[:, -1]
            return self.language_model.lm_head.forward(hidden)  # without the hooks of a split network

        first = context.rope.new_full((len(context.rope),), self.config.bos_id)
        trace, token, alive = write_text(read, first, (eos,), max_tokens, uniforms, temperature)
        unread = torch.stack([token.masked_fill(~alive, eos), torch.full_like(token, eos)], 1)
        self.write(growing, unread, torch.stack([torch.ones_like(alive), alive], 1))  # one that was cut has two unread
        return trace, growing.context()

    def write(self, growing: Growing, ids: Tensor, present: Tensor) -> Tensor:
        """Read ids (B, L) of which some are ``present`` (B, L) into a growing cache; hidden (B, L, D)."""
        end = growing.length + ids.shape[1]
        growing.mask[:, growing.length : end] = present
        steps = torch.arange(ids.shape[1], device=ids.device)
        visible = growing.mask[:, None, :end]
        if len(steps) > 1:
            visible = visible & (torch.arange(end, device=ids.device) <= growing.length + steps[:, None])
        embedded = self.language_model.model.embed_tokens(ids)
        (out,) = self.run([Input([("", embedded)], growing.rope[:, None] + steps, (), visible)], growing)
        growing.length, growing.rope = end, growing.rope + present.sum(1)
        return out.hidden[0]
