r"""A table as LaTeX, ready to paste: booktabs rules, escaped text, caption and label.

Needs ``\usepackage{booktabs}`` and nothing else. An interval or a parenthesis stands under its number, so that a
table of ten columns fits the width of a page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from unigrpo.report.data.phrases import MISSING

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "−": "$-$", "–": "--", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$",
}  # fmt: skip
TEMPLATE = r"""%% needs \usepackage{booktabs}
\begin{table*}[t]
  \centering\scriptsize
  \setlength{\tabcolsep}{2pt}
  \caption{%(caption)s}
  \label{tab:%(label)s}
  \medskip
  \begin{tabular}{%(columns)s}
    \toprule
    %(head)s \\
    \midrule
    %(rows)s \\
    \bottomrule
  \end{tabular}
\end{table*}
"""


def escape(text: str) -> str:
    """Plain text as LaTeX; ``words`` in backticks become typewriter type."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)


def stacked(text: str) -> str:
    """Words one above the other."""
    words = escape(text).split()
    return words[0] if len(words) == 1 else r"\shortstack{" + r"\\".join(words) + "}"


def cell(text: str) -> str:
    """A cell; what follows in brackets and parentheses goes below, smaller, an interval without leading zeros."""
    if text == MISSING:
        return stacked(text)
    first, *below = [escape(part) for part in re.split(r" (?=[\[(])", text)]
    if not below:
        return first
    return r"\shortstack{" + r"\\".join([first, *(rf"{{\tiny {_short(part)}}}" for part in below)]) + "}"


def _short(part: str) -> str:
    return re.sub(r"\b0\.", ".", part) if part[0] == "[" else part


def table(frame: pd.DataFrame, caption: Sequence[str], label: str, texts: int = 2) -> str:
    """``frame`` of strings and numbers as a LaTeX table: the first ``texts`` columns flush left, the rest centred.

    ``caption`` is a list of plain sentences, ``label`` comes after ``tab:``.
    """
    rows = [" & ".join(cell(str(value)) for value in row) for row in frame.itertuples(index=False)]
    return TEMPLATE % {
        "caption": " ".join(escape(sentence) for sentence in caption),
        "label": label,
        "columns": "l" * texts + "c" * (frame.shape[1] - texts),
        "head": " & ".join(stacked(name) for name in frame.columns),
        "rows": " \\\\\\addlinespace[2pt]\n    ".join(rows),
    }
