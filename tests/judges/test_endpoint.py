"""The client of a model behind a server, against a local server that answers, stalls, fails and talks nonsense."""

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tests._support import fake_server
from tests._support.fake_server import serving, text, tokens
from unigrpo.core.errors import RewardFailed, UserError
from unigrpo.judges import endpoint
from unigrpo.judges.endpoint import Endpoint

RED = Image.new("RGB", (4, 3), "red")


def client(url, **options):
    return Endpoint(url, "judge", **({"pause": 0.0, "timeout": 5.0, "tries": 3} | options))


def ask(url, answer="yes", n=1, **options):
    return client(url, **options).ask([RED.copy() for _ in range(n)], ["Is it red?"] * n, [answer] * n)


def test_the_request_holds_image_question_and_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda _: tokens(yes=0.5, no=0.5)) as (url, asked):
        ask(url)
    (request,), (headers,) = asked, asked.headers
    assert fake_server.question(request) == "Is it red?" and request["model"] == "judge"
    assert (request["max_tokens"], request["temperature"], request["logprobs"]) == (1, 0, True)
    assert np.array_equal(fake_server.picture(request), RED)
    assert headers["Authorization"] == "Bearer secret" and headers["path"] == "/v1/chat/completions"


def test_the_probability_sums_the_ways_to_write_the_answer():
    shares = {"no": 0.4, "Yes": 0.2, " yes": 0.1, "yes": 0.05, "yesterday": 0.1, "YES": 0.15}
    with serving(lambda _: tokens(**shares)) as (url, _):
        assert ask(url) == [pytest.approx(0.35)]
        assert ask(url, "no") == [pytest.approx(0.4)]
        (none,) = ask(url, "three", answered=0.0)
        assert none == 0 and isinstance(none, float)
    with serving(lambda _: tokens(**{"2": 0.3, "two": 0.2, "three": 0.5})) as (url, _):
        assert ask(url, "two", answered=0.9) == [pytest.approx(0.5)]


NO_ANSWERS = {
    "thinks": {"<think>": 0.97, "Yes": 0.03},
    "thinks in prose": {"So": 0.6, "Got": 0.39},
    "refuses": {"I": 0.98, "Sorry": 0.01},
    "marks": {"**": 0.97, "No": 0.02, "Yes": 0.01},
}


@pytest.mark.parametrize("shares", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_a_first_token_that_is_no_answer_is_no_no(shares):
    """One question, and a first one about a red square: the setup is wrong."""
    likeliest, share = next(iter(shares.items()))
    with serving(lambda _: tokens(**shares)) as (url, asked), pytest.raises(UserError) as caught:
        ask(url, n=40)
    assert f"% of its first token is an answer (the likeliest: {likeliest!r} {100 * share:.0f} %)" in str(caught.value)
    assert "question 'Is this image red? Answer in one word.'" in str(caught.value) and len(asked) == 2


def test_a_question_without_an_answer_is_its_own_failure():
    """So is one whose answer has a spelling that no score counts."""
    shares = {"Is it?": {"<think>": 0.6, "Yes": 0.4}, "Is it red?": {"YES": 0.97, "No": 0.03}}
    with serving(lambda r: tokens(**shares.get(fake_server.question(r), {"Yes": 1.0}))) as (url, asked):
        found = client(url).ask([RED] * 3, ["Is it?", "Is it red?", "Is it so?"], ["yes"] * 3)
        assert found[2] == 1 and len(asked) == 4  # with the probe
        assert re.search(
            r"^judge at \S+: question 'Is it red\?': 100 % of its first token is an answer, 3 %", str(found[1])
        )
        assert re.search(r"^judge at \S+: question 'Is it\?': only 40 % of its first token", str(found[0]))
        assert client(url, answered=0.3).ask([RED], ["Is it?"], ["yes"]) == [pytest.approx(0.4)]


def test_by_text_for_servers_without_probabilities():
    said = iter(["Yes, it is.", "No", "<think>One? No.</think>2", "Yes and no"])
    with serving(lambda _: text(next(said, "Yes"))) as (url, asked):
        assert [ask(url, answer, by_text=True)[0] for answer in ("yes", "yes", "two")] == [1.0, 0.0, 1.0]
        (error,) = ask(url, by_text=True)
    assert "its reply 'Yes and no' says no and yes, expected exactly one accepted answer" in str(error)
    assert "logprobs" not in asked[0] and asked[0]["max_tokens"] >= 512 and len(asked) == 5


def test_answers_stand_in_the_order_of_the_questions():
    def answer(request):
        level = np.asarray(fake_server.picture(request))[0, 0, 0] / 255
        time.sleep(0.02 * (1 - level))  # the first to be asked is the last to be answered
        return tokens(yes=max(level, 1e-9), no=1 - level)

    images = [Image.new("RGB", (2, 2), (v, 0, 0)) for v in range(0, 250, 25)]
    with serving(answer) as (url, asked):
        found = client(url, concurrency=4).ask(images, ["?"] * 10, ["yes"] * 10)
    assert found == pytest.approx([v / 255 for v in range(0, 250, 25)], abs=1e-6)
    assert 2 <= asked.at_once <= 4


@pytest.mark.parametrize(
    "first",
    [500, 429, 503, b"<html>", b"", {"choices": []}, tokens(yes=2.0), {"choices": [{"logprobs": None}]}, b"[" * 100000],
)
def test_a_passing_failure_is_survived(first):
    replies = iter([first, tokens(yes=0.5, no=0.5)])
    with serving(lambda _: next(replies)) as (url, asked):
        assert ask(url) == [pytest.approx(0.5)]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>oops</html>", r"in 3 tries; the last: expected a chat completion .*'<html>oops"),
        (text("yes"), "expected a chat completion with what was asked for"),
        (b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":NaN,"top_logprobs":[]}]}}]}', "are none"),
        (b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":true,"top_logprobs":[]}]}}]}', "are none"),
        (b'{"choices":[{"logprobs":{"content":[{"token":7,"logprob":0,"top_logprobs":[]}]}}]}', "chat completion"),
        (b'{"choices":[{"logprobs":{"content":[]}}]}', "chat completion"),
        ({"choices": {"a": 1}}, "chat completion"),
        (tokens(yes=0.9, no=0.9), "more than 1"),
        (b'"\xff\xfe', "chat completion"),
        (b"[" * 100000, "chat completion"),
        (b"9" * 5000, "chat completion"),
        (b"x" * (2 << 20), "more than 1048576 bytes"),
        (502, "HTTP 502"),
    ],
)
def test_nonsense_is_bounded_and_told(reply, message):
    """It is its question's own failure: the red square is answered."""
    probe = (endpoint.PROBE, tokens(yes=1.0))
    with serving(lambda r: probe[1] if fake_server.question(r) == probe[0] else reply) as (url, asked):
        (error,) = ask(url)
    assert isinstance(error, UserError) and len(asked) == 4 and f"{error}".isprintable()
    with pytest.raises(UserError, match=message):
        raise error


def test_half_an_emoji_of_a_server_is_a_token_that_is_no_answer():
    halved = json.dumps(tokens(odd=0.9, yes=0.1)).replace("odd", "\\ud83d").encode()
    with serving(lambda r: halved if "Is it" in fake_server.question(r) else tokens(yes=1.0)) as (url, _):
        (error,) = ask(url)
    assert r"the likeliest: '\ud83d' 90 %" in str(error) and str(error).isprintable()


def test_half_an_emoji_of_a_question_is_not_sent():
    with serving(lambda _: tokens(yes=1.0)) as (url, asked):
        found = client(url).ask([RED] * 2, ["Is it?", "Is it a \ud83d cat?"], ["yes"] * 2)
    assert found[0] == 1.0 and "half of a character (U+D83D)" in str(found[1]) and len(asked) == 1


def test_an_answer_of_several_words_cannot_be_asked_for():
    judge = client("http://a/v1")
    for answer in ("yes", " Two ", "11", "red"):
        judge.check(answer)
    with pytest.raises(UserError, match="judge at a: answer 'light blue': expected one word"):
        judge.check("light blue")
    with pytest.raises(UserError, match="empty"):
        judge.check(" ")


def test_replies_may_be_read_in_other_ways():
    """As a reward does that asks for a rating."""
    said = iter(["7.5", "good", "9"])

    def number(choice):
        return float(choice["message"]["content"]) / 10

    with serving(lambda _: text(next(said))) as (url, asked):
        found = client(url, concurrency=1).converse([RED] * 2, ["How good?"] * 2, [number] * 2, {"max_tokens": 3})
    assert found == [0.75, 0.9] and asked[0]["max_tokens"] == 3 and len(asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, (302, {"Location": "http://elsewhere.example/?key=secret"})])
def test_a_server_that_refuses_is_found_by_the_probe(status):
    with serving(lambda _: status) as (url, asked), pytest.raises(UserError) as caught:
        ask(url, n=40)
    number = status if isinstance(status, int) else 302
    assert f"HTTP {number}" in str(caught.value) and "red square" in str(caught.value) and len(asked) == 2
    assert "elsewhere" not in str(caught.value)


@pytest.mark.parametrize(("status", "of_one_picture"), [(401, 3), (404, 3), (400, 40), (403, 40), (307, 40), (429, 40)])
def test_refusals_of_one_kind_in_a_row_end_the_asking(status, of_one_picture):
    """A picture may be what is refused; a key and a model's name are whatever is asked."""
    for images, most in (([RED.copy() for _ in range(40)], 3), ([RED] * 40, of_one_picture)):
        shown = [
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)) if image is not RED else RED
            for i, image in enumerate(images)
        ]
        with serving(lambda r: tokens(yes=1.0) if len(asked) == 1 else status) as (url, asked):
            judge = client(url, concurrency=1, tries=1)
            assert judge.ask([RED], ["?"], ["yes"]) == [1.0]
            if most == 40:
                assert all(isinstance(error, UserError) for error in judge.ask(shown, ["?"] * 40, ["yes"] * 40))
            else:
                with pytest.raises(RewardFailed, match=f"HTTP {status}.*nothing more is asked after 3 such refusals"):
                    judge.ask(shown, ["?"] * 40, ["yes"] * 40)
        assert len(asked) == 1 + most


def test_refusals_are_counted_over_calls_and_an_answer_ends_their_row():
    replies = iter([tokens(yes=1.0), 404, 404, tokens(yes=1.0), 404, 404, 404])
    with serving(lambda _: next(replies)) as (url, asked):
        judge = client(url)
        for _ in range(6):
            judge.ask([RED], ["?"], ["yes"])
        with pytest.raises(RewardFailed, match="refused with HTTP 404"):
            judge.ask([RED], ["?"], ["yes"])


def test_a_quota_that_is_spent_is_not_waited_for():
    spent = json.dumps({"error": {"code": "insufficient_quota"}}).encode()

    class Spent(fake_server.Reply):
        status, body = 429, spent

    with serving(lambda _: Spent) as (url, asked), pytest.raises(UserError, match="HTTP 429 .*insufficient_quota"):
        ask(url, pause=100.0)
    assert len(asked) == 2


def test_one_failure_leaves_the_others():
    with serving(lambda r: 400 if fake_server.picture(r).size == (1, 1) else tokens(yes=0.5, no=0.5)) as (url, _):
        images = [RED, Image.new("RGB", (1, 1)), RED]
        found = client(url).ask(images, ["?"] * 3, ["yes"] * 3)
        assert found[0] == found[2] == pytest.approx(0.5) and isinstance(found[1], UserError)


def test_a_picture_is_encoded_once_in_the_format_and_size_that_are_asked_for(monkeypatch):
    saved, save = [], Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda image, *a, **k: saved.append(image.size) or save(image, *a, **k))
    wide = Image.new("RGB", (64, 32), "red")
    for name, most, size in (("png", None, (64, 32)), ("jpeg", 16, (16, 8)), ("webp", 100, (64, 32))):
        with serving(lambda _: tokens(yes=1.0)) as (url, asked):
            judge = client(url, format=name, longest_side=most)
            judge.ask([wide] * 5 + [RED], ["?"] * 6, ["yes"] * 6)
        shown = [fake_server.picture(request, name) for request in asked]
        assert {(p.format, p.size) for p in shown} == {(name.upper(), size), (name.upper(), RED.size)}
        assert np.abs(np.asarray(shown[0].convert("RGB"), float) - [255, 0, 0]).max() < 8
        assert len(saved) == 2 and (name == "png" or f", {name}" in judge.name)
        saved.clear()


def test_a_stalling_server_costs_its_time_limit():
    with serving(lambda _: time.sleep(0.6) or tokens(yes=1.0)) as (url, _):
        start = time.monotonic()
        with pytest.raises(UserError, match="no complete reply within 0.1 s"):
            ask(url, timeout=0.1, tries=2)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("part", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"])
def test_a_server_that_trickles_costs_its_time_limit(part):
    """Within its header, or its body."""
    listening, ends = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def trickle():
        with suppress(OSError):
            connection, _ = listening.accept()
            connection.sendall(part)
            while not ends.wait(0.02):
                connection.sendall(b"a")

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    judge = client(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=0.3, tries=1)
    (error,) = judge.converse([RED], ["?"], [lambda choice: 1.0], {})
    ends.set()
    listening.close()
    assert "no complete reply within 0.3 s" in str(error)


@pytest.fixture
def slept(monkeypatch):
    """The pauses, which take no time."""
    pauses, honest = [], asyncio.sleep

    async def sleep(seconds, *rest):
        pauses.extend([seconds] if seconds else [])
        await honest(0)

    monkeypatch.setattr(endpoint.asyncio, "sleep", sleep)
    return pauses


def test_the_pause_is_what_the_server_asks_within_bounds(slept):
    replies = iter([(429, {"Retry-After": "7"}), 500, (429, {"Retry-After": "x"}), b"<html>"])
    with serving(lambda _: next(replies, tokens(yes=0.5, no=0.5))) as (url, _):
        assert ask(url, pause=2.0, tries=5) == [pytest.approx(0.5)]
    assert slept[0] == 7 and 2 <= slept[1] <= 4 and 4 <= slept[2] <= 8 and len(slept) == 3


@pytest.mark.parametrize(("asked_for", "patience", "tries"), [("50", 120.0, 3), ("4000", 120.0, 1), ("inf", 60.0, 1)])
def test_pauses_that_add_up_to_more_than_the_patience_end_a_question(slept, asked_for, patience, tries):
    busy = (429, {"Retry-After": asked_for})
    with serving(lambda r: busy if "Is it" in fake_server.question(r) else tokens(yes=1.0)) as (url, asked):
        (error,) = ask(url, patience=patience, tries=9)
    assert "HTTP 429" in str(error) and "of waiting" in str(error) and len(asked) == tries + 1
    assert sum(slept) <= patience


def test_a_pause_may_be_a_date():
    now = 1_800_000_000.0
    assert endpoint._seconds("Fri, 15 Jan 2027 08:00:30 GMT", now) == 30
    assert endpoint._seconds("Fri, 15 Jan 2027 07:00:00 GMT", now) == endpoint._seconds("soon", now) == 0
    assert [endpoint._seconds(text, now) for text in (None, "", "nan", "-3", "2.5")] == [0, 0, 0, 0, 2.5]


def test_answers_that_cannot_be_read_are_their_questions_own():
    """Twelve of them, and the last question is asked all the same."""
    replies = iter([tokens(yes=1.0)] + [b"<html>"] * 12)
    with serving(lambda _: next(replies, tokens(yes=0.5, no=0.5))) as (url, _):
        found = ask(url, n=14, concurrency=1, tries=1)
    assert all(isinstance(error, UserError) for error in found[1:13]) and found[13] == pytest.approx(0.5)


def test_a_later_call_starts_afresh():
    replies = iter([tokens(yes=1.0)] + [503] * 8)
    with serving(lambda _: next(replies, tokens(yes=0.5, no=0.5))) as (url, asked):
        judge = client(url, concurrency=1, tries=1)
        first = judge.ask([RED] * 13, ["?"] * 13, ["yes"] * 13)
        assert len(asked) == 9 and all("not asked after 8" in str(error) for error in first[9:])
        assert judge.ask([RED], ["?"], ["yes"]) == [pytest.approx(0.5)]


def test_failures_in_a_row_are_meant():
    replies = iter([tokens(yes=1.0), *([503] * 7 + [400]) * 2, tokens(yes=0.5, no=0.5)])
    with serving(lambda _: next(replies)) as (url, _):
        assert ask(url, n=18, concurrency=1, tries=1)[17] == pytest.approx(0.5)


def test_the_key_is_stripped_and_never_shown(monkeypatch):
    """A server that echoes it in an error, in nonsense, in an answer; an odd key."""
    key = 'sk-"secret/1'
    monkeypatch.setenv("OPENAI_API_KEY", f" {key}\n")

    class Echo(fake_server.Reply):
        status, body = 401, json.dumps({"error": f"no such key: {key}"}).encode()

    class Early(Echo):
        body = f"{'x' * 190} {key} {quote(key)}".encode()

    replies = iter(
        [tokens(yes=0.5, no=0.5), Echo, Early, key.encode(), text(f"{'x' * 70} {key}"), tokens(**{key: 1.0})]
    )
    with serving(lambda _: next(replies)) as (url, asked):
        judge = client(url, tries=1)
        assert judge.ask([RED], ["?"], ["yes"]) == [pytest.approx(0.5)]
        assert asked.headers[0]["Authorization"] == f"Bearer {key}"
        words = client(url, tries=1, by_text=True)
        words._works = True
        for each in (judge, judge, judge, words, judge):
            (error,) = each.ask([RED], ["?"], ["yes"])
            assert (
                "sk-" not in f"{error} {each}"
                and "secret" not in str(error)
                and "***" in str(error) + "***" * (each is words)
            )
    for key in ("sec\nret", "sécret", "sec\x7fret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match="^environment variable OPENAI_API_KEY: expected a key") as error:
            client(url)
        assert "ret" not in str(error.value)


def test_a_redirect_takes_no_key_along(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(lambda _: tokens(yes=1.0)) as (other, taken):
        moved = (307, {"Location": f"{other}/chat/completions?key=abcdef"})
        with serving(lambda _: moved) as (url, _), pytest.raises(UserError) as caught:
            ask(url)
    assert not taken and "HTTP 307: a redirect, which is not followed" in str(caught.value)
    assert "abcdef" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:pass@h/v1", "http://me@h/v1", "http://h/v1?key=pass", "http://h/v1#pass"])
def test_a_url_with_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(UserError, match="^url: expected a URL without user, password, query and fragment$"):
        client(url)


def test_only_a_key_is_sent(monkeypatch):
    for name in ("HOME", "AWS_SECRET_ACCESS_KEY", "_API_KEY", "X_API_KEY_2"):
        with pytest.raises(UserError, match="^key_variable: expected the name of an environment variable that ends in"):
            client("http://h/v1", key_variable=name)


def test_a_dead_server_is_given_up():
    judge = client("http://127.0.0.1:9/v1", concurrency=2, tries=1)
    judge._works = True  # it once was there
    found = judge.ask([RED] * 40, ["?"] * 40, ["yes"] * 40)
    assert len(found) == 40 and all(isinstance(error, UserError) for error in found)
    assert "no reply" in str(found[0]) and "not asked after 8 failures in a row" in str(found[-1])


def test_an_environment_without_a_usable_proxy_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "odd://me:pass@h")
    with pytest.raises(UserError, match="^judge at h: proxies and certificates of the environment: ") as caught:
        client("http://h/v1").ask([RED], ["?"], ["yes"])
    assert "pass" not in str(caught.value)
