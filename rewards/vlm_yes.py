"""The RewardDance form (arXiv 2509.08826): the probability that a vision-language model says yes, the image matches."""

from __future__ import annotations

from rewards.weights import placed
from unigrpo.core.errors import UserError
from unigrpo.judges.local import LocalVlm

WHAT = "P(yes) of a vision-language model, asked whether the image matches the prompt"
WEIGHTS = "Qwen/Qwen2.5-VL-7B-Instruct"
LICENCE = "Apache-2.0"
RANGE = (0.0, 1.0)
INPUT_SIZE = None
DIFFERENTIABLE = True  # where the model's processor lets a gradient pass, which is measured when it is loaded

QUESTION = 'Does this image match the prompt "{prompt}"? Answer with yes or no.'


def build(
    weights: str = WEIGHTS,
    question: str = QUESTION,
    dtype: str = "auto",
    batch_size: int = 8,
    device: str = "auto",
):
    """``weights``: any image-text-to-text model of transformers, hub id or folder; ``question`` holds {prompt}. Raises
    UserError."""
    question_for("vlm_yes", question, "")
    with placed("vlm_yes"):
        model = LocalVlm(weights, device, dtype, batch_size)
        model.check("yes")

    def score(images, prompts):
        asked = [question_for("vlm_yes", question, p.text) for p in prompts]
        return model.probabilities(images, asked, ["yes"] * len(asked))

    score.differentiable = model.differentiable
    return score


def question_for(reward: str, question: str, prompt: str) -> str:
    """``question`` with the prompt in its place. Raises UserError where it has none."""
    if not isinstance(question, str) or "{prompt}" not in question:
        raise UserError(f"reward {reward}: question: expected a text that holds {{prompt}}, got {question!r}")
    return question.replace("{prompt}", prompt)
