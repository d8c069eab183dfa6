"""A vision-language model behind an OpenAI-compatible endpoint (``<url>/chat/completions``): vLLM, SGLang or a service.

``answer: yes`` asks whether the image matches, and takes the probability of yes from the first token's
log-probabilities. ``answer: word`` asks the same and gives 1 for yes, 0 for no: it serves endpoints that give no
log-probabilities. ``answer: rating`` asks for a number from 0 to 10 and divides it by 10. A sample is asked about
``attempts`` times at most (``unigrpo.judges.endpoint``), and then has no score; so has one without an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rewards._support.declarations import Question
from unigrpo.core.errors import UserError
from unigrpo.core.lazy import lazy
from unigrpo.core.records import Prompt
from unigrpo.core.settings import Count, KeyVariable, Positive, Share, Side, Url
from unigrpo.judges import answers
from unigrpo.judges.answers import ANSWERED
from unigrpo.study.facts import RewardFacts

if TYPE_CHECKING:
    from torch import Tensor

endpoints = lazy("unigrpo.judges.endpoint")
rewards = lazy("unigrpo.judges.reward")

FACTS = RewardFacts(
    what="P(yes), or a rating, by a model behind an OpenAI-compatible endpoint",
    weights="the endpoint's",
    licence="the endpoint's",
    range=(0.0, 1.0),
)
WHETHER = 'Does this image match the prompt "{prompt}"? Answer with yes or no only.'
QUESTIONS = {
    "yes": WHETHER,
    "word": WHETHER,
    "rating": 'How well does this image match the prompt "{prompt}"? Answer with a number from 0 to 10 only.',
}
HIGHEST_RATING = 10
SHOWN = 80  # characters of an answer that a message quotes
Text = Annotated[str, Field(min_length=1)]


def rating(choice: dict) -> float:
    """From one choice of a chat completion: its number, in [0, 10], divided by 10; "8/10" and "8 out of 10" are 8.
    Raises UserError for another number, for several, and for none."""
    reply = choice["message"]["content"]
    text = answers.without_thinking(reply).replace("\u2212", "-")
    text = re.sub(r"(?i)(?<=\d)\s*(?:/|out of)\s*10(?![\d.]*\d)", " ", text)
    numbers = {float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)}
    if len(numbers) != 1 or "%" in text or not 0 <= min(numbers) <= HIGHEST_RATING:
        raise UserError(f"expected one number from 0 to {HIGHEST_RATING}, got {reply[:SHOWN]!r}")
    return numbers.pop() / HIGHEST_RATING


def build(
    url: Url,
    model: Text,
    answer: Literal["yes", "word", "rating"] = "yes",
    question: Question | None = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    answered: Share = ANSWERED,
    max_tokens: Count = 1024,
    longest_side: Side | None = None,
    format: Literal["png", "jpeg", "webp"] = "png",
    concurrency: Count = 8,
    timeout: Positive = 60.0,
    attempts: Count = 5,
    pause: Positive = 1.0,
    patience: Positive = 120.0,
):
    """``url``: up to and with ``/v1``; the key is read from the environment variable ``key_variable``, if that is set;
    ``concurrency``: questions under way at once; ``question`` holds {prompt}; ``answered``: the least probability that
    the first token is yes or no. Asks a first question. Raises UserError, also where that has no answer."""
    import torch
    from PIL.Image import fromarray

    from rewards._support.pixels import to_uint8

    text = QUESTIONS[answer] if question is None else question
    tokens = partial(endpoints.by_tokens, answer="yes", bound=answered)
    reader = {"yes": tokens, "word": partial(endpoints.by_words, answer="yes"), "rating": rating}[answer]
    endpoint = endpoints.Endpoint(
        url,
        model,
        timeout=timeout,
        tries=attempts,
        pause=pause,
        patience=patience,
        concurrency=concurrency,
        key_variable=key_variable,
        longest_side=longest_side,
        format=format,
    )
    settings = endpoints.FIRST_TOKEN if answer == "yes" else {"max_tokens": max_tokens}
    endpoint.probe(text.replace("{prompt}", "a red square"), reader, settings)

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        pictures = [fromarray(pixels) for pixels in to_uint8(images)]
        questions = [text.replace("{prompt}", prompt.text) for prompt in prompts]
        scores = endpoint.converse(pictures, questions, [reader] * len(questions), settings)
        problems = {i: str(value) for i, value in enumerate(scores) if isinstance(value, UserError)}
        values = torch.tensor([math.nan if i in problems else value for i, value in enumerate(scores)])
        if problems:
            raise rewards.Unscored("vlm_endpoint", problems, {"reward": values})
        return values

    return score
