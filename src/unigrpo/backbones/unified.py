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

from unigrpo.backbones.codec import PatchCodec
from unigrpo.backbones.mot import Context, MoT, patchify, unpatchify
from unigrpo.types import UserError


@dataclass(frozen=True)
class Trace:
    """Reasoning tokens of B episodes: tokens (B, T) int64, mask (B, T) bool of the tokens the policy chose
    (its end token included)."""

    tokens: Tensor
    mask: Tensor

    def select(self, index) -> Trace:
        return Trace(self.tokens[index], self.mask[index])


class UnifiedModel(nn.Module):
    """Text and images from one network; ``mot`` is trained, ``codec`` is fixed."""

    def __init__(self, mot: MoT, codec: PatchCodec, tokenizer: PreTrainedTokenizerFast, image_size: int):
        super().__init__()
        self.mot, self.codec, self.tokenizer, self.image_size = mot, codec, tokenizer, image_size
        side = image_size // codec.stride
        self.grid = (side, side)  # latent tokens

    @property
    def device(self) -> torch.device:
        return self.codec.mean.device

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

    def encode(self, prompt_ids: list[list[int]], trace: Trace | None) -> tuple[Tensor, Context, Tensor]:
        """Prompt pieces, then trace pieces, as one causal text.

        Returns hidden (B, L, D), the context for painting, and starts (B,): the index of the hidden state that
        predicts the first trace token. A trace cut at its length limit gets its end token here, unscored; a row
        whose mask is all False has no trace piece.
        """
        bos, eos = self.mot.config.bos_id, self.mot.config.eos_id
        rows = [torch.tensor(ids) for ids in prompt_ids]
        starts = torch.tensor([len(r) for r in rows], device=self.device)
        if trace is not None:
            tokens, lengths = trace.tokens.cpu(), trace.mask.sum(1).tolist()
            for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
                if n == 0:
                    continue
                written = tokens[i, :n]
                end = [] if written[-1] == eos else [eos]
                rows[i] = torch.cat([row, torch.tensor([bos]), written, torch.tensor(end, dtype=torch.long)])
        ids = pad_sequence(rows, batch_first=True, padding_value=eos).to(self.device)
        lengths = torch.tensor([len(r) for r in rows], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        hidden, context = self.mot.encode_text(ids, mask)
        return hidden, context, starts

    def text_logp(self, hidden: Tensor, starts: Tensor, trace: Trace, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T) in nats of the trace's tokens under softmax(logits / temperature), and their
        entropies (B, T); both fp32, 0 where the mask is False."""
        steps = torch.arange(trace.tokens.shape[1], device=hidden.device)
        at = (starts[:, None] + steps).clamp_max(hidden.shape[1] - 1)
        picked = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logp = (self.mot.logits(picked).float() / temperature).log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        chosen = logp.gather(-1, trace.tokens[..., None])[..., 0]
        return chosen.masked_fill(~trace.mask, 0.0), entropy.masked_fill(~trace.mask, 0.0)

    def think(
        self, prompts: list[list[int]], repeats: int, max_tokens: int, uniforms: Tensor, temperature: float
    ) -> Trace:
        """Write ``repeats`` traces per prompt; the prompt is encoded once. uniforms (P * repeats, max_tokens)."""
        with torch.no_grad():
            _, context, _ = self.encode(prompts, None)
            tokens, mask = self.mot.generate_text(
                context.repeat_interleave(repeats), max_tokens, temperature=temperature, uniforms=uniforms
            )
        return Trace(tokens, mask)

    # -- images --------------------------------------------------------------------------------------------------

    def empty_context(self, batch: int) -> Context:
        """The unconditional branch of guidance."""
        return self.mot.empty_context(batch)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (noise - data) fp32 of latent tokens x (B, N, token_dim) at flow times t (B,)."""
        return self.mot.velocity(context, x, t, self.grid).float()

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> latent tokens (B, N, token_dim)."""
        return patchify(self.codec.encode(images), self.mot.config.latent_patch)

    def decode(self, tokens: Tensor) -> Tensor:
        """Latent tokens (B, N, token_dim) -> images (B, 3, H, W) in [0, 1]; differentiable."""
        return self.codec.decode(unpatchify(tokens, self.mot.config.latent_patch, *self.grid))
