"""Tables and notes as Markdown, as an HTML page that needs nothing else, and as LaTeX to paste; and one table of the
catalogue in its four forms. The CSV holds every number; Markdown and HTML a readable choice of them and the notes that
belong beside it; LaTeX what a paper prints. The best of a column of scores is in bold. What is missing stands as an
empty cell (CSV) or "not available". Titles and cells are plain text; sentences have a few marks of Markdown
(``rendered``), and labels there are ``escaped``.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd
from tabulate import tabulate

from unigrpo.core.files import read_text, write_text
from unigrpo.report.data import lines as columns
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Row, Sources
from unigrpo.study.catalogue import BASE, CEILING, SFT
from unigrpo.study.facts import TABLES, KindFacts

PROSE = 40  # characters: a longer cell of the HTML may break
NO_METHOD = (BASE, SFT, CEILING)  # stages of rows that are none
LATEX = Path(__file__).with_suffix(".tex")
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(LATEX.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
HTML_MARKS = "<b>{}</b>", "<code>{}</code>", '<a href="{to}">{}</a>'
BEST = "best"  # where a frame notes the cells to mark
NUMBER = re.compile(r"([-+−]?\d[\d.,]*%?)(.*)", re.DOTALL)  # noqa: RUF001
BRACKETS = re.compile(r" (?=[\[(])")
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
MARKS = re.compile(
    r"\\(?P<plain>[^\w\s]|_)|\*\*(?P<bold>.+?)\*\*|`(?P<code>.+?)`|\[(?P<linked>[^]]+)\]\((?P<to>[^)\s]+)\)"
    r"|(?P<text>[^\\*`[]+|.)",
    re.DOTALL,
)


class Card(NamedTuple):
    """A result on a front page: what it is called, what it shows, its address, and that of a picture of it."""

    title: str
    caption: str
    link: str
    picture: str = ""


Section = tuple[str, pd.DataFrame | Sequence[str] | Sequence[Card]]  # a heading, and what stands below it


def best(frame: pd.DataFrame, heads: Collection[str], methods: Sequence[bool]) -> set[tuple[int, str]]:
    """(row, head) of the largest number of each column of ``heads`` among the rows that are ``methods``, and of those
    that are written alike; none where all are."""
    found = set()
    for head in heads & set(frame.columns):
        written = {row: NUMBER.match(str(frame[head][row])) for row, method in enumerate(methods) if method}
        numbers = {row: float(m[1].strip("%").replace(",", "")) for row, m in written.items() if m}
        highest = max(numbers.values(), default=0)
        found |= {(row, head) for row, number in numbers.items() if number == highest > min(numbers.values())}
    return found


def _cells(frame: pd.DataFrame, form: Callable[[str, bool], str]) -> list[list[str]]:
    """The rows, what ``form`` makes of each cell's text and of whether it is the ``best`` of its column."""
    marked, rows = frame.attrs.get(BEST, ()), frame.itertuples(index=False, name=None)
    return [
        [form(str(c), (i, head) in marked) for head, c in zip(frame.columns, row, strict=True)]
        for i, row in enumerate(rows)
    ]


def _split(text: str) -> list[str]:
    """A number, and what stands in brackets behind it; another text as it is."""
    return BRACKETS.split(text) if NUMBER.match(text) else [text]


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page of several frames and lists, each under its heading; nothing above one whose heading is empty."""
    blocks = [f"# {phrases.escaped(title)}"]
    for head, content in sections:
        blocks += [f"## {phrases.escaped(head)}"] * bool(head)
        if isinstance(content, pd.DataFrame):
            names, rows = map(phrases.escaped, content.columns), _cells(content, _markdown_cell)
            blocks.append(tabulate(rows, [*names], tablefmt="pipe", disable_numparse=True))
        else:
            blocks.append("\n".join(f"* {sentence}" for sentence in content))
    return "\n\n".join(blocks) + "\n"


def _markdown_cell(text: str, is_best: bool) -> str:
    number, rest = NUMBER.fullmatch(text).groups() if is_best else ("", text)
    return f"**{phrases.escaped(number)}**" * is_best + phrases.escaped(rest)


def parts(title: str, sections: Sequence[Section]) -> str:
    """The same as HTML; a list of cards shows results with their links."""
    shown = []
    for head, content in sections:
        if isinstance(content, pd.DataFrame):
            shown.append((head, "table", (content.columns, _cells(content, _html_cell))))
        elif isinstance(content[0], Card):
            shown.append((head, "cards", content))
        else:
            shown.append((head, "list", [rendered(each, html.escape, *HTML_MARKS) for each in content]))
    return TEMPLATES.get_template("page.html").render(title=title, sections=shown)


def _html_cell(text: str, is_best: bool) -> str:
    """Brackets stand on a line of their own; texts of PROSE and more characters may break, numbers do not."""
    number, *below = map(html.escape, _split(text))
    shown = f"<b>{number}</b>" if is_best else number
    return (
        f"<td{' class=prose' * (len(text) >= PROSE)}>{shown}{''.join(f'<small>{each}</small>' for each in below)}</td>"
    )


def rendered(sentence: str, form: Callable[[str], str], bold: str, code: str, link: str = "{}") -> str:
    """A sentence in another language: what ``form`` makes of its text, in ``bold`` between ** and as ``code`` between
    backticks; of [text](address) a ``link``, {to} being the address. A backslash before a mark makes it text."""

    def written(mark: re.Match) -> str:
        kind, text = mark.lastgroup, mark[mark.lastgroup]
        if kind == "to":
            return link.replace("{}", form(mark["linked"])).replace("{to}", text)
        return {"bold": bold, "code": code}.get(kind, "{}").replace("{}", form(text))

    return MARKS.sub(written, sentence)


def latex(frame: pd.DataFrame, caption: Sequence[str], label: str) -> str:
    """``frame`` as a LaTeX table: the first two columns flush left, the rest centred. ``caption`` is a list of plain
    sentences, ``label`` comes after ``tab:``."""
    return read_text(LATEX) % {
        "caption": " ".join(map(latex_text, caption)),
        "label": label,
        "columns": "ll" + "c" * (frame.shape[1] - 2),
        "head": " & ".join(_stacked(latex_plain(name).split()) for name in frame.columns),
        "rows": " \\\\\\addlinespace[2pt]\n    ".join(map(" & ".join, _cells(frame, latex_cell))),
    }


def latex_text(text: str) -> str:
    """A sentence as LaTeX."""
    return rendered(text, latex_plain, r"\textbf{{}}", r"\texttt{{}}")


def latex_plain(text: str) -> str:
    """Plain text as LaTeX. Letters without a name there stay: other scripts than Latin and Greek take lualatex."""
    return re.sub("-(?=-)", "-\0", text).translate(str.maketrans(SPECIAL))


def latex_cell(text: str, is_best: bool = False) -> str:
    """A cell; brackets and parentheses go below, smaller, intervals without leading zeros: ten columns fit a page."""
    if text == phrases.MISSING:
        return _stacked(text.split())
    first, *below = map(latex_plain, BRACKETS.split(text))
    first = rf"\textbf{{{first}}}" if is_best else first
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


def title_of(spec: Mapping, facts: KindFacts) -> str:
    """The heading of a table or figure of the catalogue."""
    guidance = f", {spec.get('guidance', 'tuned')} guidance" * (facts.shows == "rows")
    return facts.number + spec.get("title", facts.title) + guidance


def write(name: str, spec: Mapping, sources: Sources, out: Path) -> None:
    """Write <name>.csv, .md, .html and .tex of one entry of the catalogue; ``name`` is its LaTeX label too."""
    kind, folder, sources = TABLES.load(spec["kind"]), sources.folder, sources.of(spec)
    facts, latex_of = kind.FACTS, getattr(kind, "latex", kind.text)
    rows = kind.rows(spec["runs"], sources) if hasattr(kind, "rows") else rows_of(spec, facts)
    lines = [{"run": row.run, "label": folder.label(row.run)} | kind.line(row, rows, sources) for row in rows]
    part = {run for run, name in (sources.scores.parts if facts.scores else ()) if name in sources.benchmarks}
    named = [(each["label"] + " (part)" * (each["run"] in part), each) for each in lines]
    runs = list(dict.fromkeys(row.run for row in rows))
    title = title_of(spec, facts)
    scale = phrases.scale_of(runs, folder)
    below = [scale, *(phrases.scored(rows, runs, sources) if facts.scores else []), *facts.notes]
    if facts.rewards:
        below += phrases.proxies(runs, folder)
    if hasattr(kind, "notes"):
        below += kind.notes(rows, lines, sources)
    below += phrases.fates(runs, folder)
    judged = [phrases.metrics(sources), phrases.INTERVALS] if facts.scores else []
    caption = [scale, *facts.printed, *judged, *facts.notes]
    frame = pd.DataFrame({"run": name} | kind.text(each, sources) for name, each in named)
    printed = pd.DataFrame({"run": name} | latex_of(each, sources) | {"seeds": each["seeds"]} for name, each in named)
    heads = {*facts.best, *(columns.scored(sources) if facts.scores else ())}
    methods = [folder.config(row.run).get("stage") not in NO_METHOD for row in rows]
    for shown in (frame, printed):
        shown.attrs[BEST] = best(shown, heads, methods)
    if frame.attrs[BEST]:
        below, caption = [*below, phrases.BEST], [*caption, phrases.BEST]
    sections = [("", frame), ("", below)]
    write_text(out / f"{name}.csv", pd.DataFrame(lines).to_csv(index=False, float_format="%.4f"))
    write_text(out / f"{name}.md", markdown(title, sections))
    write_text(out / f"{name}.html", parts(title, sections))
    write_text(out / f"{name}.tex", latex(printed, [f"{title.removeprefix(facts.number)}.", *caption], name))
