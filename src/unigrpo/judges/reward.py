"""Rewards: a reward is a callable ``(images (B, 3, H, W) float in [0, 1], prompts) -> (B,) float32``.

``load("name", ...)`` finds the file ``rewards/name.py`` and calls its ``build(**options)``. What a file declares of
itself is its ``FACTS``. Scores must be finite: ``checked`` raises with the sample's number and prompt otherwise.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.core import options as typed
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.study.facts import REWARDS

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


def load(name: str, **options) -> Reward:
    """The reward called ``name``. Raises UserError where no file is a reward of that name or it needs other options."""
    module = REWARDS.load(name)
    typed.check(module.build, options, lambda option: f"reward {name}: {option}")
    score = module.build(**options)
    return Reward(name, score, getattr(score, "differentiable", module.FACTS.differentiable))


def trained_as(folder: str) -> str:
    """The reward whose weights the workflow trains into ``folder`` of a scale's results. A file that cannot be loaded
    is passed over, as no run may name it. Raises UserError where there is none."""
    for name in REWARDS.names():
        with suppress(UserError):
            if REWARDS.load(name).FACTS.trained == folder:
                return name
    raise UserError(f"rewards: expected a file whose FACTS state trained={folder!r}")


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
