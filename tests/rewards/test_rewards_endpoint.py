"""A model behind an endpoint, against a local server that answers well, badly, late, or not at all."""

import base64
import io
import json
import math
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from tests._support.published import PROMPTS, images
from unigrpo.core.errors import UserError
from unigrpo.judges import reward as rewards

OPTIONS = {"model": "judge", "timeout": 2.0, "pause": 0.01, "longest_pause": 0.04}


class Server:
    """``answers``: what each request is given in turn, the last of them from then on: (status, body) or a callable of
    the request. ``seen``: the requests; ``most``: how many were under way at once."""

    def __init__(self):
        self.answers, self.seen, self.most, self.active, self.lock = [], [], 0, 0, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.active += 1
                    outer.most = max(outer.most, outer.active)
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                    outer.seen.append((self.path, dict(self.headers), body))
                status, reply = answer(body) if callable(answer) else answer
                with outer.lock:
                    outer.active -= 1
                data = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                with suppress(ConnectionError):  # of one who has stopped waiting
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def said(text, **logprobs):
    """A chat completion; ``logprobs``: token -> probability of the first token."""
    choice = {"message": {"role": "assistant", "content": text}}
    if logprobs:
        top = [{"token": token, "logprob": math.log(p)} for token, p in logprobs.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0, "top_logprobs": top}]}
    return 200, {"choices": [choice]}


def load(server, **changes):
    return rewards.load("vlm_endpoint", url=server.url, **OPTIONS | changes)


def test_what_is_asked(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    server.answers = [said("Yes", Yes=1.0)]
    picture = images(1)
    assert load(server, key_variable="MY_KEY")(picture, PROMPTS[:1]).tolist() == [1.0]
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["logprobs"]) == ("judge", 0, True)
    shown, asked = body["messages"][0]["content"]
    assert 'the prompt "a red cat"' in asked["text"] and "{" not in asked["text"]
    file = base64.b64decode(shown["image_url"]["url"].removeprefix("data:image/png;base64,"))
    sent = np.asarray(Image.open(io.BytesIO(file)))
    assert np.array_equal(sent, (picture[0].permute(1, 2, 0) * 255).round().byte().numpy())


@pytest.mark.parametrize(
    "answer, score",
    [
        (said("Yes", Yes=0.5, yes=0.25, No=0.2), 0.75),
        (said("No", No=0.9), 0.0),
        (said("maybe", maybe=1.0), 0.0),
    ],
    ids=["yes", "only no", "other tokens"],
)
def test_yes_is_a_probability(server, answer, score):
    server.answers = [answer]
    assert load(server)(images(1), PROMPTS[:1]).item() == pytest.approx(score)


@pytest.mark.parametrize(
    "text, score", [("No, it shows a dog.", 0.0), ("a banana", 0.0), ("**yes**", 1.0), ("Yes.", 1.0)]
)
def test_an_answer_may_be_read_by_its_word(server, text, score):
    server.answers = [said(text)]
    assert load(server, answer="word")(images(1), PROMPTS[:1]).item() == score
    assert "logprobs" not in server.seen[0][2]


def test_an_endpoint_without_log_probabilities_is_told(server):
    """And not taken for one whose word counts."""
    server.answers = [said("yes")]
    with pytest.raises(UserError, match="expected a chat completion with what was asked for"):
        load(server, attempts=1)(images(1), PROMPTS[:1])


@pytest.mark.parametrize("text, score", [("7", 0.7), ("Score: 10/10", 1.0), ("2.5", 0.25), ("0", 0.0)])
def test_a_rating_is_its_number(server, text, score):
    server.answers = [said(text)]
    assert load(server, answer="rating")(images(1), PROMPTS[:1]).item() == pytest.approx(score)
    assert "logprobs" not in server.seen[0][2]


def test_scores_come_back_in_the_samples_order_with_bounded_concurrency(server):
    order = {p.text: i for i, p in enumerate(PROMPTS)}

    def by_prompt(body):
        text = body["messages"][0]["content"][1]["text"]
        number = next(i for words, i in order.items() if f'"{words}"' in text)
        time.sleep(0.1 - 0.03 * number)  # the first is the slowest
        return said(str(number))

    server.answers = [by_prompt]
    score = load(server, answer="rating", concurrency=2)
    assert score(images(3).repeat(2, 1, 1, 1), PROMPTS * 2).tolist() == pytest.approx([0, 0.1, 0.2] * 2)
    assert server.most == 2


def test_what_may_pass_is_tried_again(server):
    server.answers = [(503, "busy"), (429, "slow down"), (200, "<html>"), (200, {"choices": []}), said("no", no=1.0)]
    assert load(server)(images(1), PROMPTS[:1]).tolist() == [0.0]
    assert len(server.seen) == 5


def test_a_server_that_hangs_is_left(server):
    server.answers = [lambda body: (time.sleep(4), said("yes"))[1], said("yes", yes=1.0)]
    begun = time.monotonic()
    assert load(server, timeout=0.2)(images(1), PROMPTS[:1]).tolist() == [1.0]
    assert time.monotonic() - begun < 3


NONSENSE = {
    "no word": (said("..."), "an answer without a word: '...'"),
    "nothing": ((200, {"choices": [{"message": {"content": None}}]}), "expected a chat completion with"),
    "a list": ((200, [1, 2]), "expected a chat completion with"),
    "busy": ((503, "overloaded"), "HTTP 503 'overloaded'"),
}


@pytest.mark.parametrize("answer, reason", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_with_the_sample_after_the_last_try(server, answer, reason):
    server.answers = [said("yes"), answer]
    with pytest.raises(UserError) as error:
        load(server, answer="word", attempts=3, concurrency=1)(images(3), PROMPTS)
    wanted = f"reward vlm_endpoint: sample 1 (p/1, 'two dogs'): {server.url}: no usable answer in 3 tries; the last: "
    assert str(error.value).startswith(wanted + reason)
    assert len(server.seen) == 7  # the others are asked too


@pytest.mark.parametrize("text", ["11", "-1", "ten", "nan"])
def test_a_rating_out_of_bounds_is_nonsense(server, text):
    server.answers = [said(text)]
    with pytest.raises(UserError, match="no usable answer in 2 tries; the last: expected a number from 0 to 10"):
        load(server, answer="rating", attempts=2)(images(1), PROMPTS[:1])


def test_what_cannot_pass_is_not_tried_again(server):
    server.answers = [(401, "no such key")]
    with pytest.raises(UserError, match=r"sample 0 \(p/0, 'a red cat'\): .*refused with HTTP 401 'no such key'"):
        load(server, concurrency=1)(images(1), PROMPTS[:1])
    assert len(server.seen) == 1


def test_a_server_that_is_not_there_is_named():
    score = rewards.load("vlm_endpoint", url="http://127.0.0.1:9/v1", attempts=2, **OPTIONS)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1: no usable answer in 2 tries; the last: no reply"):
        score(torch.zeros(1, 3, 8, 8), PROMPTS[:1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"answer": "maybe"}, "answer: expected 'yes', 'word' or 'rating', got 'maybe'"),
        ({"question": "well?"}, "question: expected a text that holds {prompt}, got 'well\\?'"),
        ({"attempts": 0}, "attempts: expected at least 1, got 0"),
        ({"timeout": -1}, "timeout: expected more than 0, got -1"),
        ({"url": "x/v1"}, "url: expected a URL, http:// or https:// with a host, got 'x/v1'"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(UserError, match=f"^reward vlm_endpoint: {message}"):
        rewards.load("vlm_endpoint", **{"url": "http://x/v1"} | OPTIONS | changes)
