"""The client of a model behind a server, against a local server that answers, stalls, fails and talks nonsense."""

import time

import numpy as np
import pytest
from PIL import Image

from tests._support import fake_server
from tests._support.fake_server import serving, text, tokens
from unigrpo.core.errors import UserError
from unigrpo.judges import endpoint, written
from unigrpo.judges.endpoint import Endpoint

RED = Image.new("RGB", (4, 3), "red")


def client(url, **options):
    return Endpoint(url, "judge", **({"pause": 0.0, "timeout": 5.0, "tries": 3} | options))


def ask(url, answer="yes", n=1, **options):
    return client(url, **options).ask([RED] * n, ["Is it red?"] * n, [answer] * n)


def test_ways_to_write_an_answer():
    assert written(" Yes") == ("yes", "Yes") and written("red") == ("red", "Red")
    assert set(written("two")) == set(written("2")) == {"two", "Two", "2"}
    with pytest.raises(UserError, match="empty"):
        written(" ")


def test_the_request_holds_image_question_and_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda _: tokens(yes=0.5)) as (url, asked):
        ask(url)
    (request,), (headers,) = asked, asked.headers
    assert fake_server.question(request) == "Is it red?" and request["model"] == "judge"
    assert (request["max_tokens"], request["temperature"], request["logprobs"]) == (1, 0, True)
    assert np.array_equal(fake_server.picture(request), RED)
    assert headers["Authorization"] == "Bearer secret" and headers["path"] == "/v1/chat/completions"


def test_the_probability_sums_the_ways_to_write_the_answer():
    shares = {"no": 0.4, "Yes": 0.2, " yes": 0.1, "yes": 0.05, "yesterday": 0.1}
    with serving(lambda _: tokens(**shares)) as (url, _):
        assert ask(url) == [pytest.approx(0.35)]
        assert ask(url, "no") == [pytest.approx(0.4)]
        (none,) = ask(url, "three")
        assert none == 0 and isinstance(none, float)
    with serving(lambda _: tokens(**{"2": 0.3, "two": 0.2, "three": 0.5})) as (url, _):
        assert ask(url, "two") == [pytest.approx(0.5)]


def test_by_text_for_servers_without_probabilities():
    said = iter(["Yes, it is.", "No", "2"])
    with serving(lambda _: text(next(said))) as (url, asked):
        assert [ask(url, answer, by_text=True)[0] for answer in ("yes", "yes", "two")] == [1.0, 0.0, 1.0]
    assert "logprobs" not in asked[0]


def test_answers_stand_in_the_order_of_the_questions():
    def answer(request):
        level = np.asarray(fake_server.picture(request))[0, 0, 0] / 255
        time.sleep(0.02 * (1 - level))  # the first to be asked is the last to be answered
        return tokens(yes=max(level, 1e-9))

    images = [Image.new("RGB", (2, 2), (v, 0, 0)) for v in range(0, 250, 25)]
    with serving(answer) as (url, asked):
        found = client(url, concurrency=4).ask(images, ["?"] * 10, ["yes"] * 10)
    assert found == pytest.approx([v / 255 for v in range(0, 250, 25)], abs=1e-6)
    assert 2 <= asked.at_once <= 4


@pytest.mark.parametrize(
    "first", [500, 429, 503, b"<html>", b"", {"choices": []}, tokens(yes=2.0), {"choices": [{"logprobs": None}]}]
)
def test_a_passing_failure_is_survived(first):
    replies = iter([first, tokens(yes=0.5)])
    with serving(lambda _: next(replies)) as (url, asked):
        assert ask(url) == [pytest.approx(0.5)]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"<html>oops</html>", r"in 3 tries; the last: expected a chat completion .*'<html>oops"),
        (text("yes"), "expected a chat completion with what was asked for"),
        (b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":NaN,"top_logprobs":[]}]}}]}', "are none"),
        (b"x" * (2 << 20), "more than 1048576 bytes"),
        (502, "HTTP 502"),
    ],
)
def test_nonsense_is_bounded_and_told(reply, message):
    with serving(lambda _: reply) as (url, asked):
        (error,) = ask(url)
    assert isinstance(error, UserError) and len(asked) == 3
    with pytest.raises(UserError, match=message):
        raise error


@pytest.mark.parametrize("said", ["None", "There are three.", "As a model, I ...", "not"])
def test_another_word_is_a_wrong_answer(said):
    with serving(lambda _: text(said)) as (url, asked):
        assert ask(url, "two", by_text=True) == ask(url, "yes", by_text=True) == [0.0]
    assert len(asked) == 2


@pytest.mark.parametrize("said", ["", " ", "..."])
def test_a_text_without_a_word_is_told(said):
    with serving(lambda _: text(said)) as (url, asked), pytest.raises(UserError, match="an answer without a word"):
        raise ask(url, by_text=True)[0]
    assert len(asked) == 3


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
    with serving(lambda _: text(next(said))) as (url, asked):
        images, read = [RED, RED], [lambda choice: float(choice["message"]["content"]) / 10] * 2
        found = client(url, concurrency=1).converse(images, ["How good?"] * 2, read, {"max_tokens": 3})
    assert found == [0.75, 0.9] and asked[0]["max_tokens"] == 3 and len(asked) == 3


def test_what_the_server_refuses_is_not_repeated():
    with (
        serving(lambda _: 401) as (url, asked),
        pytest.raises(UserError, match=r"refused with HTTP 401 .*\{\"no\": 401\}"),
    ):
        raise ask(url)[0]
    assert len(asked) == 1


def test_one_failure_leaves_the_others():
    with serving(lambda r: 400 if fake_server.picture(r).size == (1, 1) else tokens(yes=0.5)) as (url, _):
        images = [RED, Image.new("RGB", (1, 1)), RED]
        found = client(url).ask(images, ["?"] * 3, ["yes"] * 3)
        assert found[0] == found[2] == pytest.approx(0.5) and isinstance(found[1], UserError)


def test_a_stalling_server_costs_its_time_limit():
    with serving(lambda _: time.sleep(0.6) or tokens(yes=1.0)) as (url, _):
        start = time.monotonic()
        (error,) = ask(url, timeout=0.1, tries=2)
    assert isinstance(error, UserError) and "no reply (timed out)" in str(error) and time.monotonic() - start < 2


def test_the_pause_is_what_the_server_asks_within_bounds(monkeypatch):
    slept = []
    monkeypatch.setattr(endpoint.time, "sleep", slept.append)
    replies = iter([(429, {"Retry-After": "7"}), (429, {"Retry-After": "4000"}), 500, (429, {"Retry-After": "x"})])
    with serving(lambda _: next(replies, tokens(yes=0.5))) as (url, _):
        assert ask(url, pause=2.0, longest_pause=30.0, tries=5) == [pytest.approx(0.5)]
    assert slept[:2] == [7, 30] and 4 <= slept[2] <= 8 and 8 <= slept[3] <= 16


def test_refusals_and_answers_that_cannot_be_read_are_their_questions_own():
    """Twelve of each, and the last question is asked all the same."""
    for reply in (400, 404, 429, b"<html>"):
        replies = iter([reply] * 12)
        with serving(lambda _, replies=replies: next(replies, tokens(yes=0.5))) as (url, _):
            found = ask(url, n=13, concurrency=1, tries=1)
        assert all(isinstance(error, UserError) for error in found[:12]) and found[12] == pytest.approx(0.5)


def test_a_later_call_starts_afresh():
    down = [503] * 8
    with serving(lambda _: down.pop() if down else tokens(yes=0.5)) as (url, asked):
        judge = client(url, concurrency=1, tries=1)
        first = judge.ask([RED] * 12, ["?"] * 12, ["yes"] * 12)
        assert len(asked) == 8 and all("not asked after 8" in str(error) for error in first[8:])
        assert judge.ask([RED], ["?"], ["yes"]) == [pytest.approx(0.5)]


def test_failures_in_a_row_are_meant():
    replies = iter(([503] * 7 + [400]) * 2 + [tokens(yes=0.5)])
    with serving(lambda _: next(replies)) as (url, _):
        assert ask(url, n=17, concurrency=1, tries=1)[16] == pytest.approx(0.5)


def test_the_key_is_stripped_and_never_told(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    with serving(lambda _: tokens(yes=0.5)) as (url, asked):
        assert ask(url) == [pytest.approx(0.5)]
        assert asked.headers[0]["Authorization"] == "Bearer secret"
        judge = client(url)
        for key in ("sec\nret", "sécret", "sec\x7fret"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            for attempt in (lambda: client(url), lambda: judge._post(b"")):
                with pytest.raises(UserError, match="^environment variable OPENAI_API_KEY: expected a key") as error:
                    attempt()
                assert "ret" not in str(error.value)
    assert len(asked) == 1


def test_a_dead_server_is_given_up():
    found = ask("http://127.0.0.1:9/v1", n=40, concurrency=2, tries=1)
    assert len(found) == 40 and all(isinstance(error, UserError) for error in found)
    assert "no reply" in str(found[0]) and "not asked after 8 failures in a row" in str(found[-1])
