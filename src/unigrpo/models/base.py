"""The protocol of every backbone's model, and traces.

The training code sees prompts, traces, contexts, velocities and images; the model sees neither rewards nor
advantages nor losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Trace:
    """Reasoning tokens of B episodes: tokens (B, T) int64, mask (B, T) bool of the tokens the policy chose
    (its end token included), logp (B, T) nats as the sampler computed them (None: not sampled). A segment of part
    ``text``."""

    SHARED = ()
    part = "text"

    tokens: Tensor
    mask: Tensor
    logp: Tensor | None = None

    def select(self, index) -> Trace:
        """These rows, as wide as the longest of them."""
        mask = self.mask[index]
        width = int(mask.any(0).sum())
        rows = (self.tokens[index], mask, None if self.logp is None else self.logp[index])
        return Trace(*(None if x is None else x[:, :width] for x in rows))


@dataclass(frozen=True)
class States:
    """Noisy latents x (B, S, N, token_dim) at flow times t (B, S): S states of each image. ``host_times`` (S,) are the
    times where all images share them."""

    x: Tensor
    t: Tensor
    host_times: tuple[float, ...] | None = None


def padded(rows: Sequence[Sequence[int]], end: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """ids (B, T) of B lists of tokens, with ``end`` to the right of the shorter ones, and mask (B, T) of the tokens."""
    ids = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=end)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(device), mask.to(device)


def chosen_logp(
    logits: Tensor, trace: Trace, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T) in nats of the trace's tokens under softmax(logits / temperature), logits (B, T, V), and
    the entropies (B, T), without gradient unless it is asked for; both fp32, 0 where the mask is False."""
    logp = (logits.float() / temperature).log_softmax(-1)
    whole = logp if entropy_gradient else logp.detach()
    entropy = -(whole.exp() * whole).sum(-1)
    chosen = logp.gather(-1, trace.tokens[..., None])[..., 0]
    return chosen.masked_fill(~trace.mask, 0.0), entropy.masked_fill(~trace.mask, 0.0)


class PaintContext(ABC):
    """What images of B samples are painted after: prompts, and traces where there are some."""

    @abstractmethod
    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """The same with ``fn`` applied to every tensor; all have the batch first."""

    def select(self, index) -> Self:
        """The samples at ``index``."""
        return self.map(lambda x: x[index])


@runtime_checkable
class UnifiedModel(Protocol):
    """The protocol of a backbone's model, which is also an ``nn.Module``: what training and sampling use of it.

    Texts are strings; what the model makes of prompts (``prompt_ids``) and of traces (``hidden``) it alone reads.
    Images are (B, 3, H, W) in [0, 1]; latents are tokens (B, N, token_dim) fp32. Flow times are in [0, 1], 1 = noise.
    """

    image_size: int  # pixels a side
    device: torch.device
    latent_shape: tuple[int, int]  # (N, token_dim): tokens of one image, and numbers per token
    network: nn.Module  # what an average of weights is taken of

    def with_network(self, network: nn.Module) -> Self:
        """The same model with another network."""

    def expert_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by expert: ``text`` = reasoning, ``image`` = denoising."""

    def prompt_ids(self, prompts: list[str]) -> list:
        """B prompts as the model reads them. Raises UserError for an empty prompt or an unknown word."""

    def trace_from_texts(self, texts: list[str | None]) -> Trace:
        """Given traces as tokens, end token included; None is a row without a trace."""

    def trace_texts(self, trace: Trace) -> list[str]:
        """Readable traces, without the end token."""

    def think(
        self, prompt_ids: list, max_tokens: int, uniforms: Tensor | None, temperature: float
    ) -> tuple[Trace, PaintContext]:
        """Write a trace after each of B prompts; uniforms (B, max_tokens) in [0, 1), None at temperature 0, which takes
        the arg-max. Returns also the context, as :meth:`encode` makes it from the same traces."""

    def read_prompts(self, prompt_ids: list, trace: Trace | None = None) -> PaintContext:
        """The context of B prompts alone, as they are read where a ``trace`` follows, or none."""

    def encode(self, prompt_ids: list, trace: Trace | None) -> tuple[Any, PaintContext]:
        """What :meth:`text_logp` needs of the traces (None without), and the context of prompts and traces."""

    def replay(
        self,
        prompt_ids: list,
        pieces: Sequence[Trace | States],
        branches: Sequence[str],
        *,
        through: bool,
        dropped: Tensor | None = None,
    ) -> list[Any]:
        """Evaluate B episodes in one pass: of a trace what :meth:`text_logp` needs, of states the velocities
        (B, S, N, token_dim) fp32 by branch: ``full``, ``empty``, ``prompt``. A piece sees the prompt and the texts
        before it. ``through``: the velocities' gradient reaches the texts and what reads them; without it, the
        denoising expert alone. Images of episodes that are ``dropped`` (B,) see nothing: condition dropout."""

    def row_bytes(self, prompt_ids: list, max_tokens: int) -> tuple[int, int]:
        """Bytes that one row takes while it writes up to ``max_tokens`` tokens after the longest of these prompts, and
        while it is painted after them."""

    def text_logp(
        self, hidden: Any, trace: Trace, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """What :func:`chosen_logp` returns, from the hidden states of :meth:`encode` or :meth:`replay`."""

    def empty_context(self, batch: int) -> PaintContext:
        """The unconditional branch of guidance."""

    def velocity(self, context: PaintContext, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (noise - data) fp32 (B, N, token_dim) of latents x at flow times t (B,)."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Images -> latents."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Latents -> images; differentiable."""

    def weights(self) -> dict[str, Tensor]:
        """The tensors of the file of weights that it saves."""

    def save(self, folder: Path, info: dict, half: bool = False) -> None:
        """Write the model's folder; ``half`` stores 16 bits a number, ``info`` (provenance) goes into model.json."""
