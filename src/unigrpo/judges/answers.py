"""What counts as an answer: first tokens and replies of a vision-language model are yes, no, or no answer at all.

The score of a question is the probability of the ways to write the expected answer (``written``). Whether it was
answered is another matter: at least ``ANSWERED`` of the first token has to say one of the accepted answers, spelt in
any way (``meaning``), and as much in a way that scores count, or all of them would be 0. docs/evals.md has a table of
replies and their outcomes. Imports no torch.
"""

from __future__ import annotations

import re

from unigrpo.core.errors import UserError
from unigrpo.world.geneval_verdict import NUMBERS

ANSWERED = 0.5  # probability of the first token
PROBE = "Is this image red? Answer in one word."
BLANKS = " \t\n\u2581\u0120\u010a"  # before a token's word, as they are or as tokenizers write them
YES_NO = ("yes", "no")
TEENS, TENS = "(thir|four|fif|six|seven|eigh|nine)teen", "(twen|thir|for|fif|six|seven|eigh|nine)ty"
MORE_NUMBERS = re.compile(f"eleven|twelve|{TEENS}|{TENS}|dozen|hundred|thousand")
FILLERS = re.compile(  # of a sentence, a thought, a refusal: no answers where the accepted ones are not known
    "an?|and|answer|any|are|as|based|but|can|cannot|could|final|first|here|how|i|i['’]m|if|image|in|is|it|it['’]s|its|let"
    "|looking|maybe|my|not?|of|ok|okay|on|please|s|so|sorry|sure|that|the|there|these|they|this|to|unable|unclear"
    "|unfortunately|unknown|unsure|we|well|what|yes|you|your"
)
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+|[.,/]\d+)*")
THOUGHT = r"(?:think|thinking|thought|reasoning)"
SHOWN = 80  # characters of a reply that a message quotes


def written(answer: str) -> tuple[str, ...]:
    """The ways to write an answer: small and capitalised, a number up to ten as word and digit. Raises UserError for
    an empty one."""
    word = answer.strip().lower()
    if not word:
        raise UserError("an expected answer is empty, expected a word or a number")
    pairs = ((number, f"{digit}") for digit, number in enumerate(NUMBERS))
    words = next((pair for pair in pairs if word in pair), (word,))
    return tuple(dict.fromkeys(form for w in words for form in (w, w.capitalize())))


def meaning(text: str, answer: str) -> str | None:
    """What a word or token says to a question that expects ``answer``, in one spelling; None where that is no answer.
    Accepted are yes and no beside each other, any number beside a number, and beside another word any that is not the
    start of a sentence."""
    word, expected = text.strip(BLANKS).lower(), answer.strip().lower()
    if expected in YES_NO:
        return word if word in YES_NO else None
    if expected in NUMBERS or expected.isdecimal():
        if word in NUMBERS or word == "none":
            return f"{NUMBERS.index(word) if word in NUMBERS else 0}"
        return word.lstrip("0") or "0" if word.isdecimal() else word if MORE_NUMBERS.fullmatch(word) else None
    return word if WORD.fullmatch(word) and (word == expected or not FILLERS.fullmatch(word)) else None


def is_counted(text: str, answer: str) -> bool:
    """Whether a token is an accepted answer in a way of writing that scores count."""
    word = meaning(text, answer)
    return word is not None and text.strip(BLANKS) in written(word)


def require_answered(mass: float, counted: float, bound: float, likeliest: str, share: float) -> None:
    """Raise UserError where ``mass``, the probability of all accepted answers, is below ``bound``, or where that of the
    ways of writing that scores count is (``is_counted``)."""
    if counted < bound:
        found, advice = f"only {100 * mass:.3g} % of its first token is an answer", "thinks or explains first"
        if mass >= bound:
            found = f"{100 * mass:.3g} % of its first token is an answer, {100 * counted:.3g} % as scores count it"
            advice = "writes its answers in another way"
        other = f"the likeliest: {likeliest!r} {100 * share:.3g} %"
        raise UserError(f"{found} ({other}), expected {100 * bound:.4g} %; a model that {advice} cannot be scored so")


def without_thinking(reply: str) -> str:
    """A reply after its thinking. Raises UserError for one that ends within."""
    text = re.sub(rf"(?is)<({THOUGHT})>.*?</\1>", " ", reply)
    text = re.split(rf"(?i)</{THOUGHT}>", text)[-1]  # what opens it may stand in the question's template
    if re.search(rf"(?i)<{THOUGHT}>", text):
        raise UserError(f"its reply of {len(reply)} characters ends while it thinks, expected an answer after that")
    return text


def by_text(reply: str, answer: str) -> float:
    """1 where a reply says ``answer``, 0 where it says another of the accepted answers. Raises UserError unless it says
    exactly one of them."""
    text = re.sub(r"<[^<>]*>", " ", without_thinking(reply))
    said = {what for word in WORD.findall(text) if (what := meaning(word, answer)) is not None}
    if len(said) != 1:
        found = " and ".join(sorted(said)[:2]) or "nothing of it"
        raise UserError(f"its reply {reply[:SHOWN]!r} says {found}, expected exactly one accepted answer")
    return float(said == {meaning(answer, answer)})
