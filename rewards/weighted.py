"""A weighted sum of rewards: sum over parts of weight * (score - centre) / spread.

``normalise: batch`` takes each part's centre and spread from the images judged together (mean, and population standard
deviation; a part that is the same for all adds nothing), so that weights compare whatever the parts' units are; the sum
is then relative to its batch. ``normalise: none`` takes those stated for the part, 0 and 1 by default. The scores of
each part stay available for the training record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from unigrpo.core.lazy import lazy
from unigrpo.core.records import Prompt
from unigrpo.core.settings import Positive, Settings, expect
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy("torch")
rewards = lazy("unigrpo.judges.reward")

TAKEN_NAMES = ("mean", "std")  # a part is recorded as reward_<name>; these columns are the sum's


class Part(Settings):
    """One reward of the sum: it adds weight * (score - centre) / spread."""

    weight: float
    reward: str | None = None  # its name; that of the part where it is left out
    centre: float = 0.0
    spread: Positive = 1.0
    options: dict[str, Any] = {}  # of that reward


def parts_of(options: Mapping) -> dict[str, tuple[str, dict]]:
    """Part -> its reward and that reward's options."""
    return {name: (part.get("reward") or name, part.get("options", {})) for name, part in options["parts"].items()}


FACTS = RewardFacts(
    what="weighted sum of other rewards",
    weights="its parts'",
    licence="its parts'",
    differentiable=True,  # where all of its parts are
    parts=parts_of,
)
Name = Annotated[
    str,
    AfterValidator(
        expect(
            f"a name of letters, digits and _, none of {', '.join(TAKEN_NAMES)}",
            lambda name: name.isidentifier() and name not in TAKEN_NAMES,
        )
    ),
]
Parts = Annotated[
    dict[Name, Part], AfterValidator(expect("a mapping of one or more parts, name: {weight: ...}", len, dict))
]


class Weighted:
    """The sum; ``parts`` holds the scores (B,) of each in the last call."""

    def __init__(self, parts: Mapping[str, Part], normalise: str):
        self.settings, self.normalise = parts, normalise
        self.rewards = {name: rewards.load(part.reward or name, **part.options) for name, part in parts.items()}
        self.relative = normalise == "batch" or any(reward.relative for reward in self.rewards.values())
        self.differentiable = all(reward.differentiable for reward in self.rewards.values())
        self.sees = tuple({seen for reward in self.rewards.values() for seen in reward.sees})
        self.parts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[Prompt], **seen) -> Tensor:
        scores = {}
        for name, reward in self.rewards.items():
            try:
                scores[name] = reward(images, prompts, **{key: seen[key] for key in reward.sees}).to(images.device)
            except rewards.Unscored as error:  # whose scores are the part's
                problems = {i: f"{reward.name}: {why}" for i, why in error.problems.items()}
                raise rewards.Unscored(str(error), problems) from None
        self.parts = {name: score.detach() for name, score in scores.items()}
        return sum(self.settings[name].weight * self.scaled(name, score) for name, score in scores.items())

    def cut(self, texts: Sequence[str]) -> dict[str, int]:
        return {most: count for reward in self.rewards.values() for most, count in reward.cut(texts).items()}

    def scaled(self, name: str, score: Tensor) -> Tensor:
        part = self.settings[name]
        if self.normalise == "none":
            return (score - part.centre) / part.spread
        known = score.detach().double()
        mean, spread = known.mean(), known.std(correction=0)
        even = known.max() == known.min()
        return torch.zeros_like(score) * score if even else ((score - mean) / spread).to(score.dtype)


def build(parts: Parts, normalise: Literal["none", "batch"] = "none"):
    """``parts``: name -> ``{weight, reward, centre, spread, options}``. Raises UserError."""
    return Weighted({name: Part(**part) for name, part in parts.items()}, normalise)
