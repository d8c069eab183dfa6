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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from PIL.Image import Image, fromarray

from unigrpo.config import require
from unigrpo.types import UserError
from unigrpo.vlm import NUMBERS, written

GIVE_UP = 8  # questions in a row
MAX_REPLY = 1 << 20  # bytes
TOP = 20  # most likely first tokens that are asked for; all that the interface allows
WORTH_RETRYING = {408, 409, 425, 429}  # and 500 and more


class _TryAgain(Exception):
    """What failed, and how many seconds the server asks to wait."""

    def __init__(self, problem: str, wait: float = 0.0):
        super().__init__(problem)
        self.wait = wait


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
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda item: self._one(*item), zip(images, questions, answers, strict=True)))

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

    def _one(self, image: Image, question: str, answer: str) -> float | UserError:
        with self._lock:
            if len(self._failures) >= GIVE_UP:
                return UserError(
                    f"{self.url}: not asked after {GIVE_UP} failures in a row, the last: {self._failures[-1]}"
                )
        try:
            value = self._patiently(self._body(image, question), answer)
        except UserError as error:
            with self._lock:
                self._failures.append(str(error))
            return error
        with self._lock:
            self._failures.clear()
        return value

    def _body(self, image: Image, question: str) -> bytes:
        stored = io.BytesIO()
        image.convert("RGB").save(stored, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
        soft = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        return json.dumps(
            {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
            | (soft if self.answers == "probability" else {"max_tokens": 16})
        ).encode()

    def _patiently(self, body: bytes, answer: str) -> float:
        for attempt in range(1, self.tries + 1):
            try:
                return self._read(self._post(body), answer)
            except _TryAgain as problem:
                if attempt == self.tries:
                    raise UserError(f"{self.url}: {problem}, after {self.tries} tries") from None
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
                        raise _TryAgain(f"a reply of more than {MAX_REPLY} bytes")
                    if time.monotonic() > deadline:
                        raise _TryAgain(f"no whole reply within {self.timeout:g} s")
                    parts.append(part)
                return b"".join(parts)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}: {_said(error)}"
            if error.code >= 500 or error.code in WORTH_RETRYING:
                raise _TryAgain(problem, _seconds(error.headers.get("Retry-After"))) from None
            raise UserError(f"{self.url}: {problem}") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
            raise _TryAgain(f"no reply ({getattr(error, 'reason', error) or type(error).__name__})") from None

    def _read(self, reply: bytes, answer: str) -> float:
        try:
            choice = json.loads(reply)["choices"][0]
            if self.answers == "text":
                return _by_text(choice["message"]["content"], answer)
            first = choice["logprobs"]["content"][0]
            tokens = {entry["token"]: entry["logprob"] for entry in [first, *first["top_logprobs"]]}
            return _by_tokens(tokens, answer)
        except _TryAgain:
            raise
        except (ValueError, LookupError, TypeError, AttributeError):
            told = "the first token's log-probabilities" if self.answers == "probability" else "an answer"
            shown = reply[:120].decode("utf-8", "replace").replace("\n", " ")
            raise _TryAgain(f"a reply without {told}: {shown!r}") from None


def _by_tokens(tokens: dict[str, float], answer: str) -> float:
    """Sum of the probabilities of the tokens that are a way to write ``answer``."""
    if not all(isinstance(value, (int, float)) and value <= 1e-6 for value in tokens.values()):  # NaN is not <= 0
        raise _TryAgain(f"log-probabilities that are none: {tokens}")
    forms = written(answer)
    return min(1.0, sum(math.exp(v) for token, v in tokens.items() if token.strip(" \u2581\u0120") in forms))


def _by_text(text: str, answer: str) -> float:
    """1 where the first word of ``text`` is the answer, 0 where it is another one."""
    word = next(iter(text.split()), "").strip(".,;:!?*\"'").lower()
    forms = written(answer)
    if word in forms:
        return 1.0
    if word in ("yes", "no", *NUMBERS) or word.isdigit():
        return 0.0
    raise _TryAgain(f"an answer that is neither {forms[0]!r} nor another yes, no or number: {text[:80]!r}")


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
