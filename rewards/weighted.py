"""A weighted sum of rewards: sum over parts of weight * (score - centre) / spread.

``normalise: batch`` takes each part's centre and spread from the images judged together (mean, and population standard
deviation; a part that is the same for all adds nothing), so that weights compare whatever the parts' units are; the sum
is then relative to its batch. ``normalise: none`` takes those stated for the part, 0 and 1 by default. Each part's own
scores are kept, for the training record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import rewards
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.study.reward_options import RewardPart, reward_parts

WHAT = "weighted sum of other rewards"
WEIGHTS = "its parts'"
LICENCE = "its parts'"
RANGE = (-float("inf"), float("inf"))
INPUT_SIZE = None
DIFFERENTIABLE = True  # where all of its parts are

NORMALISE = ("none", "batch")


class Weighted:
    """The sum; ``parts`` holds the scores (B,) of each in the last call."""

    def __init__(self, parts: Mapping[str, RewardPart], normalise: str):
        self.settings, self.normalise = parts, normalise
        self.rewards = {name: rewards.load(part.reward or name, **part.options) for name, part in parts.items()}
        self.relative = normalise == "batch" or any(reward.relative for reward in self.rewards.values())
        self.differentiable = all(reward.differentiable for reward in self.rewards.values())
        self.parts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        scores = {name: reward(images, prompts).to(images.device) for name, reward in self.rewards.items()}
        self.parts = {name: score.detach() for name, score in scores.items()}
        return sum(self.settings[name].weight * self.scaled(name, score) for name, score in scores.items())

    def scaled(self, name: str, score: Tensor) -> Tensor:
        part = self.settings[name]
        if self.normalise == "none":
            return (score - part.centre) / part.spread
        known = score.detach().double()
        mean, spread = known.mean(), known.std(correction=0)
        even = known.max() == known.min()
        return torch.zeros_like(score) * score if even else ((score - mean) / spread).to(score.dtype)


def build(parts: Mapping, normalise: str = "none"):
    """``parts``: name -> ``{weight, reward, centre, spread, options}``, of which ``reward``, the file's name, is the
    part's name where it is left out. Raises UserError."""
    if normalise not in NORMALISE:
        raise UserError(f"reward weighted: normalise: expected {' or '.join(NORMALISE)}, got {normalise!r}")
    return Weighted(reward_parts(parts, "rl.reward_options.parts"), normalise)
