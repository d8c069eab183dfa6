"""A vision-language model behind a server with OpenAI's chat interface: bounded in time, retries and concurrency.

Every request ends: each try has a deadline, a failing one is repeated a fixed number of times after growing pauses, and
after ``GIVE_UP`` questions in a row that failed the rest is not asked. Imports no torch.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from PIL.Image import Image, fromarray

from unigrpo.config import require
from unigrpo.types import UserError
from unigrpo.vlm import NUMBERS, written

GIVE_UP = 8  # questions in a row
MAX_REPLY = 1 << 20  # bytes
TOP = 20  # most likely first tokens that are asked for; all that the interface allows
WORTH_RETRYING = {408, 409, 425, 429}  # and 500 and more


class Unusable(Exception):
    """A reply that cannot be used, or none: another try may help. ``wait``: seconds that the server asks for."""

    def __init__(self, problem: str, wait: float = 0.0):
        super().__init__(problem)
        self.wait = wait


Reader = Callable[[dict], float]
"""A value from one choice of a chat completion. Raises Unusable, or LookupError, TypeError, AttributeError or
ValueError, for a choice that does not hold one."""


@dataclass(frozen=True)
class Endpoint:
    """``url`` is the server's base, ending in /v1; ``model`` the name it serves.

    ``answers``: "probability" reads the first token's log-probabilities, "text" the answer's first word, which gives
    0 or 1, for servers that do not tell log-probabilities. ``timeout`` (seconds) bounds a try, ``tries`` their number,
    ``pause`` (seconds) is the first one between two, doubled each time up to ``longest_pause``.
    The key is read from the environment variable ``key_variable``; without it none is sent.
    """

    url: str
    model: str
    answers: Literal["probability", "text"] = "probability"
    timeout: float = 60.0
    tries: int = 5
    pause: float = 1.0
    longest_pause: float = 30.0
    concurrency: int = 8
    key_variable: str = "OPENAI_API_KEY"
    digest: str = field(default="", init=False)
    _failures: list = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self):
        require(self.url.startswith(("http://", "https://")), "endpoint.url", f"http(s)://..., got {self.url!r}")
        require(bool(self.model), "endpoint.model", "the name of a model")
        require(self.answers in ("probability", "text"), "endpoint.answers", f"probability or text, got {self.answers}")
        for name in ("timeout", "tries", "concurrency"):
            require(getattr(self, name) > 0, f"endpoint.{name}", f"more than 0, got {getattr(self, name)}")
        for name in ("pause", "longest_pause"):
            require(getattr(self, name) >= 0, f"endpoint.{name}", f"0 or more, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        server = urllib.parse.urlsplit(self.url)
        where = f"{server.hostname}:{server.port}" if server.port else f"{server.hostname}"  # no user, no password
        return f"{self.model} at {where}" + (", by text" if self.answers == "text" else "")

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """As ``Vlm.ask``. Of a token beyond the 20 most likely the probability counts as 0."""
        soft = self.answers == "probability"
        settings = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP} if soft else {"max_tokens": 16}
        read = by_tokens if soft else by_text
        return self.converse(images, questions, [partial(read, answer=answer) for answer in answers], settings)

    def converse(
        self, images: Sequence[Image], questions: Sequence[str], readers: Sequence[Reader], settings: Mapping
    ) -> list[float | UserError]:
        """What each reader makes of the reply to its question; a UserError in the place of one that could not be had.
        ``settings`` go into the requests."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            items = zip(images, questions, readers, strict=True)
            return list(pool.map(lambda item: self._one(*item, settings), items))

    def probabilities(self, images, questions: Sequence[str], answers: Sequence[str]):
        """(B,) float32 of images (B, 3, H, W) in [0, 1], without gradient. Raises UserError for the first question
        that was not answered, naming its place."""
        import torch

        pixels = (images.detach().clamp(0, 1).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        found = self.ask([fromarray(image) for image in pixels], questions, answers)
        for place, value in enumerate(found):
            if isinstance(value, UserError):
                raise UserError(f"sample {place}: {value}")
        return torch.tensor(found, dtype=torch.float32)

    # ------------------------------------------------------------------------------- one question

    def _one(self, image: Image, question: str, read: Reader, settings: Mapping) -> float | UserError:
        with self._lock:
            if len(self._failures) >= GIVE_UP:
                last = self._failures[-1]
                return UserError(f"{self.url}: not asked after {GIVE_UP} failures in a row, the last: {last}")
        try:
            value = self._patiently(self._body(image, question, settings), read)
        except UserError as error:
            with self._lock:
                self._failures.append(str(error))
            return error
        with self._lock:
            self._failures.clear()
        return value

    def _body(self, image: Image, question: str, settings: Mapping) -> bytes:
        stored = io.BytesIO()
        image.convert("RGB").save(stored, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        return json.dumps(asked | settings).encode()

    def _patiently(self, body: bytes, read: Reader) -> float:
        for attempt in range(1, self.tries + 1):
            try:
                return _value(self._post(body), read)
            except Unusable as problem:
                if attempt == self.tries:
                    raise UserError(
                        f"{self.url}: no usable answer in {self.tries} tries; the last: {problem}"
                    ) from None
                pause = max(problem.wait, self.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1))
                time.sleep(min(pause, self.longest_pause))
        raise AssertionError("unreachable")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                parts, size = [], 0
                while part := reply.read1(1 << 16):
                    size += len(part)
                    if size > MAX_REPLY:
                        raise Unusable(f"a reply of more than {MAX_REPLY} bytes")
                    if time.monotonic() > deadline:
                        raise Unusable(f"no whole reply within {self.timeout:g} s")
                    parts.append(part)
                return b"".join(parts)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {_said(error)!r}"
            if error.code >= 500 or error.code in WORTH_RETRYING:
                raise Unusable(problem, _seconds(error.headers.get("Retry-After"))) from None
            raise UserError(f"{self.url}: refused with {problem}") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
            raise Unusable(f"no reply ({getattr(error, 'reason', error) or type(error).__name__})") from None


def _value(reply: bytes, read: Reader) -> float:
    """What ``read`` makes of a chat completion. Raises Unusable for a reply that is none."""
    try:
        return read(json.loads(reply)["choices"][0])
    except (ValueError, LookupError, TypeError, AttributeError):
        shown = reply[:120].decode("utf-8", "replace").replace("\n", " ")
        raise Unusable(f"expected a chat completion with what was asked for, got {shown!r}") from None


def by_tokens(choice: dict, answer: str) -> float:
    """Sum of the probabilities of the first tokens that are a way to write ``answer``; see ``Reader``."""
    first = choice["logprobs"]["content"][0]
    tokens = {entry["token"]: entry["logprob"] for entry in [first, *first["top_logprobs"]]}
    if not all(isinstance(value, (int, float)) and value <= 1e-6 for value in tokens.values()):  # NaN is not <= 0
        raise Unusable(f"log-probabilities that are none: {tokens}")
    forms = written(answer)
    shares = [math.exp(v) for token, v in tokens.items() if token.strip(" \u2581\u0120") in forms]
    return min(1.0, sum(shares, 0.0))


def by_text(choice: dict, answer: str) -> float:
    """1 where the first word of the reply is the answer, 0 where it is another one; see ``Reader``."""
    text = choice["message"]["content"]
    word = next(iter(text.split()), "").strip(".,;:!?*\"'").lower()
    forms = written(answer)
    if word in forms:
        return 1.0
    if word in ("yes", "no", *NUMBERS) or word.isdigit():
        return 0.0
    raise Unusable(f"an answer that is neither {forms[0]!r} nor another yes, no or number: {text[:80]!r}")


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(200).decode("utf-8", "replace").replace("\n", " ").strip() or error.reason
    except OSError:
        return str(error.reason)


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0  # a date: the growing pause serves
