"""What counts as an answer: the table of docs/evals.md, and first tokens in any spelling."""

import pytest

from rewards import vlm_endpoint
from unigrpo.core.errors import UserError
from unigrpo.judges.answers import by_text, is_counted, meaning, require_answered, written

NONE = "not answered"
REPLIES = [  # reply, what the question expects, outcome: as docs/evals.md has them
    ("Yes", "yes", 1.0),
    ("YES.", "yes", 1.0),
    ("No, it shows a dog.", "yes", 0.0),
    ("no", "no", 1.0),
    ("**Yes**", "yes", 1.0),
    ("(Yes)", "yes", 1.0),
    ('"Yes."', "yes", 1.0),
    ("Answer: Yes", "yes", 1.0),
    ("<answer>Yes</answer>", "yes", 1.0),
    ("<think>There is no cup? There is.</think>Yes", "yes", 1.0),
    ("I see no cup at first.</think> Yes", "yes", 1.0),
    ("<thinking>Yes, there is", "yes", NONE),
    ("Yes, there is no cup.", "yes", NONE),
    ("Yes/No", "yes", NONE),
    ("There is a cup.", "yes", NONE),
    ("I'm sorry, I can't help with that.", "yes", NONE),
    ("是", "yes", NONE),
    ("...", "yes", NONE),
    ("2", "two", 1.0),
    ("There are two.", "two", 1.0),
    ("Twelve", "two", 0.0),
    ("10", "1", 0.0),
    ("None", "two", 0.0),
    ("twenty-two", "two", NONE),
    ("one hundred", "one", NONE),
    ("2.5", "two", NONE),
    ("2 or 3", "two", NONE),
    ("Red.", "red", 1.0),
    ("It is blue.", "red", 0.0),
    ("red and white", "red", NONE),
    ("Sorry, I can't tell.", "red", NONE),
    ("8", "a rating", 0.8),
    ("Score: 8/10", "a rating", 0.8),
    ("8 out of 10", "a rating", 0.8),
    ("<think>3?</think>7.5", "a rating", 0.75),
    ("On a scale of 0 to 10: 8", "a rating", NONE),
    ("8-9", "a rating", NONE),
    ("80%", "a rating", NONE),
    ("11", "a rating", NONE),
    ("ten", "a rating", NONE),
]


def outcome(reply, answer):
    try:
        if answer == "a rating":
            return vlm_endpoint.rating({"message": {"content": reply}})
        return by_text(reply, answer)
    except UserError as error:
        assert repr(reply[:20])[1:-1] in str(error) or "while it thinks" in str(error)
        return NONE


@pytest.mark.parametrize(("reply", "answer", "expected"), REPLIES)
def test_a_reply_says_one_accepted_answer_or_none(reply, answer, expected):
    assert outcome(reply, answer) == expected


def test_the_documentation_has_the_table(root):
    rows = [f"| `{reply}` | {answer} | {e if e == NONE else f'{e:g}'} |" for reply, answer, e in REPLIES]
    assert len(rows) >= 25 and "\n".join(rows) + "\n\n" in (root / "docs/evals.md").read_text()


def test_ways_to_write_an_answer():
    assert written(" Yes") == ("yes", "Yes") and written("red") == ("red", "Red")
    assert set(written("two")) == set(written("2")) == {"two", "Two", "2"}
    with pytest.raises(UserError, match="empty"):
        written(" ")


@pytest.mark.parametrize(
    ("answer", "said", "nothing"),
    [
        ("Yes", {"yes": "YES", "no": "\u0120No"}, ("Y", "yesterday", "<think>", "**", "So", "1", "", "\ud83d")),
        ("two", {"2": "\u2581Two", "0": " zero", "13": "13", "twenty": "Twenty"}, ("yes", "2.", "tw", "many")),
        ("red", {"red": " Red", "burg": "burg", "blue": "blue\n"}, ("<think>", "**", "So", "I", "There", "Sorry", "")),
    ],
)
def test_tokens_that_are_an_answer(answer, said, nothing):
    assert {meaning(token, answer) for token in said.values()} == set(said)
    assert [meaning(token, answer) for token in nothing] == [None] * len(nothing)


def test_a_question_is_answered_from_the_bound_on():
    require_answered(0.5, 0.5, 0.5, "<think>", 0.5)
    with pytest.raises(UserError, match=r"^only 3 % of its first token is an answer \(the likeliest: '<think>' 97 %\)"):
        require_answered(0.03, 0.03, 0.5, "<think>", 0.97)


def test_an_answer_in_a_way_of_writing_that_no_score_counts_is_no_zero():
    assert [is_counted(token, "yes") for token in (" Yes", "no", "YES", "nO", "So")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [is_counted(token, "two") for token in ("3", "Three", "THREE", "03")] == [True, True, False, False]
    with pytest.raises(UserError, match=r"^100 % of its first token is an answer, 3 % as scores count it .*'YES' 97 %"):
        require_answered(1.0, 0.03, 0.5, "YES", 0.97)
