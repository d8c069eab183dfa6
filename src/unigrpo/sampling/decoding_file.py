"""decoding.json, read and checked: what was chosen in each mode, and all that was tried. Imports no torch."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from unigrpo.core.errors import error_prefix
from unigrpo.core.files import read_json
from unigrpo.core.settings import NotNegative, Settings, Share, from_dict
from unigrpo.study.config import Guidance


class Direct(Settings, extra="ignore"):
    """The choice without thinking, which writes no text."""

    guidance: Guidance


class Think(Direct):
    """The choice with thinking; a temperature of 0 is greedy."""

    temperature: NotNegative


class Tried(Settings, extra="ignore"):
    """A decoding on validation prompts: shares of images, categories weighing equally, and gold by prompt (its id)."""

    thinking: bool
    guidance: Guidance
    temperature: NotNegative | None  # None without thinking
    official: Share
    trace_correct: Share | None = None
    image_given_trace: Share | None = None
    gold_by_prompt: Annotated[dict[str, Share], Field(min_length=1)]


class DecodingFile(Settings, extra="ignore"):
    """``grid`` is empty in a file that was written by hand."""

    think: Think
    direct: Direct
    grid: list[Tried] = []


def read(path: str | Path) -> DecodingFile:
    """Raises UserError naming file and key."""
    content = read_json(path)
    with error_prefix(path):
        return from_dict(DecodingFile, content)
