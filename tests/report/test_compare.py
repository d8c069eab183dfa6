"""Two runs side by side: differences as in the tables, and a probability by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests._support.command import unigrpo
from tests._support.study import BENCHMARKS, write_study
from unigrpo.core.errors import UserError
from unigrpo.report.data.results import Folder, Paper, Row, Scores, Sources
from unigrpo.report.data.stats import Cells, improvement
from unigrpo.report.pages import compare


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, {"sft": (0.6, 1), "text_grpo": (0.7, 3), "unigrpo": (0.8, 3)})
    return root


def run(study, out, *options):
    files = f"--scores {study}/scores.csv --results {study} --paper {study}/paper.csv --out {out}"
    unigrpo(f"compare {' '.join(options)} {files}")


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    run(study, out, "unigrpo", "text_grpo")
    return out


def test_the_csv_holds_what_the_tables_compute(study, made):
    table = pd.read_csv(made / "unigrpo.vs.text_grpo.csv").set_index("metric")
    sources = Sources(Scores(study / "scores.csv"), Paper(study / "paper.csv"), Folder(study, chosen=BENCHMARKS))
    a, b = (Row(name, "yes", "tuned") for name in ("unigrpo", "text_grpo"))
    for words, benchmark, metric, tag in compare.compared(sources):
        line = table.loc[words]
        means = [sources.estimate(row, benchmark, metric, tag).mean for row in (a, b)]
        assert [line["a"], line["b"]] == pytest.approx(means, abs=1e-5)
        assert line["difference"] == pytest.approx(means[0] - means[1], abs=1e-5)
        assert line["lo"] <= line["difference"] <= line["hi"] and 0 <= line["improvement"] <= 1
    overall = sources.gap(a, b, "geneval", "official")
    assert [table.loc["GenEval", x] for x in ("lo", "hi")] == pytest.approx([overall.lo, overall.hi], abs=1e-5)


def test_the_page_tells_differences_and_costs(made):
    page = (made / "unigrpo.vs.text_grpo.md").read_text()
    assert page.startswith("# UniGRPO, thinking against TextGRPO, thinking")
    assert "| wall seconds" in page and "| 20" in page  # the median of 10, 20, 30


def test_one_prompt_and_one_seed_are_said(study, tmp_path):
    frame = pd.read_csv(study / "scores.csv")
    frame = frame[(frame["seed"] == 0) & frame["prompt_id"].isin(["compound/000", "counting/000", "counting/001"])]
    frame.to_csv(tmp_path / "scores.csv", index=False)
    files = f"--scores {tmp_path}/scores.csv --results {study} --paper {study}/paper.csv --out {tmp_path}/out"
    unigrpo(f"compare unigrpo sft {files}")
    table = pd.read_csv(tmp_path / "out/unigrpo.vs.sft.csv").set_index("metric")
    assert table.loc["TA", ["lo", "hi", "resolvable", "improvement_lo"]].isna().all()
    assert table.loc["GenEval", ["lo", "hi"]].notna().all()
    text = (tmp_path / "out/unigrpo.vs.sft.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| TA  ")]
    assert line.count("(one prompt)") == 2 and "| 1 × 1 " in line
    assert "With one seed the interval covers prompts only." in text
    for verb, kind in (("figure", "dots"), ("table", "categories"), ("table", "main")):
        unigrpo(f"{verb} t --kind {kind} --row unigrpo --row sft {files}")
    pages = [(tmp_path / "out" / f"t.{suffix}").read_text() for suffix in ("md", "html", "tex")]
    assert all("(one prompt)" in text for text in pages) and "1 (prompts only)" in pages[0]


def test_a_probability_by_hand():
    """Prompt 1: 2 > 0, 2 > 1, 1 > 0 and one tie of four pairs, so 3.5 / 4; prompt 2: never."""
    a = Cells(np.array([[2.0, 0.0], [1.0, 0.0]]), (0, 1), ("p", "q"), ("t", "t"))
    b = Cells(np.array([[0.0, 1.0], [1.0, 1.0]]), (0, 1), ("p", "q"), ("t", "t"))
    found = improvement(a, b)
    assert found.mean == pytest.approx((3.5 / 4 + 0) / 2)
    assert improvement(b, a).mean == pytest.approx(1 - found.mean)


@pytest.mark.parametrize(
    "options, message",
    [
        (["unigrpo", "unigrpo"], "expected two runs, got unigrpo twice"),
        (["unigrpo", "flow_grpo"], "no run 'flow_grpo'"),
        (["unigrpo", "sft", "--guidance", "greedy"], "--guidance"),
    ],
)
def test_what_cannot_be_compared_is_refused(study, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(study, tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_runs_are_compared_as_both_are_evaluated_else_each_as_it_is():
    scored = {("a", "yes"), ("a", "no"), ("b", "no"), ("c", "yes")}
    scores = SimpleNamespace(has=lambda row: (row.run, row.thinking) in scored)
    for pair, thinking in ((("a", "b"), ["no", "no"]), (("a", "c"), ["yes", "yes"]), (("b", "c"), ["no", "yes"])):
        assert [row.thinking for row in compare.rows_of(*pair, ["yes", "no"], "tuned", scores)] == thinking
