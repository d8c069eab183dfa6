"""A vision-language model behind a server with OpenAI's chat interface: bounded in time, retries and concurrency.

Every request ends: each try has a deadline, a failing one is repeated a fixed number of times after growing pauses, and
after ``GIVE_UP`` questions in a row that no server answered the rest of a call is not asked. Imports no torch.
"""

import base64
import http.client
import io
import json
import math
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from PIL.Image import Image

from unigrpo.core.errors import UserError
from unigrpo.judges import written

GIVE_UP = 8  # questions in a row, of one call
MAX_REPLY = 1 << 20  # bytes
TOP = 20  # most likely first tokens that are asked for; all that the interface allows
WORTH_RETRYING = {408, 409, 425, 429}  # and 500 and more


class Unusable(Exception):
    """A reply that cannot be used, or none: another try may help. ``wait``: seconds that the server asks for."""

    def __init__(self, problem: str, wait: float = 0.0):
        super().__init__(problem)
        self.wait = wait


class NoServer(Unusable):
    """No usable server: no connection, no complete reply in time, or one that says that it fails or is overloaded."""


class Unserved(UserError):
    """A question whose last try met no usable server."""


Reader = Callable[[dict], float]
"""A value from one choice of a chat completion. Raises Unusable, or LookupError, TypeError, AttributeError or
ValueError, for a choice that does not hold one."""


@dataclass(frozen=True)
class Endpoint:
    """``url`` is the server's base, ending in /v1; ``model`` the name it serves.

    ``by_text`` reads the answer's first word, which gives 0 or 1, for servers without log-probabilities, in place of
    the first token's log-probabilities. ``timeout`` (seconds) bounds a try, ``tries`` their number, ``pause`` (seconds)
    is the first one between two, doubled each time up to ``longest_pause``. The key is read from the environment
    variable ``key_variable``; without it none is sent.
    """

    url: str
    model: str
    by_text: bool = False
    timeout: float = 60.0
    tries: int = 5
    pause: float = 1.0
    longest_pause: float = 30.0
    concurrency: int = 8
    key_variable: str = "OPENAI_API_KEY"
    digest: str = field(default="", init=False)

    def __post_init__(self):
        self._key()  # refused before any question

    @property
    def name(self) -> str:
        server = urllib.parse.urlsplit(self.url)
        where = f"{server.hostname}:{server.port}" if server.port else f"{server.hostname}"  # no user, no password
        return f"{self.model} at {where}" + (", by text" if self.by_text else "")

    def check(self, answer: str) -> None:
        """As ``Vlm.check``. Which words are one token is not known of a server."""
        if len(answer.split()) > 1:
            raise UserError(f"{self.name}: answer {answer!r}: expected one word, for no more of an answer is read")
        written(answer)

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """As ``Vlm.ask``. Of a token beyond the 20 most likely the probability counts as 0."""
        settings = {"max_tokens": 16} if self.by_text else {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        read = by_text if self.by_text else by_tokens
        return self.converse(images, questions, [partial(read, answer=answer) for answer in answers], settings)

    def converse(
        self, images: Sequence[Image], questions: Sequence[str], readers: Sequence[Reader], settings: Mapping
    ) -> list[float | UserError]:
        """What each reader makes of the reply to its question; a UserError in the place of one that could not be had.
        ``settings`` go into the requests."""
        latest: deque = deque(maxlen=GIVE_UP)  # results, one a question
        why: list[str] = []  # nothing more is asked; empty while there is hope

        def answer(image: Image, question: str, read: Reader) -> float | UserError:
            if why:
                return UserError(f"{self.url}: {why[0]}")
            result = self._patiently(self._body(image, question, settings), read)
            latest.append(result)
            if len(row := tuple(latest)) == GIVE_UP and all(isinstance(each, Unserved) for each in row):
                why.append(f"not asked after {GIVE_UP} failures in a row, the last: {row[-1]}")
            return result

        items = zip(images, questions, readers, strict=True)
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda item: answer(*item), items))

    def _key(self) -> str:
        """Empty without one. Raises UserError, which does not show it, for one that no header can hold."""
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"environment variable {self.key_variable}: expected a key of printable ASCII characters")
        return key

    def _body(self, image: Image, question: str, settings: Mapping) -> bytes:
        stored = io.BytesIO()
        image.convert("RGB").save(stored, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
        asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        return json.dumps(asked | settings).encode()

    def _patiently(self, body: bytes, read: Reader) -> float | UserError:
        for attempt in range(self.tries):
            try:
                return _value(self._post(body), read)
            except UserError as refusal:
                return refusal
            except Unusable as error:
                problem = error
            if attempt + 1 < self.tries:
                pause = max(problem.wait, self.pause * 2**attempt * random.uniform(0.5, 1))
                time.sleep(min(pause, self.longest_pause))
        kind = Unserved if isinstance(problem, NoServer) else UserError
        return kind(f"{self.url}: no usable answer in {self.tries} tries; the last: {problem}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        deadline = time.monotonic() + self.timeout
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                content = b""
                while part := reply.read1(1 << 16):
                    content += part
                    if len(content) > MAX_REPLY:
                        raise Unusable(f"a reply of more than {MAX_REPLY} bytes")
                    if time.monotonic() > deadline:
                        raise NoServer(f"no complete reply within {self.timeout:g} s")
                return content
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {_said(error)!r}"
            if error.code >= 500 or error.code in WORTH_RETRYING:
                kind = NoServer if error.code >= 500 else Unusable
                raise kind(problem, _seconds(error.headers.get("Retry-After"))) from None
            raise UserError(f"{self.url}: refused with {problem}") from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
            raise NoServer(f"no reply ({getattr(error, 'reason', error) or type(error).__name__})") from None


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
    words = (part.strip(".,;:!?*\"'").lower() for part in text.split())
    word = next(filter(None, words), "")
    if not word:
        raise Unusable(f"an answer without a word: {text[:80]!r}")
    return float(word in written(answer))


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
