"""A vision-language model behind an OpenAI-compatible endpoint (``<url>/chat/completions``): vLLM, SGLang or a service.

``answer: yes`` asks whether the image matches, and takes the probability of yes from the token's log-probabilities
where the endpoint gives them, else 1 for yes and 0 for no. ``answer: rating`` asks for a number from 0 to 10 and
divides it by 10. A sample is asked ``attempts`` times at most: again after a time-out, a broken connection, an
overloaded server or an answer that cannot be read, each time after a longer pause. Then the run ends with the sample's
name and what was answered, and goes on from its last checkpoint when it is started again.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import requests
import torch
from PIL import Image
from torch import Tensor

from rewards.pixels import to_uint8
from unigrpo.types import Prompt, UserError

WHAT = "P(yes), or a rating, by a model behind an OpenAI-compatible endpoint"
WEIGHTS = "the endpoint's"
LICENCE = "the endpoint's"
RANGE = (0.0, 1.0)
INPUT_SIZE = None
DIFFERENTIABLE = False

QUESTIONS = {
    "yes": 'Does this image match the prompt "{prompt}"? Answer with yes or no only.',
    "rating": 'How well does this image match the prompt "{prompt}"? Answer with a number from 0 to 10 only.',
}
HIGHEST_RATING = 10
TOP = 20  # log-probabilities asked for, the most that such endpoints give
TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may pass
SHOWN = 80  # characters of an answer that a message quotes


class Unusable(Exception):
    """An answer that cannot be read; the message says what was wanted."""


def probability_of_yes(choice: dict) -> float:
    """From one choice of a chat completion. Raises Unusable."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if tokens and (top := tokens[0].get("top_logprobs")):
        shares = {"yes": 0.0, "no": 0.0}
        for entry in top:
            word = entry["token"].strip().lower()
            if word in shares:
                shares[word] += math.exp(entry["logprob"])
        if sum(shares.values()) > 0:
            return min(shares["yes"], 1.0)
    said = re.match(r"\W*(yes|no)\b", choice["message"]["content"].lower())
    if said is None:
        raise Unusable("expected yes or no")
    return float(said[1] == "yes")


def rating(choice: dict) -> float:
    """From one choice of a chat completion: its first number, in [0, 10], divided by 10. Raises Unusable."""
    number = re.search(r"-?\d+(\.\d+)?", choice["message"]["content"])
    if number is None or not 0 <= float(number[0]) <= HIGHEST_RATING:
        raise Unusable(f"expected a number from 0 to {HIGHEST_RATING}")
    return float(number[0]) / HIGHEST_RATING


READERS = {"yes": probability_of_yes, "rating": rating}


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask; times in seconds."""

    url: str
    model: str
    key: str | None
    answer: str
    question: str
    max_tokens: int
    timeout: float  # of one try, until something is heard
    attempts: int
    pause: float  # before the second try; doubles with each
    longest_pause: float

    def ask(self, pixels: np.ndarray, prompt: Prompt) -> float:
        """Score in [0, 1] of a uint8 image (H, W, 3). Raises UserError after the last try, or at once where another
        try cannot help."""
        body, reason = self.request(pixels, prompt), ""
        for number in range(self.attempts):
            wait = min(self.pause * 2 ** (number - 1), self.longest_pause) if number else 0.0
            try:
                time.sleep(wait)
                return self.attempt(body)
            except requests.RequestException as error:
                reason = f"{type(error).__name__}: {str(error)[:SHOWN]}"
            except Unusable as error:
                reason = str(error)
        raise UserError(f"{self.url}: no usable answer in {self.attempts} tries; the last: {reason}")

    def attempt(self, body: dict) -> float:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.url.rstrip('/')}/chat/completions"
        reply = requests.post(url, json=body, headers=headers, timeout=self.timeout)
        shown = " ".join(reply.text.split())[:SHOWN]
        if reply.status_code in TRANSIENT:
            raise Unusable(f"HTTP {reply.status_code} {shown!r}")
        if not reply.ok:
            raise UserError(f"{self.url}: refused with HTTP {reply.status_code} {shown!r}")
        try:
            choice = reply.json()["choices"][0]
            score = READERS[self.answer](choice)
        except Unusable as error:
            raise Unusable(f"{error}, got {choice['message']['content'][:SHOWN]!r}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Unusable(f"expected a chat completion, got {shown!r}") from None
        if not math.isfinite(score):
            raise Unusable(f"expected a finite number, got {score}")
        return score

    def request(self, pixels: np.ndarray, prompt: Prompt) -> dict:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": self.question.replace("{prompt}", prompt.text)},
        ]
        shares = {"logprobs": True, "top_logprobs": TOP} if self.answer == "yes" else {}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        } | shares


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
        raise UserError(f"reward vlm_endpoint: answer: expected {' or '.join(READERS)}, got {answer!r}")
    question = QUESTIONS[answer] if question is None else question
    if "{prompt}" not in question:
        raise UserError(f"reward vlm_endpoint: question: expected a text that holds {{prompt}}, got {question!r}")
    counts = {"concurrency": concurrency, "attempts": attempts, "max_tokens": max_tokens}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"reward vlm_endpoint: {name}: expected a whole number above 0, got {value!r}")
    for name, value in {"timeout": timeout, "pause": pause, "longest_pause": longest_pause}.items():
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(f"reward vlm_endpoint: {name}: expected seconds above 0, got {value!r}")
    endpoint = Endpoint(
        url=url,
        model=model,
        key=os.environ.get(key_variable),
        answer=answer,
        question=question,
        max_tokens=max_tokens,
        timeout=timeout,
        attempts=attempts,
        pause=pause,
        longest_pause=longest_pause,
    )

    def score(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        with ThreadPoolExecutor(concurrency) as pool:
            waiting = [pool.submit(endpoint.ask, *sample) for sample in zip(to_uint8(images), prompts, strict=True)]
            scores = []
            for number, (future, prompt) in enumerate(zip(waiting, prompts, strict=True)):
                try:
                    scores.append(future.result())
                except UserError as error:
                    pool.shutdown(wait=False, cancel_futures=True)
                    sample = f"sample {number} ({prompt.id}, {prompt.text!r})"
                    raise UserError(f"reward vlm_endpoint: {sample}: {error}") from None
        return torch.tensor(scores)

    return score
