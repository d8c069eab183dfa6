"""Questions to a vision-language model about an image and its prompt."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from unigrpo.core.options import expect

Question = Annotated[str, AfterValidator(expect("a text that holds {prompt}", lambda text: "{prompt}" in text))]


def ask(question: str, prompt: str) -> str:
    """``question`` with the prompt in its place."""
    return question.replace("{prompt}", prompt)
