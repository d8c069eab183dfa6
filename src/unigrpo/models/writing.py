"""Text that is written token by token: how a token is chosen, and how seldom the device is asked for anything."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unigrpo.models.base import Trace

PATIENCE = 16  # tokens written before it is asked again whether all texts have ended


def write_text(
    read: Callable[[Tensor, Tensor], Tensor],
    first: Tensor,
    ends: Sequence[int],
    max_tokens: int,
    uniforms: Tensor | None,
    temperature: float,
) -> tuple[Trace, Tensor, Tensor]:
    """Write B texts of up to ``max_tokens`` tokens. ``read`` is given tokens (B,) and which texts they belong to, those
    that have not ended (B,), and returns logits (B, V) of the next ones; ``first`` (B,) are read first.

    temperature > 0 samples from softmax(logits / temperature) by inverting its distribution function at ``uniforms``
    (B, max_tokens) in [0, 1), so that a sample depends on its draws only; 0 takes the arg-max. Returns the tokens after
    ``first``, one of ``ends`` included where it came within ``max_tokens``, with their log-probabilities under that
    softmax (of temperature 1 for the arg-max); the last tokens (B,); and which texts have not ended (B,).
    """
    token, alive = first, torch.ones_like(first, dtype=torch.bool)
    tokens, masks, scores = [], [], []
    for step in range(max_tokens):
        logits = read(token, alive).float()
        logp = (logits / (temperature or 1.0)).log_softmax(-1)
        if temperature > 0:
            cumulative = logp.exp().cumsum(-1)
            draw = uniforms[:, step, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, draw, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
        else:
            token = logits.argmax(-1)
        tokens.append(token)
        masks.append(alive)
        scores.append(logp.gather(-1, token[:, None])[:, 0].masked_fill(~alive, 0.0))
        for end in ends:
            alive = alive & (token != end)
        if step % PATIENCE == PATIENCE - 1 and finished(alive):
            break
    written = Trace(*(torch.stack(columns, 1) for columns in (tokens, masks, scores)))
    return written.select(slice(None)), token, alive


def finished(alive: Tensor) -> bool:
    """Whether all texts have ended: the one question that writing asks of the device. A plan, which has no numbers,
    answers it with no."""
    return not alive.any()
