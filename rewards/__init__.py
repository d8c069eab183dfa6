"""Rewards: one file each. A reward is a callable ``(images (B, 3, H, W) float in [0, 1], prompts) -> (B,) float32``.

``load("name", ...)`` finds ``rewards/name.py`` and calls its ``build(**options)``. Scores must be finite: ``checked``
raises with the sample's number and prompt otherwise. A file whose score has a gradient with respect to the images says
``DIFFERENTIABLE = True``; methods that need one (ReFL) refuse the others. What else the files here state of
themselves, in constants too: ``Facts``. Their table is docs/rewards.md.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt

Score = Callable[[Tensor, Sequence[Prompt]], Tensor]


@dataclass(frozen=True)
class Reward:
    """A reward by name; ``differentiable`` where its file, or what it built, says so."""

    name: str
    score: Score
    differentiable: bool

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        check_images(images, prompts, self.name)
        with torch.autocast(images.device.type, enabled=False):  # in fp32 whatever the policy computes in
            return checked(self.score(images, prompts), prompts, self.name)

    @property
    def relative(self) -> bool:
        """Whether a score depends on the images that are judged with it."""
        return getattr(self.score, "relative", False)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Of a weighted sum: the scores (B,) of each part in the last call, by the part's name; empty of others."""
        return getattr(self.score, "parts", {})


@dataclass(frozen=True)
class Facts:
    """What a reward's file states of it, in the constants WHAT, WEIGHTS, LICENCE, RANGE, INPUT_SIZE, DIFFERENTIABLE."""

    what: str
    weights: str  # where they come from by default: a hub id, a package, or none
    licence: str  # of the weights
    range: tuple[float, float]  # least and largest score; infinite where nothing bounds it
    input_size: int | None  # pixels a side that images are resized to; None: seen as they are
    differentiable: bool  # in the pixels, hence whether ReFL may use it


def facts(name: str) -> Facts:
    """What the reward called ``name`` states of itself. Raises UserError where it leaves something out."""
    source(name)
    module = importlib.import_module(f"rewards.{name}")
    stated = [field.name.upper() for field in fields(Facts)]
    if missing := [constant for constant in stated if not hasattr(module, constant)]:
        raise UserError(f"reward {name}: expected its file to state {', '.join(missing)}")
    return Facts(*(getattr(module, constant) for constant in stated))


def load(name: str, **options) -> Reward:
    """The reward called ``name``. Raises UserError where no file is a reward of that name or it needs other options."""
    source(name)
    module = importlib.import_module(f"rewards.{name}")
    try:
        inspect.signature(module.build).bind(**options)
    except TypeError as error:
        raise UserError(f"reward {name}: build() called with {options or 'no options'}: {error}") from None
    score = module.build(**options)
    return Reward(name, score, getattr(score, "differentiable", getattr(module, "DIFFERENTIABLE", False)))


def source(name: str) -> Path:
    """The file of the reward called ``name``. Raises UserError where no file is a reward of that name."""
    found = importlib.util.find_spec(f"rewards.{name}") if name.isidentifier() else None
    if found is None or not hasattr(importlib.import_module(f"rewards.{name}"), "build"):
        raise UserError(f"reward {name!r}: expected the name of a file in rewards/ that has a function `build`")
    return Path(found.origin)


def inputs(options: Mapping) -> list[Path]:
    """The files that a reward's ``options`` name, at any depth, and those directly in folders that they name: its
    weights, where these are local. A run is resumed only while they stay what they are."""
    found = []
    for value in options.values():
        if isinstance(value, Mapping):
            found += inputs(value)
        elif isinstance(value, str):
            found += _files(Path(value))
    return found


def _files(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            return sorted(inner for inner in path.iterdir() if inner.is_file())
        return [path] if path.is_file() else []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a text, such as a question
            return []
        raise UserError(f"{path}: cannot be read ({error})") from None


def check_images(images: Tensor, prompts: Sequence[Prompt], name: str) -> None:
    """Raise UserError unless ``images`` are (B, 3, H, W) floats, one for each of ``prompts``."""
    shape = tuple(images.shape)
    if not images.is_floating_point() or shape[1:2] != (3,) or len(shape) != 4 or shape[0] != len(prompts):
        raise UserError(
            f"reward {name}: expected images ({len(prompts)}, 3, H, W) of floats in [0, 1], one for each prompt, got"
            f" {images.dtype} {shape}"
        )


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
