"""Named random streams: a stable hash derives the seed of every draw from its purpose, the same in every process,
on every machine and whatever was drawn before. Nothing touches a global generator."""

from __future__ import annotations

import hashlib
import json
import typing

if typing.TYPE_CHECKING:
    import numpy
    import torch


def stream(seed: int, *names: str | int) -> int:
    """Seed in [0, 2^63) of the stream called ``names`` under ``seed``; ``1`` is not ``"1"``, ``("a", "b")`` not
    ``("ab",)``. Raises TypeError for a name that is neither text nor a whole number."""
    for name in (seed, *names):
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(f"a stream is named by text and whole numbers, got {name!r}")
    digest = hashlib.blake2b(json.dumps([seed, *names]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator at the start of the stream called ``names``."""
    import torch

    return torch.Generator(device=device).manual_seed(stream(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> numpy.random.Generator:
    """A numpy generator at the start of the stream called ``names``."""
    import numpy

    return numpy.random.default_rng(stream(seed, *names))
