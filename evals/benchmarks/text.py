"""Text rendering: how much of the asked text is read in the image, by the networks that rapidocr ships.

``similar`` is the OCR score of Flow-GRPO (arXiv 2505.05470), as the reward that reads text has it; ``exact`` says
whether all of the text is read, letters' case and white space aside. A prompt's text stands between its first quotation
marks, or in its metadata (``unigrpo.world.prompts``). With ``--prompts``, a text file with a prompt a line, other
prompts are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from evals.benchmarks import mean
from evals.instruments.exams import prompts_version
from evals.instruments.text_reader import DETECTION_SIDE, agreement, reader
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_text
from unigrpo.core.records import check_text, same_text
from unigrpo.core.settings import Count, ExistingPath
from unigrpo.study.facts import BenchmarkFacts
from unigrpo.world.prompts import asked_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.instruments.picture_files import Picture

FACTS = BenchmarkFacts(
    title="Text rendering",
    version="2",
    caveat="What is read depends on the reader: compare numbers of one version, and look at the texts that were read.",
    shares=("similar", "exact"),
)


class TextRendering:
    """The judge; ``read`` gives the text in an image of 8-bit RGB. ``path`` is the prompt file, None for any prompt."""

    def __init__(self, read: Callable[[np.ndarray], str], name: str, path: Path | None = None):
        self.read, self.path = read, path
        lines = () if path is None else filter(None, map(same_text, read_text(path).splitlines()))
        self.prompts = None if path is None else dict.fromkeys(lines, "")
        if self.prompts is not None and not self.prompts:
            raise UserError(f"{path}: has no prompt, expected one a line")
        with error_prefix(path):
            check_text(" ".join(self.prompts or ()))
        known = "" if path is None else f" {prompts_version(path)}"
        self.version = f"text-{FACTS.version}{known} {name}"

    def check(self, picture: Picture) -> str:
        """The text that the prompt asks for."""
        if self.prompts is not None and same_text(picture.prompt.text) not in self.prompts:
            raise UserError(f"prompt {picture.prompt.text!r} is not in {self.path}")
        return asked_text(picture.prompt)

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        return [self._row(self.check(p), image) for p, image in zip(pictures, images, strict=True)]

    def _row(self, asked: str, image: Image) -> dict:
        found = self.read(np.asarray(image))
        similar = agreement(asked, found)
        exact = float(similar == 1)
        reason = "" if exact else f"asked {asked!r}, read {found!r}"
        return {"metrics": {"similar": similar, "exact": exact}, "reason": reason, "asked": asked, "read": found}

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        numbers = {name: mean(rows, name) for name in ("similar", "exact")}
        return numbers, [f"similar: {numbers['similar']:.4f}; exact: {numbers['exact']:.2%}"]


def build(
    prompts: Annotated[
        ExistingPath | None, typer.Option(help="Prompts, one a line (default: any that ask for a text).")
    ] = None,
    detection_side: Annotated[Count, typer.Option(help="Pixels that the reader enlarges to.")] = DETECTION_SIDE,
) -> TextRendering:
    """Raises UserError."""
    from importlib.metadata import version

    name = f"rapidocr-{version('rapidocr')}:{detection_side}"
    return TextRendering(reader(detection_side), name, None if prompts is None else Path(prompts))
