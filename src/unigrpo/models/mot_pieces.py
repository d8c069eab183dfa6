"""What the Mixture-of-Transformers reads: pieces of tokens, what each looks back on, and the cache that is left.

Shapes: B samples, R rows of a piece of L tokens, C cached tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unigrpo.models.base import PaintContext

# (k, v, keys and values of the pieces so far) -> all keys and values that a piece sees in one layer
Join = Callable[[Tensor, Tensor, list[Tensor], list[Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Piece:
    """Tokens that are read together: ``rows`` of ``lengths`` tokens of each expert (suffix, length), in this order;
    ``mask`` as :func:`additive` makes it, None where each token sees all keys."""

    rows: int
    lengths: tuple[tuple[str, int], ...]
    mask: Tensor | None


def additive(visible: Tensor | None, groups: int, like: Tensor) -> Tensor | None:
    """visible (R, L or 1, keys) bool -> (R, 1, groups * L or 1, keys) for ``Attention.attend``: 0, or minus infinity
    where a key is not visible; once for all layers."""
    if visible is None:
        return None
    kind = torch.get_autocast_dtype(like.device.type) if torch.is_autocast_enabled(like.device.type) else like.dtype
    mask = torch.zeros(visible.shape, dtype=kind, device=like.device).masked_fill(~visible, -torch.inf)[:, None]
    return mask if mask.shape[2] == 1 else mask.repeat(1, 1, groups, 1)


@dataclass(frozen=True)
class Context(PaintContext):
    """Cached keys (after norm and rope) and values of the text so far.

    keys, values: per layer (B, kv_heads, C, head_dim); mask (B, C) bool, False = padding, or None where there is none;
    rope (B,) int64, the next free position.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None
    rope: Tensor

    @property
    def width(self) -> int:
        """C."""
        return self.keys[0].shape[2]

    @property
    def visible(self) -> Tensor:
        """The mask, also where there is no padding."""
        return self.rope.new_ones(len(self.rope), self.width, dtype=torch.bool) if self.mask is None else self.mask

    def map(self, fn) -> Context:
        mask = None if self.mask is None else fn(self.mask)
        return Context(tuple(map(fn, self.keys)), tuple(map(fn, self.values)), mask, fn(self.rope))

    def followed(self, by: Output, mask: Tensor | None, rope: Tensor) -> Context:
        """The context with a piece after it; ``mask`` of both, ``rope`` after both."""
        keys, values = (
            tuple(torch.cat(pair, 2) for pair in zip(old, new, strict=True))
            for old, new in ((self.keys, by.keys), (self.values, by.values))
        )
        return Context(keys, values, mask, rope)

    def select(self, index) -> Context:
        return super().select(index).compact()

    def compact(self) -> Context:
        """The same without the columns that no row has, and without a mask where that leaves no padding. Asks the
        device for their number."""
        if self.mask is None:
            return self
        columns, mask, keys, values = self.mask.any(0).nonzero()[:, 0], self.mask, self.keys, self.values
        if len(columns) < self.width:
            mask = mask[:, columns]
            keys, values = (tuple(x[:, :, columns] for x in kind) for kind in (keys, values))
        return Context(keys, values, None if mask.all() else mask, self.rope)


@dataclass(frozen=True)
class See:
    """What a piece looks back on: ``source``, a context or the number of an earlier piece of the pass; ``rows`` (R,) of
    it, None = all, in order; ``fixed``: without gradient."""

    source: Context | int
    rows: Tensor | None = None
    fixed: bool = False

    def again(self, rows: Tensor, fixed: bool) -> See:
        """The same for these ``rows``."""
        return See(self.source, rows if self.rows is None else self.rows[rows], fixed)

    def of(self, x: Tensor) -> Tensor:
        x = x if self.rows is None else x[self.rows]
        return x.detach() if self.fixed else x


@dataclass(frozen=True)
class Input:
    """A piece before the pass: ``streams`` (suffix, (R, L, D)) in order, the ``positions`` (R, 1 or L) that they share,
    what it ``sees`` first, and which keys are ``visible`` (R, L or 1, keys), None = all."""

    streams: Sequence[tuple[str, Tensor]]
    positions: Tensor
    sees: Sequence[See] = ()
    visible: Tensor | None = None

    def plan(self, groups: int) -> Piece:
        """What a layer needs to know of it."""
        lengths = tuple((s, x.shape[1]) for s, x in self.streams)
        return Piece(len(self.positions), lengths, additive(self.visible, groups, self.streams[0][1]))


@dataclass(frozen=True)
class Output:
    """A piece after the pass: ``hidden`` (R, L, D) of its streams; keys and values (R, kv_heads, L, head_dim) of each
    layer."""

    hidden: list[Tensor]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class Growing:
    """The cache of texts that are being written, with room for ``more`` tokens after ``context``."""

    def __init__(self, context: Context, more: int):
        rows, start = len(context.rope), context.width
        shape = (*context.keys[0].shape[:2], start + more, context.keys[0].shape[3])
        self.keys, self.values = ([x.new_empty(shape) for x in kind] for kind in (context.keys, context.values))
        for room, x in zip((*self.keys, *self.values), (*context.keys, *context.values), strict=True):
            room[:, :, :start] = x
        self.mask = context.rope.new_zeros(rows, start + more, dtype=torch.bool)
        self.mask[:, :start] = context.visible
        self.length, self.rope = start, context.rope

    def join(self, layer: int, k: Tensor, v: Tensor, *_) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with k and v (B, kv_heads, L, hd) at their end."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end], self.values[layer][:, :, self.length : end] = k, v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def context(self) -> Context:
        """What was written."""
        keys, values = (tuple(x[:, :, : self.length] for x in kind) for kind in (self.keys, self.values))
        return Context(keys, values, self.mask[:, : self.length], self.rope).compact()


def joined(parts: list[Tensor]) -> Tensor:
    """Tensors one after the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def look_back(sees: Sequence[See], layer: int, k: Tensor, v: Tensor, keys: list[Tensor], values: list[Tensor]):
    """All keys and values that a piece sees in a layer: what it looks back on, then its own k and v. ``keys`` and
    ``values`` are those of the pieces so far."""
    if not sees:
        return k, v
    both = []
    for own, earlier, name in ((k, keys, "keys"), (v, values, "values")):
        found = [earlier[s.source] if isinstance(s.source, int) else getattr(s.source, name)[layer] for s in sees]
        both.append(torch.cat([*(see.of(x) for see, x in zip(sees, found, strict=True)), own], 2))
    return tuple(both)


def visible_of(mask: Tensor | None, ids: Tensor) -> Tensor:
    """The mask (R, T) of a text, also where it has no padding."""
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask


def all_visible(masks: Sequence[Tensor | None], widths: Sequence[int], like: Tensor) -> Tensor:
    """The keys (R, C) of several sources one after the other; a mask of None has no padding."""
    pairs = zip(masks, widths, strict=False)
    return torch.cat([like.new_ones(len(like), n, dtype=torch.bool) if m is None else m for m, n in pairs], 1)
