"""A vision-language model behind an OpenAI-compatible endpoint (``<url>/chat/completions``): vLLM, SGLang or a service.

``answer: yes`` asks whether the image matches, and takes the probability of yes from the first token's
log-probabilities; ``answer: word`` asks the same and gives 1 for yes, 0 for another word, for endpoints that tell no
log-probabilities; ``answer: rating`` asks for a number from 0 to 10 and divides it by 10. A sample is asked
``attempts`` times at most (``unigrpo.judges.endpoint``). Then the run ends with the sample's name and what was answered,
and goes on from its last checkpoint when it is started again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import torch
from PIL.Image import fromarray
from torch import Tensor

from rewards.pixels import to_uint8
from rewards.vlm_yes import question_for
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.judges.endpoint import TOP, Endpoint, Unusable, by_text, by_tokens

WHAT = "P(yes), or a rating, by a model behind an OpenAI-compatible endpoint"
WEIGHTS = "the endpoint's"
LICENCE = "the endpoint's"
RANGE = (0.0, 1.0)
INPUT_SIZE = None
DIFFERENTIABLE = False

WHETHER = 'Does this image match the prompt "{prompt}"? Answer with yes or no only.'
QUESTIONS = {
    "yes": WHETHER,
    "word": WHETHER,
    "rating": 'How well does this image match the prompt "{prompt}"? Answer with a number from 0 to 10 only.',
}
HIGHEST_RATING = 10
SHOWN = 80  # characters of an answer that a message quotes


def rating(choice: dict) -> float:
    """From one choice of a chat completion: its first number, in [0, 10], divided by 10. Raises Unusable."""
    content = choice["message"]["content"]
    number = re.search(r"-?\d+(\.\d+)?", content)
    if number is None or not 0 <= float(number[0]) <= HIGHEST_RATING:
        raise Unusable(f"expected a number from 0 to {HIGHEST_RATING}, got {content[:SHOWN]!r}")
    return float(number[0]) / HIGHEST_RATING


READERS = {"yes": partial(by_tokens, answer="yes"), "word": partial(by_text, answer="yes"), "rating": rating}


def build(
    url: str,
    model: str,
    answer: str = "yes",
    question: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    max_tokens: int = 8,
    concurrency: int = 8,
    timeout: float = 60.0,
    attempts: int = 5,
    pause: float = 1.0,
    longest_pause: float = 30.0,
):
    """``url``: up to and with ``/v1``; the key is read from the environment variable ``key_variable``, if that is set;
    ``concurrency``: questions under way at once; ``question`` holds {prompt}. Raises UserError."""
    if answer not in READERS:
        raise UserError(f"reward vlm_endpoint: answer: expected {', '.join(READERS)}, got {answer!r}")
    question = QUESTIONS[answer] if question is None else question
    question_for("vlm_endpoint", question, "")
    counts = {"concurrency": concurrency, "attempts": attempts, "max_tokens": max_tokens}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"reward vlm_endpoint: {name}: expected a whole number above 0, got {value!r}")
    for name, value in {"timeout": timeout, "pause": pause, "longest_pause": longest_pause}.items():
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(f"reward vlm_endpoint: {name}: expected seconds above 0, got {value!r}")
    endpoint = Endpoint(
        url,
        model,
        timeout=timeout,
        tries=attempts,
        pause=pause,
        longest_pause=longest_pause,
        concurrency=concurrency,
        key_variable=key_variable,
    )
    settings = (
        {"logprobs": True, "top_logprobs": TOP, "max_tokens": 1} if answer == "yes" else {"max_tokens": max_tokens}
    )

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        pictures = [fromarray(pixels) for pixels in to_uint8(images)]
        asked = [question_for("vlm_endpoint", question, prompt.text) for prompt in prompts]
        scores = endpoint.converse(pictures, asked, [READERS[answer]] * len(asked), settings)
        for number, (value, prompt) in enumerate(zip(scores, prompts, strict=True)):
            if isinstance(value, UserError):
                raise UserError(f"reward vlm_endpoint: sample {number} ({prompt.id}, {prompt.text!r}): {value}")
        return torch.tensor(scores)

    return score
