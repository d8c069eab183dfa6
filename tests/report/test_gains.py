"""The table of gains: every row beside the first, paired by prompt and seed."""

import pandas as pd
import pytest

from tests._support.study import sources_of, write_study
from unigrpo.report.pages import page

ENTRY = {"kind": "gains", "benchmarks": ["geneval"], "rows": [["sft", "yes"], ["unigrpo", "yes"], ["fpo", "yes"]]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Nothing of fpo."""
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, {"sft": (0.2, 2), "unigrpo": (0.9, 2)}, prompts=8)
    return root


def test_a_gain_is_the_mean_paired_difference_to_the_first_row(study, tmp_path):
    page.write("gains", ENTRY, sources_of(study, study / "scores.csv"), tmp_path)
    frame = pd.read_csv(tmp_path / "gains.csv").set_index("run")
    scores = pd.read_csv(study / "scores.csv")
    chosen = scores[(scores["benchmark"] == "geneval") & (scores["mode"] == "think") & (scores["guidance"] == "tuned")]
    for column, metric in (("geneval", "official"), ("gold", "gold")):
        cells = chosen[chosen["metric"] == metric].groupby(["run", "tag", "prompt_id"])["value"].mean()
        by_tag = (cells["unigrpo"] - cells["sft"]).groupby("tag").mean()
        assert frame.loc["unigrpo", f"{column}_gain"] == pytest.approx(by_tag.mean(), abs=1e-4)
    low, high = frame.loc["unigrpo", ["gold_gain_lo", "gold_gain_hi"]]
    assert 0 < low < frame.loc["unigrpo", "gold_gain"] < high
    assert frame.loc[["sft", "fpo"], "gold_gain"].isna().all()
    table = (tmp_path / "gains.md").read_text().splitlines()[2:7]
    head, _, *rows = ([cell.strip() for cell in line.split("|")] for line in table)
    said = [row[head.index("gold: gain")] for row in rows]
    assert said[0] == "–" and said[1].startswith("+0.") and said[2] == "not available"
