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
from PIL import Image

from tests._support.published import PROMPTS, images
from unigrpo.core.errors import RewardFailed, UserError
from unigrpo.judges import reward as rewards

OPTIONS = {"model": "judge", "timeout": 2.0, "pause": 0.01}


class Server:
    """``answers``: what each request is given in turn, the last of them from then on: (status, body) or a callable of
    the request. ``seen``: the requests; ``most``: how many were under way at once. Of the first question, about a red
    square, is neither, unless ``probed`` says so."""

    def __init__(self):
        self.answers, self.seen, self.most, self.active, self.lock = [], [], 0, 0, threading.Lock()
        self.probed, outer = False, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = body["messages"][0]["content"][1]["text"]
                if "a red square" in asked and not outer.probed:
                    number = "10" if "number" in asked else "Yes"
                    return self.reply(*said(number, **({"Yes": 1.0} if "logprobs" in body else {})))
                with outer.lock:
                    outer.active += 1
                    outer.most = max(outer.most, outer.active)
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                    outer.seen.append((self.path, dict(self.headers), body))
                status, reply = answer(body) if callable(answer) else answer
                with outer.lock:
                    outer.active -= 1
                self.reply(status, reply)

            def reply(self, status, reply):
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
    monkeypatch.setenv("MY_API_KEY", "secret")
    server.answers = [said("Yes", Yes=1.0)]
    picture = images(1)
    assert load(server, key_variable="MY_API_KEY")(picture, PROMPTS[:1]).tolist() == [1.0]
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
    ],
    ids=["yes", "only no"],
)
def test_yes_is_a_probability(server, answer, score):
    server.answers = [answer]
    assert load(server)(images(1), PROMPTS[:1]).item() == pytest.approx(score)


@pytest.mark.parametrize(
    "text, score", [("No, it shows a dog.", 0.0), ("<think>No?</think> Yes", 1.0), ("**yes**", 1.0), ("Yes.", 1.0)]
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
    "nothing": ((200, {"choices": [{"message": {"content": None}}]}), "expected a chat completion with"),
    "a list": ((200, [1, 2]), "expected a chat completion with"),
    "busy": ((503, "overloaded"), "HTTP 503 'overloaded'"),
}


@pytest.mark.parametrize("answer, reason", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_with_the_sample_after_the_last_try(server, answer, reason):
    server.answers = [said("yes"), answer]
    with pytest.raises(UserError) as error:
        load(server, answer="word", attempts=3, concurrency=1)(images(3), PROMPTS)
    assert str(error.value).startswith("reward vlm_endpoint: sample 1 (p/1, 'two dogs'): judge at 127.0.0.1:")
    assert f"no usable answer in 3 tries; the last: {reason}" in str(error.value)
    assert len(server.seen) == 7  # the others are asked too


NO_ANSWERS = {
    "yes": (
        said("maybe", maybe=0.96, Yes=0.04),
        "only 4 % of its first token is an answer (the likeliest: 'maybe' 96 %)",
    ),
    "word": (said("Yes and no"), "its reply 'Yes and no' says no and yes"),
    "rating": (said("8 or 9"), "expected one number from 0 to 10, got '8 or 9'"),
}


@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_a_sample_that_is_not_answered_has_no_score(server, answer):
    """And is asked about once; the others have theirs."""
    reply, why = NO_ANSWERS[answer]
    server.answers = [reply, said("10" if answer == "rating" else "Yes", Yes=1.0)]
    with pytest.raises(rewards.Unscored) as caught:
        load(server, answer=answer, concurrency=1)(images(3), PROMPTS)
    assert why in caught.value.problems[0] and len(server.seen) == 3
    assert caught.value.scores["reward"].isnan().tolist() == [True, False, False]


def test_the_bound_of_an_answer_is_an_option(server):
    server.answers = [said("maybe", maybe=0.96, Yes=0.04)]
    assert load(server, answered=0.04)(images(1), PROMPTS[:1]).item() == pytest.approx(0.04)


@pytest.mark.parametrize("reply", [(401, "no such key"), (404, "no such model"), said("<think>", **{"<think>": 1.0})])
def test_a_wrong_setup_is_found_before_anything_is_painted(server, reply):
    server.answers, server.probed = [reply], True
    with pytest.raises(UserError, match="question about a red square"):
        load(server)
    assert len(server.seen) == 1


def test_a_key_that_is_refused_ends_the_run_whatever_becomes_of_failures(server):
    """And is no failure of samples, which a run may drop, or an evaluation may list."""
    server.answers = [said("Yes", Yes=1.0), (401, "no such key")]
    judge = load(server, concurrency=1)
    with pytest.raises(RewardFailed, match="HTTP 401 .*nothing more is asked") as caught:
        rewards.scores_of(judge, images(3).repeat(3, 1, 1, 1), PROMPTS * 3, "drop")
    assert not isinstance(caught.value, rewards.Unscored) and len(server.seen) == 4
    with pytest.raises(RewardFailed, match="HTTP 401 .*nothing more is asked"):
        judge.judge([Image.new("RGB", (8, 8))], PROMPTS[:1])
    assert len(server.seen) == 5


def test_pictures_are_sent_as_they_are_asked_for(server):
    server.answers = [said("Yes", Yes=1.0)]
    load(server, format="jpeg", longest_side=16)(images(1), PROMPTS[:1])
    address = server.seen[0][2]["messages"][0]["content"][0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    sent = Image.open(io.BytesIO(base64.b64decode(address)))
    assert sent.format == "JPEG" and max(sent.size) == 16


def test_what_cannot_pass_is_not_tried_again(server):
    server.answers = [(401, "no such key")]
    with pytest.raises(UserError, match=r"sample 0 \(p/0, 'a red cat'\): .*refused with HTTP 401 'no such key'"):
        load(server, concurrency=1)(images(1), PROMPTS[:1])
    assert len(server.seen) == 1


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"^judge at 127\.0\.0\.1:9: .*no usable answer in 2 tries; the last: no reply"):
        rewards.load("vlm_endpoint", url="http://127.0.0.1:9/v1", attempts=2, **OPTIONS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"answer": "maybe"}, "answer: expected 'yes', 'word' or 'rating', got 'maybe'"),
        ({"question": "well?"}, "question: expected a text that holds {prompt}, got 'well\\?'"),
        ({"attempts": 0}, "attempts: expected at least 1, got 0"),
        ({"timeout": -1}, "timeout: expected more than 0, got -1"),
        ({"url": "http://me:pass@x/v1"}, "url: expected a URL without user, password, query and fragment$"),
        ({"key_variable": "HOME"}, "key_variable: expected the name of an environment variable that ends in _API_KEY"),
        ({"format": "gif"}, "format: expected 'png', 'jpeg' or 'webp', got 'gif'"),
        ({"longest_side": 15}, "longest_side: expected at least 16, got 15"),
        ({"answered": 1.1}, "answered: expected at most 1, got 1.1"),
        ({"url": "x/v1"}, "url: expected a URL, http:// or https:// with a host, got 'x/v1'"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(UserError, match=f"^reward vlm_endpoint: {message}"):
        rewards.load("vlm_endpoint", **{"url": "http://x/v1"} | OPTIONS | changes)


@pytest.mark.parametrize("options", ['{"url": "http://me:pass@h/v1"', '["http://me:pass@h/v1"]'])
def test_options_that_cannot_be_read_are_not_shown(options):
    with pytest.raises(UserError, match="^--reward vlm_endpoint: .*after '='") as caught:
        rewards.named(f"vlm_endpoint={options}")
    assert "pass" not in str(caught.value)
