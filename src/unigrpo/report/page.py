"""A table as one HTML page that needs nothing else: what the workflow's report shows when a table is opened."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pandas as pd

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%(title)s</title>
<style>
  :root { color-scheme: light; }
  body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0; padding: 1rem; }
  h1 { font-size: 1.3rem; }
  div { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; border-block: 2px solid; font-size: .85rem; }
  th { text-align: left; vertical-align: bottom; border-bottom: 1px solid; }
  th, td { padding: .3rem .45rem; }
  td { white-space: nowrap; }
  ul { max-width: 60rem; padding-left: 1.2rem; }
</style>
<h1>%(title)s</h1>
<div tabindex="0" role="region" aria-label="table">%(table)s</div>
<ul>%(notes)s</ul>
</html>
"""


def _inline(text: str) -> str:
    """A note's Markdown as HTML: code and bold."""
    return re.sub(r"`(.*?)`", r"<code>\1</code>", re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", html.escape(text)))


def table(frame: pd.DataFrame, title: str, notes: Sequence[str]) -> str:
    """The page of a ``frame`` of strings and numbers, with its title above and its notes below."""
    return PAGE % {
        "title": html.escape(title),
        "table": frame.to_html(index=False, border=0),
        "notes": "".join(f"<li>{_inline(note)}</li>" for note in notes),
    }
