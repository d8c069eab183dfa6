"""Rewards: a reward is a callable ``(images (B, 3, H, W) float in [0, 1], prompts) -> (B,) float32``.

``load("name", ...)`` finds the file ``rewards/name.py`` and calls its ``build(**options)``. What a file declares of
itself is its ``FACTS``. Scores must be finite: a reward raises with the sample's number and prompt otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.core.settings import check_options, require
from unigrpo.study.facts import REWARDS

Score = Callable[..., Tensor]  # images (B, 3, H, W), prompts, and what it sees beside them -> (B,)


@dataclass(frozen=True)
class Reward:
    """A reward by name; ``differentiable`` where its file, or what it built, says so; ``sees`` what it is called with
    beside images and prompts: ``traces`` (B texts or None), ``policy`` (the model)."""

    name: str
    score: Score
    differentiable: bool
    sees: Sequence[str] = ()

    def __call__(self, images: Tensor, prompts: Sequence[Prompt], **seen) -> Tensor:
        """Raises UserError for images or scores of another shape or type, and for a score that is not finite."""
        who, n, shape = f"reward {self.name}", len(prompts), tuple(images.shape)
        fitting = images.is_floating_point() and len(shape) == 4 and shape[:2] == (n, 3)
        expected = f"images ({n}, 3, H, W) of floats in [0, 1], one for each prompt"
        require(fitting, who, f"{expected}, got {images.dtype} {shape}")
        with torch.autocast(images.device.type, enabled=False):  # in fp32 whatever the policy computes in
            scores = self.score(images, prompts, **seen)
        kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        floats = isinstance(scores, Tensor) and scores.is_floating_point()
        require(floats, who, f"a tensor of scores, got {kind}")
        require(scores.shape == (n,), who, f"one score for each of {n} samples, got shape {tuple(scores.shape)}")
        if bad := (~torch.isfinite(scores)).nonzero().flatten().tolist():
            place, prompt = bad[0], prompts[bad[0]]
            sample = f"{who}: sample {place} ({prompt.id}, {prompt.text!r})"
            raise UserError(f"{sample}: expected a finite score, got {scores[place].item()}")
        return scores

    def judge(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[float | UserError]:
        """The scores of RGB ``images``, which are of one size; a UserError in the place of one that is refused. One
        that is refused together with others is shown alone."""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        try:
            with torch.no_grad():
                return self(pixels.permute(0, 3, 1, 2).float() / 255, list(prompts)).tolist()
        except UserError as error:
            if len(images) == 1:
                return [error]
        return [self.judge([image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]

    @property
    def relative(self) -> bool:
        """Whether a score depends on the images that are judged with it."""
        return getattr(self.score, "relative", False)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Of a weighted sum: the scores (B,) of each part in the last call, by the part's name; empty of others."""
        return getattr(self.score, "parts", {})


def beside_images(reward: Score, **known) -> dict:
    """What a reward is called with beside images and prompts: those of the ``known`` that it asks to see."""
    return {name: known[name] for name in getattr(reward, "sees", ())}


def load(name: str, **options) -> Reward:
    """The reward called ``name``. Raises UserError where no file is a reward of that name or it needs other options."""
    module = REWARDS.load(name)
    check_options(module.build, options, lambda option: f"reward {name}: {option}")
    score, facts = module.build(**options), module.FACTS
    differentiable = getattr(score, "differentiable", facts.differentiable)
    return Reward(name, score, differentiable, getattr(score, "sees", facts.sees))


def named(text: str) -> tuple[str, dict]:
    """(name, options) of a reward on a command line: ``NAME`` or ``NAME={"option": value}``. Raises UserError."""
    name, _, written = text.partition("=")
    try:
        options = json.loads(written) if written else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--reward {text}: the options after '=' are not valid JSON ({error.msg})") from None
    if not isinstance(options, dict):
        raise UserError(f"--reward {text}: expected a JSON object of options after '=', found {written}")
    return name, options


def held_out(text: str) -> tuple[str, Reward]:
    """(name of its column, reward) of ``text``, which :func:`named` takes, as a metric. Raises UserError, also for a
    reward whose scores depend on the images that are judged together, or on more than images and prompts."""
    name, options = named(text)
    reward = load(name, **options)
    if reward.relative:
        raise UserError(f"--reward {text}: its scores depend on the images judged together, expected normalise: none")
    if reward.sees:
        raise UserError(f"--reward {text}: expected a reward of images alone, it sees {', '.join(reward.sees)}")
    return text if options else name, reward
