"""The best of a column of scores is in bold, in every form of a table; brackets stand below numbers in HTML."""

import re

import pandas as pd

from tests._support.study import make_table, write_study
from unigrpo.report.data.stats import written
from unigrpo.report.pages import page


def test_the_best_are_the_largest_of_the_methods_and_those_written_alike():
    values = {"TA": ["0.900 [0.8, 1]", "0.750", "0.749 (0.9)", "0.750 [0.7, 0.8]", "not available"]}
    values |= {"ratio": ["90.0%", "-1,000.5%", "9.5%", "–", "9.4%"], "lone": ["0.9", "0.1", "0.1", "", "0.1"]}
    frame = pd.DataFrame(values | {"seeds": [4, 3, 2, 1, 0]})
    found = page.best(frame, {"TA", "ratio", "lone", "absent"}, [False, True, True, True, True])
    assert found == {(1, "TA"), (3, "TA"), (2, "ratio")}


def test_bold_in_all_forms(tmp_path):
    write_study(tmp_path, {"sft": (1.0, 2), "flow_grpo": (0.3, 2), "unigrpo": (0.9, 2)})
    rows = [["sft", "yes"], ["flow_grpo", "yes"], ["unigrpo", "yes"]]
    table, text = make_table(tmp_path, tmp_path, {"kind": "main", "rows": rows}, scores=tmp_path / "scores.csv")
    line = table.set_index("run").loc["unigrpo"]
    interval = written(line["geneval"], line["geneval_lo"], line["geneval_hi"])
    number, rest = interval.split(" ", 1)
    bold = [each for each in text.splitlines() if each.startswith("|") and "**" in each]
    assert len(bold) == 1 and f"| **{number}** {rest} |" in bold[0]
    assert "Bold: the best of a column" in text
    assert f"<td><b>{number}</b><small>{rest}</small></td>" in (tmp_path / "t.html").read_text()
    latex = (tmp_path / "t.tex").read_text()
    assert rf"\shortstack{{\textbf{{{number}}}\\" in latex and "Bold: the best of a column" in latex
    assert len(re.findall("textbf", latex)) == text.count("**") // 2 > 0


def test_links_and_cards_are_those_of_the_page():
    sentence = r"see [all **of** them](claims.html) \[not\](this) [0.5, 1] (n)"
    shown = page.parts("t", [("", [sentence]), ("Figures", [page.Card("A & B", "what <it> is", "a.html", "a.png")])])
    assert '<li>see <a href="claims.html">all **of** them</a> [not](this) [0.5, 1] (n)</li>' in shown
    assert '<a href="a.html">A &amp; B</a>' in shown and "what &lt;it&gt; is" in shown and 'src="a.png"' in shown
