"""Gated penalty towards a reference that follows (GARDO, arXiv 2512.24138): GRPO whose velocity MSE counts only for
samples whose reward is uncertain, against a copy of the policy that is renewed at intervals.

Uncertain is a sample that the reward ranks higher than a second opinion does: the share ``rl.gardo_share`` of a rollout
with the greatest fall in rank. The paper's second opinions are two other reward models; here it is the reward itself on
copies of the image with a little noise, so that any reward will do and a score that depends on a few pixels is found.
The paper's bonus for diverse samples is left out, and so is its second trigger for renewal, a threshold on the KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from unigrpo.core.lazy import lazy
from unigrpo.core.settings import Count, require
from unigrpo.episodes import rollout as episodes
from unigrpo.episodes import shares, slices
from unigrpo.methods import MethodFacts, without_gradient
from unigrpo.methods import Settings as Section
from unigrpo.sampling import engine

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.core.records import Prompt
    from unigrpo.episodes.rollout import Draw, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.study.config import RLConfig

torch = lazy("torch")

COPIES, NOISE = 4, 0.05  # noised copies of an image, and the noise's standard deviation in [0, 1] pixels


class Settings(Section):
    """What a run may set of it."""

    gardo_share: Annotated[float, Field(gt=0, le=1)] = 0.1  # of a rollout's samples that are penalised as uncertain
    reference_every: Count = 10  # rollouts after which the reference becomes the policy

    @model_validator(mode="after")
    def _gates_the_penalty(self):
        require(self.regulariser != "none", "rl.regulariser", "one for this method, which gates it")
        require(self.reward_failure == "fail", "rl.reward_failure", "fail for this method, which ranks all samples")
        return self


FACTS = MethodFacts(
    trains=(("image",), ("text", "image")),
    noise_inside=True,
    moves_reference=True,
    holds=("gated velocity MSE (GARDO)", None),
)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """GRPO's slices."""
    old, reference = (partial(episodes.replay, model, rl=rl) for model in (nets.model, nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference)


def ranks(scores: Tensor) -> Tensor:
    """(B,) 0 for the lowest of B scores to B - 1 for the highest; equal scores share the mean of their ranks."""
    below = (scores[:, None] > scores).sum(1)
    return below + ((scores[:, None] == scores).sum(1) - 1) / 2


def gate(scores: Tensor, second: Tensor, share: float) -> Tensor:
    """(B,) 1 for the ``share`` of B samples whose rank by ``scores`` most exceeds that by ``second``, else 0; ties at
    the border go to the earlier ones, and a sample that is not ranked higher is never uncertain."""
    excess = ranks(scores) - ranks(second)
    chosen = excess.argsort(descending=True, stable=True)[: round(share * len(scores))]
    uncertain = torch.zeros_like(excess)
    uncertain[chosen] = 1.0
    return uncertain * (excess > 0)


@without_gradient
def second_opinion(
    reward: Callable[..., Tensor], images: Tensor, prompts: list[Prompt], seed: int, names: list[tuple]
) -> Tensor:
    """Mean reward (B,) of COPIES of each image (B, 3, H, W) with noise of NOISE, cut to [0, 1]; ``names`` (B,) of the
    streams of noise."""
    opinions = []
    for k in range(COPIES):
        noise = engine.normal(seed, "second opinion", [(*name, k) for name in names], images.shape[1:]).to(images)
        opinions.append(reward((images + NOISE * noise).clamp(0, 1), prompts))
    return torch.stack(opinions).mean(0)


@without_gradient
def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """GRPO's episodes, with a mark for each uncertain one."""
    rollout, rl = episodes.roll_out(nets.model, draw), draw.rl
    images, names = rollout.image.images, [job.name for job in rollout.jobs]
    first = nets.reward(images, rollout.prompts)
    second = second_opinion(nets.reward, images, rollout.prompts, draw.seed, names)
    everyone = (shares.gathered(scores, draw.size, rl) for scores in (first, second))
    uncertain = gate(*everyone, rl.gardo_share)[shares.local_rows(draw.size, rl)].to(images)
    return replace(rollout, columns={"uncertain": uncertain})


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """GRPO's losses, the penalty only where the reward is uncertain; still a mean over all samples."""
    new = episodes.replay(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    loss, metrics = slices.window_loss(new, s, rl)
    uncertain = s.rollout.columns["uncertain"]
    loss = loss + (uncertain[:, None] * slices.window_penalty(new, s, rl, metrics)).mean()
    yield "image", rl.image_weight * loss, metrics | {"uncertain": uncertain.mean()}


@without_gradient
def follow(nets: Networks, rl: RLConfig, updates: int) -> None:
    """The reference becomes the policy after every ``rl.reference_every`` rollouts."""
    if updates % (rl.reference_every * rl.epochs) == 0:
        for reference, policy in zip(nets.reference.parameters(), nets.model.parameters(), strict=True):
            reference.copy_(policy)
