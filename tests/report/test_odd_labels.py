"""Labels that look like markup come out as they are in all forms of a table: each is parsed back by its own rules."""

import io
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import yaml

from tests._support.study import make_table, sources_of, write_study
from unigrpo.core.errors import UserError
from unigrpo.core.yaml_files import read_yaml
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Folder, Row
from unigrpo.report.pages import compare, page
from unigrpo.study.catalogue import load_catalogue

LABELS = [
    "a|b", "[ours](x)", "[0.5] ours", "=1+2", "+ more", "- less", "@us", "# head", "β-Ω λ", "50 % & $5 or $6", "a_b",
    "_c_",     "*bold* **x**", "`code`", "<b>x</b>", r"C:\new", "x^2 ~y~ {z}", "a--b",
    "&amp;", "“quoted”, 'too'", "两个红色的圆 😀", "!x![y](z)",
]  # fmt: skip
SPECIALS = {"$<$": "<", "$>$": ">", "$|$": "|", "$-$": "−", "{}": "", r"\_": "_", r"\&": "&", r"\%": "%", r"\$": "$",
            r"\#": "#", r"\{": "{", r"\}": "}", r"\textbackslash{}": "\\", r"\textasciitilde{}": "~",
            r"\textasciicircum{}": "^", r"\textasciigrave{}": "`", r"$\beta$": "β", r"$\Omega$": "Ω",
            r"$\lambda$": "λ", "{[}": "[", "{*}": "*"}  # fmt: skip


def unescaped(cell):
    """What Markdown shows of a cell: a backslash makes the punctuation after it text. Fails where a mark is left."""
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", cell)
    assert not re.search(r"[|*`<$~]|\]\(|(?<!\w)_|_(?!\w)|&\w+;|\\", bare), cell
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)


class Cells(HTMLParser):
    """The text of the first cell of every row, and every tag."""

    def __init__(self):
        super().__init__()
        self.rows, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def of_latex(cell):
    stacked = re.fullmatch(r"\\shortstack\{(.*)\}", cell)
    lines = stacked[1].split(r"\\") if stacked else [cell]
    text = " ".join(re.sub(r"^\{\\tiny (.*)\}$", r"\1", line) for line in lines)
    known = sorted(SPECIALS, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, known)), lambda found: SPECIALS[found[0]], text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "cpu"
    runs = {f"run{k}": label for k, label in enumerate(LABELS)}
    write_study(root, {run: (0.5, 1) for run in runs}, prompts=2)
    patch = pytest.MonkeyPatch()
    patch.setattr(Folder, "label", lambda self, run: runs[run])
    make_table(root, root, {"kind": "main", "rows": [[run, "yes"] for run in runs]}, "t", root / "scores.csv")
    yield {suffix: (root / f"t.{suffix}").read_text() for suffix in ("csv", "md", "html", "tex")}
    patch.undo()


def test_csv_is_data(made):
    assert pd.read_csv(io.StringIO(made["csv"]))["label"].tolist() == LABELS


def test_markdown_shows_the_label(made):
    lines = [line for line in made["md"].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in rows}) == 1
    assert [unescaped(row[0]) for row in rows[2:]] == LABELS


def test_html_shows_the_label(made):
    cells = Cells()
    cells.feed(made["html"])
    assert [row[0].strip() for row in cells.rows[1:]] == LABELS and "<b>x" not in made["html"]


def test_latex_shows_the_label(made):
    body = made["tex"].split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [row.strip() for row in re.split(r"\\\\(?:\\addlinespace\[2pt\])?\n", body) if row.strip()]
    cells = [re.split(r" (?<!\\)& ", row)[0] for row in rows]
    assert not any(cell[0] in "[*" for cell in cells)  # the command before would take them for its option
    assert [of_latex(cell) for cell in cells] == LABELS
    assert page.latex_cell("0.5 [0.4, 0.6]") == r"\shortstack{0.5\\{\tiny [.4, .6]}}"
    assert page.latex_cell("ours [0.5 scale]") == r"\shortstack{ours\\{\tiny [0.5 scale]}}"


@pytest.mark.parametrize("label", LABELS)
def test_sentences_and_headings_show_the_label(label):
    sentence = f"**Collapsed**: {phrases.escaped(label)}: see `run.json`."
    text = page.markdown(label, [(label, [sentence])])
    title, _, head, _, note = text.splitlines()
    assert unescaped(title[2:]) == unescaped(head[3:]) == label
    assert unescaped(note.split("**: ")[1].split(": see")[0]) == label
    parsed = Cells()
    parsed.rows.append([""])
    parsed.feed(page.parts("t", [("", [sentence])]).split("<ul>")[1])
    assert parsed.rows[-1][-1].strip() == f"Collapsed: {label}: see run.json."
    assert parsed.tags == ["li", "b", "code"]
    assert of_latex(page.latex_text(sentence)).startswith(rf"\textbf{{Collapsed}}: {label}: see \texttt{{run.json}}")


def test_two_rows_of_one_label_and_labels_of_a_head_keep_their_columns(tmp_path, monkeypatch):
    root = tmp_path / "cpu"
    write_study(root, {"sft": (0.5, 1), "unigrpo": (0.9, 1)}, prompts=2)
    monkeypatch.setattr(Folder, "label", lambda self, run: "n")
    sources, (a, b) = sources_of(root, root / "scores.csv"), (Row(run, "no", "tuned") for run in ("sft", "unigrpo"))
    text = compare.markdown(a, b, compare.compare(a, b, sources), sources)
    head = next(line for line in text.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head.split("|")[1:-1]][:4] == ["", "n", "n", "difference"]


@pytest.mark.parametrize("label", ["two\nlines", "a\tb", "bell\x07", "x\u2028y", " "])
@pytest.mark.parametrize("section", ["runs.base", "benchmarks.ta"])
def test_a_label_is_one_line_of_text(root, tmp_path, label, section):
    content, (part, name) = read_yaml(root / "pipelines/experiments.yaml"), section.split(".")
    content[part][name]["label"] = label
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"{section}\.label: expected one line of text"):
        load_catalogue(tmp_path / "e.yaml")
