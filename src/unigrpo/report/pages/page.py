"""Tables and notes as Markdown, and as one HTML page that needs nothing else, which the workflow's report shows."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from unigrpo.core.files import read_text

PROSE = 40

PAGE = Path(__file__).with_name("page.html")


def _inline(text: str) -> str:
    """A note's Markdown as HTML: code and bold."""
    return re.sub(r"`(.*?)`", r"<code>\1</code>", re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", html.escape(text)))


def _part(content: pd.DataFrame | Sequence[str]) -> str:
    """A frame as a table, sentences as a list. Numbers stay on one line, cells of PROSE and more characters do not."""
    if isinstance(content, pd.DataFrame):
        table = re.sub(
            rf"<td>([^<]{{{PROSE},}})</td>", r'<td class="prose">\1</td>', content.to_html(index=False, border=0)
        )
        return f'<div tabindex="0" role="region" aria-label="table">{table}</div>'
    return f"<ul>{''.join(f'<li>{_inline(note)}</li>' for note in content)}</ul>"


def parts(title: str, sections: Sequence[tuple[str, pd.DataFrame | Sequence[str]]]) -> str:
    """The page of several frames and lists, each under its heading; nothing above one whose heading is empty."""
    body = "".join(f"<h2>{html.escape(head)}</h2>" * bool(head) + _part(content) for head, content in sections)
    return read_text(PAGE).replace("{{ title }}", html.escape(title)).replace("{{ body }}", body)


def markdown(title: str, sections: Sequence[tuple[str, pd.DataFrame | Sequence[str]]]) -> str:
    """The same as Markdown."""
    blocks = [f"# {title}"]
    for head, content in sections:
        blocks += [f"## {head}"] * bool(head)
        if isinstance(content, pd.DataFrame):
            blocks.append(content.to_markdown(index=False, disable_numparse=True))
        else:
            blocks.append("\n".join(f"* {sentence}" for sentence in content))
    return "\n\n".join(blocks) + "\n"
