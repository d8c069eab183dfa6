"""Rewards: one file each. A reward is a callable ``(images (B, 3, H, W) float in [0, 1], prompts) -> (B,) float32``.

``load("name", ...)`` finds ``rewards/name.py`` and calls its ``build(**options)``. Scores must be finite: ``checked``
raises with the sample's number and prompt otherwise. A file whose score has a gradient with respect to the images says
``DIFFERENTIABLE = True``; methods that need one (ReFL) refuse the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.types import Prompt, UserError


@dataclass(frozen=True)
class Reward:
    """A reward by name; ``differentiable`` where its file says so."""

    name: str
    score: Callable[[Tensor, Sequence[Prompt]], Tensor]
    differentiable: bool

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return checked(self.score(images, prompts), prompts, self.name)


def load(name: str, **options) -> Reward:
    """The reward called ``name``. Raises UserError where no file is a reward of that name or it needs other options."""
    source(name)
    module = importlib.import_module(f"rewards.{name}")
    try:
        inspect.signature(module.build).bind(**options)
    except TypeError as error:
        raise UserError(f"reward {name}: build() called with {options or 'no options'}: {error}") from None
    return Reward(name, module.build(**options), getattr(module, "DIFFERENTIABLE", False))


def source(name: str) -> Path:
    """The file of the reward called ``name``. Raises UserError where no file is a reward of that name."""
    found = importlib.util.find_spec(f"rewards.{name}") if name.isidentifier() else None
    if found is None or not hasattr(importlib.import_module(f"rewards.{name}"), "build"):
        raise UserError(f"reward {name!r}: expected the name of a file in rewards/ that has a function `build`")
    return Path(found.origin)


def checked(scores: Tensor, prompts: Sequence[Prompt], name: str) -> Tensor:
    """``scores`` as they are. Raises UserError for a wrong shape or a score that is not finite."""
    kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UserError(f"reward {name}: expected a tensor of scores, got {kind}")
    shape = tuple(scores.shape)
    if shape != (len(prompts),):
        raise UserError(f"reward {name}: expected one score for each of {len(prompts)} samples, got shape {shape}")
    bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if bad:
        prompt = prompts[bad[0]]
        value = scores[bad[0]].item()
        raise UserError(
            f"reward {name}: sample {bad[0]} ({prompt.id}, {prompt.text!r}): expected a finite score, got {value}"
        )
    return scores
