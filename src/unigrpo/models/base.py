"""One unified model: Mixture-of-Transformers + image codec + tokenizer, behind the backbone protocol.

The training code sees prompts, traces, contexts, velocities and images; the model sees neither rewards nor
advantages nor losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from unigrpo.core.errors import UserError
from unigrpo.models.mot import Context, MoT, patchify, unpatchify


@dataclass(frozen=True)
class Trace:
    """Reasoning tokens of B episodes: tokens (B, T) int64, mask (B, T) bool of the tokens the policy chose
    (its end token included)."""

    tokens: Tensor
    mask: Tensor

    def select(self, index) -> Trace:
        """These rows, as wide as the longest of them."""
        mask = self.mask[index]
        width = int(mask.any(0).sum())
        return Trace(self.tokens[index, :width], mask[:, :width])


def chosen_logp(logits: Tensor, trace: Trace, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) in nats of the trace's tokens under softmax(logits / temperature), logits (B, T, V), and
    the entropies (B, T), without gradient; both fp32, 0 where the mask is False."""
    logp = (logits.float() / temperature).log_softmax(-1)
    entropy = -(logp.detach().exp() * logp.detach()).sum(-1)  # told, not trained
    chosen = logp.gather(-1, trace.tokens[..., None])[..., 0]
    return chosen.masked_fill(~trace.mask, 0.0), entropy.masked_fill(~trace.mask, 0.0)


class UnifiedModel(nn.Module):
    """Text and images from one network; ``mot`` is trained, ``codec`` is fixed: it encodes and decodes images as
    ``codec.PatchCodec`` does."""

    backbone = "world"  # its name in configurations

    def __init__(self, mot: MoT, codec: nn.Module, tokenizer: PreTrainedTokenizerFast, image_size: int):
        super().__init__()
        self.mot, self.codec, self.tokenizer, self.image_size = mot, codec, tokenizer, image_size
        side = image_size // codec.stride
        self.grid = (side, side)  # latent tokens

    @property
    def device(self) -> torch.device:
        return self.mot.vae2llm.weight.device

    @property
    def network(self) -> MoT:
        """What an average of weights is taken of."""
        return self.mot

    def expert_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by expert, ``text`` and ``image``."""
        return self.mot.expert_parameters()

    def with_network(self, mot: MoT) -> UnifiedModel:
        """The same model with another network."""
        return UnifiedModel(mot, self.codec, self.tokenizer, self.image_size)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(tokens, numbers per token) of one image."""
        return self.grid[0] * self.grid[1], self.mot.config.token_dim

    # -- text ----------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """Framed prompt pieces bos + ids + eos. Raises UserError for an empty prompt or an unknown word."""
        config, unknown = self.mot.config, self.tokenizer.unk_token_id
        rows = []
        for text in prompts:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if not ids:
                raise UserError("prompt: expected some words, got an empty text")
            if unknown is not None and unknown in ids:
                words = text.split()
                bad = next((w for w in words if unknown in self.tokenizer.encode(w, add_special_tokens=False)), text)
                raise UserError(f"prompt {text!r}: the word {bad!r} is not in this model's vocabulary")
            rows.append([config.bos_id, *ids, config.eos_id])
        return rows

    def trace_from_texts(self, texts: list[str | None]) -> Trace:
        """Given traces as token tracks, end token included; None is a row without a trace."""
        eos = self.mot.config.eos_id
        rows = [
            torch.tensor(
                [] if t is None else [*self.tokenizer.encode(t, add_special_tokens=False), eos],
                dtype=torch.long,
            )
            for t in texts
        ]
        tokens = pad_sequence(rows, batch_first=True, padding_value=eos)
        lengths = torch.tensor([len(r) for r in rows])
        return Trace(tokens.to(self.device), (torch.arange(tokens.shape[1]) < lengths[:, None]).to(self.device))

    def trace_texts(self, trace: Trace) -> list[str]:
        """Readable traces, without the end token."""
        keep = trace.mask & (trace.tokens != self.mot.config.eos_id)
        return [self.tokenizer.decode(t[m]) for t, m in zip(trace.tokens, keep, strict=True)]

    def encode(self, prompt_ids: list[list[int]], trace: Trace | None) -> tuple[Tensor | None, Context]:
        """Prompt pieces, then trace pieces, as one causal text.

        Returns hidden (B, L, D) of the trace pieces, whose k-th column predicts the k-th token of the trace (None
        without traces), and the context for painting.
        """
        context = self.read_prompts(prompt_ids)
        if trace is None:
            return None, context
        return self.mot.encode_text(*self.trace_pieces(trace), context)

    def read_prompts(self, prompt_ids: list[list[int]]) -> Context:
        """The context of B prompt pieces. Equal prompts, as the episodes of a group have, are read once."""
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(ids), len(numbers)) for ids in prompt_ids]
        eos = self.mot.config.eos_id
        ids = pad_sequence([torch.tensor(p) for p in numbers], batch_first=True, padding_value=eos)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(p) for p in numbers])[:, None]
        _, context = self.mot.encode_text(ids.to(self.device), mask.to(self.device))
        return context.select(torch.tensor(which, device=self.device))

    def trace_pieces(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """ids and mask (B, L), L <= T + 2, of the pieces bos + tokens + eos. A trace cut at its length limit gets its
        end token here, unscored; a row whose mask is all False has no piece."""
        eos, counts = self.mot.config.eos_id, trace.mask.sum(1)
        first = torch.full_like(counts, self.mot.config.bos_id)[:, None]
        ids = torch.cat([first, trace.tokens.masked_fill(~trace.mask, eos), torch.full_like(first, eos)], 1)
        ended = (trace.mask & (trace.tokens == eos)).any(1)
        lengths = torch.where(counts > 0, counts + 2 - ended.long(), 0)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        width = int(lengths.max())
        return ids[:, :width], mask[:, :width]

    def text_logp(self, hidden: Tensor, trace: Trace, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T) in nats of the trace's tokens under softmax(logits / temperature), and their
        entropies (B, T), without gradient; both fp32, 0 where the mask is False. hidden as from :meth:`encode`."""
        return chosen_logp(self.mot.logits(hidden[:, : trace.tokens.shape[1]]), trace, temperature)

    @torch.no_grad()
    def think(
        self, prompt_ids: list[list[int]], max_tokens: int, uniforms: Tensor | None, temperature: float
    ) -> tuple[Trace, Context]:
        """Write a trace after each of B prompts; uniforms (B, max_tokens). Returns also the context for painting, as
        :meth:`encode` makes it from the same traces."""
        tokens, mask, context = self.mot.generate_text(
            self.read_prompts(prompt_ids), max_tokens, temperature=temperature, uniforms=uniforms
        )
        return Trace(tokens, mask), context

    # -- images --------------------------------------------------------------------------------------------------

    def empty_context(self, batch: int) -> Context:
        """The unconditional branch of guidance."""
        return self.mot.empty_context(batch)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (noise - data) fp32 of latent tokens x (B, N, token_dim) at flow times t (B,)."""
        return self.mot.velocity(context, x, t, self.grid).float()

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> latent tokens (B, N, token_dim), in fp32 whatever the network computes in."""
        with torch.autocast(images.device.type, enabled=False):
            return patchify(self.codec.encode(images), self.mot.config.latent_patch)

    def decode(self, tokens: Tensor) -> Tensor:
        """Latent tokens (B, N, token_dim) -> images (B, 3, H, W) in [0, 1], in fp32 like them; differentiable."""
        with torch.autocast(tokens.device.type, enabled=False):
            return self.codec.decode(unpatchify(tokens, self.mot.config.latent_patch, *self.grid))
