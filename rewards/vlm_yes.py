"""The RewardDance form (arXiv 2509.08826): the probability that a vision-language model says yes, the image matches."""

import math
from typing import Literal

from rewards._support.declarations import Question
from unigrpo.core.errors import UserError
from unigrpo.core.lazy import lazy
from unigrpo.core.settings import Count, Device, Published, Share
from unigrpo.judges.answers import ANSWERED
from unigrpo.study.facts import RewardFacts

torch = lazy("torch")
rewards = lazy("unigrpo.judges.reward")

WEIGHTS = "Qwen/Qwen2.5-VL-7B-Instruct"
QUESTION = 'Does this image match the prompt "{prompt}"? Answer with yes or no.'
FACTS = RewardFacts(
    what="P(yes) of a vision-language model, asked whether the image matches the prompt",
    weights=WEIGHTS,
    licence="Apache-2.0",
    range=(0.0, 1.0),
    differentiable=True,  # where the model's processor lets a gradient pass, which is measured when it is loaded
)


def build(
    weights: Published = WEIGHTS,
    question: Question = QUESTION,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    batch_size: Count = 8,
    answered: Share = ANSWERED,
    device: Device = "auto",
):
    """``weights``: any image-text-to-text model of transformers, hub id or folder; ``question`` holds {prompt};
    ``answered``: the least probability that the first token is yes or no, below which a sample has no score. Raises
    UserError, also for a model that does not answer a first question."""
    from rewards._support.published_weights import placed
    from unigrpo.judges.local import LocalVlm

    with placed("vlm_yes"):
        model = LocalVlm(weights, device, dtype, batch_size, answered)

    def score(images, prompts):
        questions = [question.replace("{prompt}", p.text) for p in prompts]
        found = model.probabilities(images, questions, ["yes"] * len(prompts))
        problems = {i: str(value) for i, value in enumerate(found) if isinstance(value, UserError)}
        none = images.new_full((), math.nan)
        values = torch.stack([none if i in problems else value.to(images.device) for i, value in enumerate(found)])
        if problems:
            raise rewards.Unscored("vlm_yes", problems, {"reward": values})
        return values

    score.differentiable = model.differentiable
    return score
