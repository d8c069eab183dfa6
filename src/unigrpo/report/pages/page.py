"""Tables and notes as Markdown, and as one HTML page that needs nothing else, which the workflow's report shows."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pandas as pd

PROSE = 40

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>
  :root { color-scheme: light; }
  body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0; padding: 1rem; }
  h1 { font-size: 1.3rem; }
  h2 { font-size: 1.1rem; }
  div { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; border-block: 2px solid; font-size: .85rem; }
  th { text-align: left; vertical-align: bottom; border-bottom: 1px solid; }
  th, td { padding: .3rem .45rem; }
  td { white-space: nowrap; vertical-align: top; }
  td.prose { white-space: normal; min-width: 14rem; }
  ul { max-width: 60rem; padding-left: 1.2rem; }
</style>
<h1>%(title)s</h1>
%(body)s
</html>
"""


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
    return PAGE % {"title": html.escape(title), "body": body}


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
