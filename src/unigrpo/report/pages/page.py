"""Tables and notes as Markdown, as an HTML page that needs nothing else, and as LaTeX to paste; and one table of the
catalogue in its four forms. The CSV holds every number; Markdown and HTML a readable choice of them and the notes that
belong beside it; LaTeX what a paper prints. What is missing stands as an empty cell (CSV) or "not available". Titles
and cells are plain text; sentences have a few marks of Markdown (``rendered``), and labels there are ``escaped``.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from unigrpo.core.files import read_text, write_text
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Row, Sources
from unigrpo.study.facts import TABLES, KindFacts

PROSE = 40  # characters: a longer cell of the HTML may break
HTML = Path(__file__).with_name("page.html")
LATEX = HTML.with_suffix(".tex")
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "−": "$-$", "–": "--", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$",
    "\0": "{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "→": r"$\rightarrow$", "≈": r"$\approx$",
}  # fmt: skip
INTERVAL = re.compile(r"\[[-+.\d]+(\\%)?, [-+.\d]+(\\%)?\]")
GREEK = [unicodedata.name(chr(c)).split()[-1].lower().replace("lamda", "lambda") for c in range(0x3B1, 0x3CA)]
SPECIAL |= {chr(0x3B1 + k): f"$\\{name}$" for k, name in enumerate(GREEK)} | {"ς": r"$\varsigma$", chr(0x3BF): "$o$"}
SPECIAL |= {c: f"$\\{SPECIAL[c.lower()][2:-1].capitalize()}$" for c in "ΓΔΘΛΞΠΣΥΦΨΩ"}  # noqa: RUF001
MARKS = re.compile(r"\\([^\w\s]|_)|\*\*(.+?)\*\*|`(.+?)`|([^\\*`]+|.)", re.DOTALL)


def markdown(title: str, sections: Sequence[tuple[str, pd.DataFrame | Sequence[str]]]) -> str:
    """The page of several frames and lists, each under its heading; nothing above one whose heading is empty."""
    blocks = [f"# {phrases.escaped(title)}"]
    for head, content in sections:
        blocks += [f"## {phrases.escaped(head)}"] * bool(head)
        if isinstance(content, pd.DataFrame):
            plain = content.map(lambda cell: phrases.escaped(cell) if isinstance(cell, str) else cell)
            plain.columns = map(phrases.escaped, content.columns)
            blocks.append(plain.to_markdown(index=False, disable_numparse=True))
        else:
            blocks.append("\n".join(f"* {sentence}" for sentence in content))
    return "\n\n".join(blocks) + "\n"


def parts(title: str, sections: Sequence[tuple[str, pd.DataFrame | Sequence[str]]]) -> str:
    """The same as HTML. Numbers stay on one line, cells of PROSE and more characters do not."""
    blocks = []
    for head, content in sections:
        blocks += [f"<h2>{html.escape(head)}</h2>"] * bool(head)
        if isinstance(content, pd.DataFrame):
            table = content.to_html(index=False, border=0)
            table = re.sub(rf"<td>([^<]{{{PROSE},}})</td>", r'<td class="prose">\1</td>', table)
            blocks.append(f'<div tabindex="0" role="region" aria-label="table">{table}</div>')
        else:
            items = [rendered(sentence, html.escape, "<b>{}</b>", "<code>{}</code>") for sentence in content]
            blocks.append(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
    return read_text(HTML).replace("{{ title }}", html.escape(title)).replace("{{ body }}", "".join(blocks))


def rendered(sentence: str, form: Callable[[str], str], bold: str, code: str) -> str:
    """A sentence in another language: what ``form`` makes of its text, in ``bold`` between ** and as ``code`` between
    backticks; a backslash before a mark makes it text."""
    return MARKS.sub(lambda m: ("{}", bold, code, "{}")[m.lastindex - 1].replace("{}", form(m[m.lastindex])), sentence)


def latex(frame: pd.DataFrame, caption: Sequence[str], label: str) -> str:
    """``frame`` of strings and numbers as a LaTeX table: the first two columns flush left, the rest centred.
    ``caption`` is a list of plain sentences, ``label`` comes after ``tab:``."""
    rows = [" & ".join(latex_cell(str(value)) for value in row) for row in frame.itertuples(index=False)]
    return read_text(LATEX) % {
        "caption": " ".join(map(latex_text, caption)),
        "label": label,
        "columns": "ll" + "c" * (frame.shape[1] - 2),
        "head": " & ".join(_stacked(latex_plain(name).split()) for name in frame.columns),
        "rows": " \\\\\\addlinespace[2pt]\n    ".join(rows),
    }


def latex_text(text: str) -> str:
    """A sentence as LaTeX."""
    return rendered(text, latex_plain, r"\textbf{{}}", r"\texttt{{}}")


def latex_plain(text: str) -> str:
    """Plain text as LaTeX. Letters without a name there stay: other scripts than Latin and Greek take lualatex."""
    return re.sub("-(?=-)", "-\0", text).translate(str.maketrans(SPECIAL))


def latex_cell(text: str) -> str:
    """A cell; brackets and parentheses go below, smaller, intervals without leading zeros: ten columns fit a page."""
    if text == phrases.MISSING:
        return _stacked(text.split())
    first, *below = map(latex_plain, re.split(r" (?=[\[(])", text))
    short = [re.sub(r"\b0\.", ".", part) if INTERVAL.fullmatch(part) else part for part in below]
    return _stacked([first, *(rf"{{\tiny {part}}}" for part in short)])


def _stacked(lines: Sequence[str]) -> str:
    """Words one above the other; a bracket or a star at the beginning is no option of the command before."""
    lines = [re.sub(r"^[\[*]", r"{\g<0>}", line) for line in lines]
    return lines[0] if len(lines) == 1 else r"\shortstack{" + r"\\".join(lines) + "}"


def rows_of(spec: Mapping, facts: KindFacts) -> list[Row]:
    """The rows of a table: those of its entry, or of each run its training alone, or both guidances."""
    if facts.shows == "rows":
        return [Row(run, thinking, spec.get("guidance", "tuned")) for run, thinking in spec["rows"]]
    if not facts.scores:
        return [Row(run) for run in spec["runs"]]
    return [Row(run, facts.mode, guidance) for run in spec["runs"] for guidance in ("unguided", "tuned")]


def write(name: str, spec: Mapping, sources: Sources, out: Path) -> None:
    """Write <name>.csv, .md, .html and .tex of one entry of the catalogue; ``name`` is its LaTeX label too."""
    kind, folder, sources = TABLES.load(spec["kind"]), sources.folder, sources.of(spec)
    facts, latex_of = kind.FACTS, getattr(kind, "latex", kind.text)
    rows = kind.rows(spec["runs"], sources) if hasattr(kind, "rows") else rows_of(spec, facts)
    lines = [{"run": row.run, "label": folder.label(row.run)} | kind.line(row, rows, sources) for row in rows]
    part = {run for run, name in (sources.scores.parts if facts.scores else ()) if name in sources.benchmarks}
    named = [(each["label"] + " (part)" * (each["run"] in part), each) for each in lines]
    runs = list(dict.fromkeys(row.run for row in rows))
    title = spec.get("title", facts.title) + f", {rows[0].guidance} guidance" * (facts.shows == "rows")
    scale = phrases.scale_of(runs, folder)
    below = [scale, *(phrases.scored(rows, runs, sources) if facts.scores else []), *facts.notes]
    if facts.rewards:
        below += phrases.proxies(runs, folder) + phrases.chosen_weights(runs, folder)
    if hasattr(kind, "notes"):
        below += kind.notes(rows, lines, sources)
    below += phrases.fates(runs, folder)
    judged = [phrases.metrics(sources), phrases.INTERVALS] if facts.scores else []
    caption = [scale, *facts.printed, *judged, *facts.notes]
    frame = pd.DataFrame({"run": name} | kind.text(each, sources) for name, each in named)
    printed = pd.DataFrame({"run": name} | latex_of(each, sources) | {"seeds": each["seeds"]} for name, each in named)
    sections = [("", frame), ("", below)]
    write_text(out / f"{name}.csv", pd.DataFrame(lines).to_csv(index=False, float_format="%.4f"))
    write_text(out / f"{name}.md", markdown(facts.number + title, sections))
    write_text(out / f"{name}.html", parts(facts.number + title, sections))
    write_text(out / f"{name}.tex", latex(printed, [f"{title}.", *caption], name))
