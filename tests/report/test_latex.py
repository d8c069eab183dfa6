"""LaTeX tables: escaping, form, and what they hold against the CSV and the Markdown beside them."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from tests._support.study import make_table, write_study
from unigrpo.report.pages import page

ROWS = [["flow_grpo", "no"], ["base", "no"], ["sft", "yes"], ["unigrpo", "yes"]]
SPECS = {
    "main": {"kind": "main", "rows": ROWS},
    "categories": {"kind": "categories", "rows": ROWS},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Kind of table -> (CSV, LaTeX)."""
    root = tmp_path_factory.mktemp("study") / "cpu_a"
    write_study(root, {"base": (0.4, 1), "sft": (0.6, 1), "unigrpo": (0.8, 2)}, prompts=2)
    for name, spec in SPECS.items():
        make_table(root, root / "tables", spec, name, root / "scores.csv", root / "paper.csv")
    folder = root / "tables"
    return {name: (pd.read_csv(folder / f"{name}.csv"), (folder / f"{name}.tex").read_text()) for name in SPECS}


def body(tex):
    """The cells of every row, head first."""
    inside = re.search(r"\\toprule\n(.*)\\bottomrule", tex, re.DOTALL)[1].replace(r"\midrule", "")
    rows = [re.sub(r"\\\\(\\addlinespace\[2pt\])?$", "", line.strip()) for line in inside.splitlines() if line.strip()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]


@pytest.mark.parametrize("name", SPECS)
def test_the_form_is_that_of_a_table(made, name):
    frame, tex = made[name]
    head, *rows = body(tex)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", tex)[1]
    assert {len(row) for row in (head, *rows)} == {len(columns)} and len(rows) == len(frame)
    plain = re.sub(r"\\\\|\\[{}]", "", tex)
    assert plain.count("{") == plain.count("}")
    opened, closed = (re.findall(rf"\\{word}\{{(.*?)\}}", tex) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table*", "tabular"]
    assert rf"\label{{tab:{name}}}" in tex and r"Scale \texttt{cpu\_a}. This scale is a controlled" in tex
    assert not re.search(r"(?<!\\)[_#^~]", re.sub(r"\\usepackage.*|\\label.*", "", tex)) and r"95 \% intervals" in tex
    assert tex.isascii()


def test_numbers_and_intervals_are_those_of_the_csv(made):
    frame, tex = made["main"]
    uni, line = body(tex)[-1], frame.iloc[-1]
    lo, hi = (f"{line[f'geneval_{end}']:.3f}".removeprefix("0") for end in ("lo", "hi"))
    assert uni[:2] == ["UniGRPO", "yes"] and uni[-3:] == ["0.8381", "0.90", "2"]
    found = re.fullmatch(r"\\shortstack\{([\d.]+)\\\\\{\\tiny \[([\d.]+), ([\d.]+)\]\}\}", uni[3])
    assert [float(x) for x in found.groups()] == pytest.approx([line["geneval"], float(lo), float(hi)], abs=2e-3)
    frame, tex = made["categories"]
    assert f"{frame.iloc[-1]['counting']:.3f}" in body(tex)[-1][5] and r"{\tiny (0.91)}" in body(tex)[-1][5]
    assert r"\shortstack{not\\available}" in " ".join(body(made["main"][1])[1])  # there is no such run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 95 % of #1 {x} $y", r"a\_b \& 95 \% of \#1 \{x\} \$y"),
        (r"C:\dir~^", r"C:\textbackslash{}dir\textasciitilde{}\textasciicircum{}"),
        ("a < b − c – d", "a $<$ b $-$ c -- d"),
        ("scale `x_1`", r"scale \texttt{x\_1}"),
    ],
)
def test_text_is_escaped(text, expected):
    assert page.latex_text(text) == expected


def test_what_stands_in_brackets_goes_below():
    assert page.latex_cell("0.500 [0.400, -0.100] (0.90)") == (
        r"\shortstack{0.500\\{\tiny [.400, -.100]}\\{\tiny (0.90)}}"
    )
    assert page.latex_cell("10.500 [10.400, 0.6]") == r"\shortstack{10.500\\{\tiny [10.400, .6]}}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the path: the tables are not typeset")
def test_they_typeset_in_the_width_of_a_page(made, tmp_path):
    packages = r"\documentclass{article}\usepackage{booktabs}\usepackage[textwidth=397pt]{geometry}\begin{document}"
    (tmp_path / "all.tex").write_text(packages + "".join(tex for _, tex in made.values()) + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
