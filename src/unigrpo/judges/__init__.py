"""Judges: rewards (``reward``), the second evaluator of the world (``detector``), and vision-language models.

Vision-language models (``local.LocalVlm`` of transformers, ``endpoint.Endpoint`` behind a server) give the probability
that they answer a question about an image as expected: that of the first answer token, summed over the ways to write
the expected answer (VQAScore; Soft-TIFA of GenEval 2, arXiv 2512.16853). Other than in GenEval 2's published judge, a
way of writing counts only where it is one token: there, "10" counts for its first token, so that 1 passes for ten. A
question that the model does not answer (``answers``) has no probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

    from unigrpo.core.errors import UserError


class Vlm(Protocol):
    """A judge: ``name`` and ``digest`` say which (the digest is that of its weights, empty where it is a server's);
    ``answered`` is the share of the first token that has to be an answer."""

    name: str
    digest: str
    answered: float

    def check(self, answer: str) -> None:
        """Raise UserError for an expected answer that this judge cannot be asked for, whatever the image."""

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """Probability in [0, 1] that each question about its image is answered as expected; a UserError in the place
        of one that is not answered, or could not be had. Of equal length; no gradient."""
