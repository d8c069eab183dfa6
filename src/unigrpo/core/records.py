"""Plain types that cross room borders. Imports no torch.

Shape letters used throughout: P prompts, G group size, B = P*G episodes (prompt-major), T text tokens, N denoising
steps, S of them stochastic, C latent channels. Flow time t = 1 is noise, t = 0 is data, v = noise - data.
Images are (B, 3, H, W) float32 in [0, 1] everywhere.
"""

import re
import unicodedata
from dataclasses import dataclass, field

from unigrpo.core.errors import UserError

SHEET_COLUMNS = 10  # images in a row of a validation's sheet


def same_text(text: str) -> str:
    """The form by which texts of prompts are compared: NFC, runs of white space as single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``meta`` is GenEval's metadata: ``tag``, ``include`` (list of ``{class, count, color?, position?}``),
    optional ``exclude``, and ``prompt``. ``id`` is a label: prompts are the same where their ``key`` is."""

    id: str
    text: str
    tag: str
    meta: dict = field(hash=False)

    @property
    def key(self) -> tuple[str, str]:
        """Its identity: text and tag."""
        return same_text(self.text), self.tag


class Labels:
    """One id for each prompt of several sets: that of the first which has it."""

    def __init__(self):
        self._ids: dict[tuple[str, str], str] = {}
        self._first: dict[str, tuple[Prompt, object]] = {}

    def of(self, prompt: Prompt, where: object) -> str:
        """The id of a prompt that stands in ``where``. Raises UserError where its own is that of another prompt."""
        first, there = self._first.setdefault(prompt.id, (prompt, where))
        if first.key != prompt.key:
            those = f"{first.text!r} ({first.tag}) in {there}, {prompt.text!r} ({prompt.tag}) in {where}"
            raise UserError(f"prompt '{prompt.id}': expected one text and tag for an id, found {those}")
        return self._ids.setdefault(prompt.key, prompt.id)


def check_text(text: str) -> None:
    """Raise UserError for a text that tokenizers and files cannot hold: one with NUL or half of a character."""
    if odd := re.search("[\0\ud800-\udfff]", text):
        found = "NUL" if odd[0] == "\0" else f"half of a character (U+{ord(odd[0]):04X})"
        raise UserError(f"expected a text of whole characters, found {found} in {text!a}")


@dataclass(frozen=True)
class Detection:
    """One object found in an image. ``box`` is (x0, y0, x1, y1) in pixels, ``score`` in [0, 1]. ``color`` is
    "unsure" where an instrument cannot name it: then wrong wherever a colour is asked."""

    cls: str
    color: str
    box: tuple[float, float, float, float]
    score: float
