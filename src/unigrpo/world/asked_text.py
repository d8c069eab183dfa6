"""The text that a prompt asks to see in its image. Imports no torch."""

from __future__ import annotations

import re

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt

QUOTED = (
    re.compile(r"\"([^\"]+)\""),
    re.compile(r"“([^”]+)”|(?<!\w)'([^']+)'(?!\w)|‘([^’]+)’"),
)  # straight double quotation marks count before all others


def asked_text(prompt: Prompt) -> str:
    """``meta["text"]``, or what stands between the prompt's first quotation marks: as Flow-GRPO (arXiv 2505.05470) has
    it, whose prompts use straight double ones. Raises UserError for a prompt that asks for no text."""
    text = prompt.meta.get("text")
    if text is None:
        found = next((match for marks in QUOTED if (match := marks.search(prompt.text))), None)
        text = "" if found is None else next(group for group in found.groups() if group)
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"prompt {prompt.id}: expected a text to render, in quotation marks or as meta's 'text', in {prompt.text!r}"
        )
    return text
