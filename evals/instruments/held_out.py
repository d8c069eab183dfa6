"""A reward as a held-out metric: named with its options on a command line, asked image by image where it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.judges import reward as rewards
from unigrpo.judges.reward import Reward


def parse(text: str) -> tuple[str, Reward]:
    """(name of its column, reward) of ``NAME`` or ``NAME={"option": value}``. Raises UserError, also for a reward
    whose scores depend on the images that are judged together."""
    name, options = named(text)
    reward = rewards.load(name, **options)
    if reward.relative:
        raise UserError(f"--reward {text}: its scores depend on the images judged together, expected normalise: none")
    return text if options else name, reward


def weights(text: str) -> list[Path]:
    """The local files that the options in ``text`` name, as :func:`parse` takes it. Raises UserError."""
    return rewards.inputs(named(text)[1])


def named(text: str) -> tuple[str, dict]:
    """(name of the reward, options) of ``NAME`` or ``NAME={"option": value}``. Raises UserError."""
    name, _, written = text.partition("=")
    try:
        options = json.loads(written) if written else {}
    except json.JSONDecodeError as error:
        raise UserError(f"--reward {text}: the options after '=' are not valid JSON ({error.msg})") from None
    if not isinstance(options, dict):
        raise UserError(f"--reward {text}: expected a JSON object of options after '=', found {written}")
    return name, options


def scores(reward: Reward, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[float | UserError]:
    """The reward of each of these RGB ``images``, which are of one size; a UserError in the place of one that the
    reward refuses. One that it refuses together with others is shown to it alone."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    pixels = pixels.permute(0, 3, 1, 2).float() / 255  # (b, 3, H, W)
    try:
        with torch.no_grad():
            return reward(pixels, list(prompts)).tolist()
    except UserError as error:
        if len(images) == 1:
            return [error]
    return [scores(reward, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
