"""Judges: rewards (``reward``), the second evaluator of the world (``detector``), and vision-language models.

Vision-language models (``local.LocalVlm`` of transformers, ``endpoint.Endpoint`` behind a server) give the probability
that they answer a question about an image as expected: that of the first answer token, summed over the ways to write
the expected answer (VQAScore; Soft-TIFA of GenEval 2, arXiv 2512.16853). Other than in GenEval 2's published judge, a
way of writing counts only where it is one token: there, "10" counts for its first token, so that 1 passes for ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from unigrpo.core.errors import UserError
from unigrpo.world.geneval_verdict import NUMBERS

if TYPE_CHECKING:
    from PIL.Image import Image


class Vlm(Protocol):
    """A judge: ``name`` and ``digest`` say which (the digest is that of its weights, empty where it is a server's)."""

    name: str
    digest: str

    def check(self, answer: str) -> None:
        """Raise UserError for an expected answer that this judge cannot be asked for, whatever the image."""

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """Probability in [0, 1] that each question about its image is answered as expected; a UserError in the place
        of one that could not be had. Of equal length; no gradient."""


def written(answer: str) -> tuple[str, ...]:
    """The ways to write an answer: small and capitalised, a number up to ten as word and digit. Raises UserError for
    an empty one."""
    word = answer.strip().lower()
    if not word:
        raise UserError("an expected answer is empty, expected a word or a number")
    pairs = ((number, f"{digit}") for digit, number in enumerate(NUMBERS))
    words = next((pair for pair in pairs if word in pair), (word,))
    return tuple(dict.fromkeys(form for w in words for form in (w, w.capitalize())))
