"""A vision-language model behind a server with OpenAI's chat interface: bounded in time, retries and concurrency.

Every request ends: each try has a deadline, a failing one is repeated a fixed number of times, and a server that
refuses question after question ends the run. A key goes to the URL's own server alone, and no message shows it.
Imports no torch.
"""

import asyncio
import base64
import io
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import quote, urlsplit

import httpx2
from PIL.Image import Image, Resampling, new

from unigrpo.core.errors import RewardFailed, UserError, reading
from unigrpo.core.records import check_text
from unigrpo.core.settings import KeyVariable, Url, check_value
from unigrpo.judges.answers import ANSWERED, PROBE, by_text, is_counted, meaning, require_answered, written

GIVE_UP = 8  # questions in a row that no server answered: the rest of a call is not asked
REFUSALS = 3  # of one kind in a row: the run ends
NO_SERVER, OF_ALL = "no server", ("HTTP 401", "HTTP 402", "HTTP 404")  # other refusals may be of one picture
MAX_REPLY = 1 << 20  # bytes
QUOTED = 200  # characters of a text in a message
FIRST_TOKEN = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}  # all that the interface allows
WORTH_RETRYING = {408, 409, 425, 429}  # and 500 and more
A_SECRET = 6  # characters of a key: a shorter one is a word such as "none"


class Failure(UserError):
    """A question, or a try, without a usable reply. ``kind``: what in a row ends the asking, if anything. ``wait``:
    seconds after which another try may help; None where none would."""

    def __init__(self, problem: str, kind: str = "", wait: float | None = None):
        super().__init__(problem)
        self.kind, self.wait = kind, wait


Reader = Callable[[dict], float]
"""A value from one choice of a chat completion. Raises UserError for one without an answer, and LookupError, TypeError,
AttributeError, ArithmeticError or ValueError for one that does not hold what was asked for."""


@dataclass
class Endpoint:
    """``url`` is the server's base, ending in /v1; ``model`` the name it serves.

    ``by_text`` reads the answer's words, which gives 0 or 1, for servers without log-probabilities, in place of the
    first token's log-probabilities; ``answered`` is as of ``Vlm``. ``timeout`` (seconds) bounds a try, ``tries`` their
    number, ``pause`` (seconds) is the first one between two, doubled each time or what the server asks for, and
    ``patience`` (seconds) bounds the pauses of a question together. The key is read from the environment variable
    ``key_variable``; without it none is sent. Pictures are sent as ``format``, of ``longest_side`` pixels at most.
    """

    url: str
    model: str
    by_text: bool = False
    timeout: float = 60.0
    tries: int = 5
    pause: float = 1.0
    patience: float = 120.0
    concurrency: int = 8
    key_variable: str = "OPENAI_API_KEY"
    answered: float = ANSWERED
    longest_side: int | None = None
    format: str = "png"
    digest: str = field(default="", init=False)

    def __post_init__(self):
        check_value(self.url, Url, "url")
        check_value(self.key_variable, KeyVariable, "key_variable")
        self._key = os.environ.get(self.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"environment variable {self.key_variable}: expected a key of printable ASCII characters")
        self._works, self._row = False, []  # whether it has ever answered; (kind, picture) of the latest failures

    @property
    def name(self) -> str:
        parts = [f"{self.model} at {urlsplit(self.url).netloc}", *["by text"] * self.by_text]
        parts += [self.format] * (self.format != "png") + [f"{self.longest_side} px"] * bool(self.longest_side)
        return ", ".join(parts)

    def check(self, answer: str) -> None:
        """As ``Vlm.check``. Which words are one token is not known of a server."""
        if len(answer.split()) > 1:
            raise UserError(f"{self.name}: answer {answer!r}: expected one word, for no more of an answer is read")
        written(answer)

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """As ``Vlm.ask``. Of a token beyond the 20 most likely the probability counts as 0."""
        settings = {"max_tokens": 1024} if self.by_text else FIRST_TOKEN
        read = by_words if self.by_text else partial(by_tokens, bound=self.answered)
        readers = [partial(read, answer=answer) for answer in answers]
        return self.converse(images, questions, readers, settings, (PROBE, partial(read, answer="yes")))

    def converse(
        self, images: Sequence[Image], questions: Sequence[str], readers: Sequence[Reader], settings: Mapping,
        probe: tuple[str, Reader] | None = None,
    ) -> list[float | UserError]:  # fmt: skip
        """What each reader makes of the reply to its question; a UserError in the place of one that could not be had.
        ``settings`` go into the requests. With a ``probe`` the first question of all is put alone: if it fails, the
        probe decides. Raises RewardFailed where the server refuses question after question."""
        distinct = {id(image): image for image in images}
        with ThreadPoolExecutor(self.concurrency) as pool:
            sent = dict(zip(distinct, pool.map(self._encoded, distinct.values()), strict=True))
        items = list(zip((sent[id(image)] for image in images), questions, readers, strict=True))
        alone = 1 if probe and not self._works else 0
        first = asyncio.run(self._put(items[:alone], settings)) if alone else []
        if probe and any(isinstance(value, UserError) for value in first):
            self.probe(*probe, settings)
        return first + asyncio.run(self._put(items[alone:], settings))

    def probe(self, question: str, read: Reader, settings: Mapping) -> None:
        """Raise UserError unless the model answers a ``question`` about a red square: the setup is wrong."""
        (value,) = self.converse([new("RGB", (32, 32), "red")], [question], [read], settings)
        if isinstance(value, UserError):
            raise UserError(f"{value}; no picture was judged: this was a first question about a red square")

    def _encoded(self, image: Image) -> str:
        stored, image = io.BytesIO(), image.convert("RGB")
        if self.longest_side:
            image.thumbnail((self.longest_side, self.longest_side), Resampling.LANCZOS)
        image.save(stored, self.format, quality=95)  # which PNG does not know
        return f"data:image/{self.format};base64,{base64.b64encode(stored.getvalue()).decode()}"

    async def _put(self, items: Sequence[tuple[str, str, Reader]], settings: Mapping) -> list[float | UserError]:
        gate, given_up = asyncio.Semaphore(self.concurrency), []

        async def answer(picture: str, question: str, read: Reader) -> float | UserError:
            async with gate:
                if given_up:
                    return given_up[0]
                content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
                asked = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
                result = await self._patiently(client, question, read, asked | settings)
            self._works |= not isinstance(result, UserError)
            kind = getattr(result, "kind", "")
            self._row = [each for each in self._row if each[0] == kind] + [(kind, hash(picture))] * bool(kind)
            count = len(self._row if kind in (NO_SERVER, *OF_ALL) else set(self._row))
            if kind == NO_SERVER and count >= GIVE_UP:
                self._row = []
                given_up.append(UserError(f"not asked after {GIVE_UP} failures in a row, the last: {result}"))
            elif kind != NO_SERVER and count >= REFUSALS:
                raise RewardFailed(f"{result}; nothing more is asked after {REFUSALS} such refusals in a row")
            return result

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # so a reply's bound is one
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with reading(f"{self.name}: proxies and certificates of the environment", "some that can be used"):
            client = httpx2.AsyncClient(headers=headers, limits=httpx2.Limits(), timeout=None)  # the gate is one
        async with client:
            return list(await asyncio.gather(*(answer(*item) for item in items)))

    async def _patiently(self, client: httpx2.AsyncClient, question: str, read: Reader, asked: dict) -> float | Failure:
        body, waited = json.dumps(asked).encode(), 0.0
        for attempt in range(1, self.tries + 1):
            try:
                check_text(question)
                return _value(await self._post(client, body), read)
            except UserError as error:
                kind, wait, problem = getattr(error, "kind", ""), getattr(error, "wait", None), f"{error}"
            pause = max(wait or 0.0, self.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1)) if kind else 0.0
            waited += pause
            if wait is None or attempt == self.tries or waited > self.patience:
                many = f"no usable answer in {attempt} tries; the last: " if attempt > 1 else ""
                long = f"; the next would be after {waited:.0f} s of waiting" if waited > self.patience else ""
                return Failure(f"{self.name}: question {question[:QUOTED]!r}: {many}{problem}{long}", kind)
            await asyncio.sleep(pause)

    async def _post(self, client: httpx2.AsyncClient, body: bytes) -> str:
        """The reply, without the key. Raises Failure."""
        url, content = f"{self.url.rstrip('/')}/chat/completions", b""
        try:
            async with asyncio.timeout(self.timeout), client.stream("POST", url, content=body) as reply:
                async for part in reply.aiter_raw():
                    content += part
                    if len(content) > MAX_REPLY:
                        raise Failure(f"a reply of more than {MAX_REPLY} bytes", wait=0.0)
        except TimeoutError:
            raise Failure(f"no complete reply within {self.timeout:g} s", NO_SERVER, 0.0) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:  # refused, reset, cut off
            raise Failure(f"no reply ({type(error).__name__}: {error})", NO_SERVER, 0.0) from None
        text, status = content.decode("utf-8", "replace"), f"HTTP {reply.status_code}"
        for form in (self._key, json.dumps(self._key)[1:-1], quote(self._key)):
            text = text.replace(form, "***") if len(form) >= A_SECRET else text
        if reply.is_success:
            return text
        if reply.status_code < 400:
            raise Failure(f"{status}: a redirect, which is not followed, expected the URL of the server itself", status)
        problem = f"{status} {' '.join(text.split())[:QUOTED] or reply.reason_phrase!r}"
        if reply.status_code >= 500 or (reply.status_code in WORTH_RETRYING and "insufficient_quota" not in text):
            wait = _seconds(reply.headers.get("Retry-After"), time.time())
            raise Failure(problem, NO_SERVER if reply.status_code >= 500 else status, wait)
        raise Failure(f"refused with {problem}", status if status in OF_ALL else problem)


def _value(reply: str, read: Reader) -> float:
    """What ``read`` makes of a chat completion. Raises Failure for a reply that is none, UserError as ``read``."""
    try:
        return read(json.loads(reply)["choices"][0])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        said = f"{error}; " if type(error) is ValueError else ""
        shown = f"expected a chat completion with what was asked for, got {reply[:QUOTED]!r}"
        raise Failure(f"{said}{shown}", wait=0.0) from None


def by_tokens(choice: dict, answer: str, bound: float = ANSWERED) -> float:
    """Sum of the probabilities of the first tokens that are a way to write ``answer``; see ``Reader``."""
    first = choice["logprobs"]["content"][0]
    tokens = {entry["token"]: entry["logprob"] for entry in [first, *first["top_logprobs"]]}
    if not all(type(value) in (int, float) and value <= 1e-6 for value in tokens.values()):  # NaN is not <= 0
        raise ValueError("log-probabilities that are none")
    shares = {token: math.exp(value) for token, value in tokens.items()}
    if sum(shares.values()) > 1.01:
        raise ValueError("log-probabilities of more than 1")
    mass = sum(share for token, share in shares.items() if meaning(token, answer) is not None)
    counted = sum(share for token, share in shares.items() if is_counted(token, answer))
    require_answered(mass, counted, bound, *max(shares.items(), key=lambda item: item[1]))
    forms = written(answer)
    return min(1.0, sum((share for token, share in shares.items() if token.strip(" \u2581\u0120") in forms), 0.0))


def by_words(choice: dict, answer: str) -> float:
    """``by_text`` of a reply; see ``Reader``."""
    return by_text(choice["message"]["content"], answer)


def _seconds(header: str | None, now: float) -> float:
    """What ``Retry-After``, a number or a date of HTTP, asks for at the time ``now``; 0 where it asks for nothing."""
    for read in (float, lambda date: parsedate_to_datetime(date).timestamp() - now):
        with suppress(ValueError, TypeError, OverflowError):
            return max(0.0, read(header))
    return 0.0
