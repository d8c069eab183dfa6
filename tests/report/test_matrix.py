"""The paired matrix: every row less every other, marked where it differs after Holm's correction; and the base as one
model at all its seeds."""

import numpy as np
import pandas as pd
import pytest

from tests._support.study import sources_of, write_study
from unigrpo.report.data import pairs, stats
from unigrpo.report.data.results import Row
from unigrpo.report.pages import drawing, page

ENTRY = {"kind": "matrix", "benchmarks": ["geneval"], "guidance": "tuned"}
ENTRY |= {"rows": [["base", "yes"], ["unigrpo", "yes"], ["unigrpo", "no"], ["text_grpo", "yes"]]}
ROWS = [Row(*row, "tuned") for row in ENTRY["rows"]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Base sampled with two seeds; no scores of text_grpo."""
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, {"base": (0.2, 2), "unigrpo": (0.95, 4)}, prompts=12)
    return sources_of(root, root / "scores.csv")


def test_numbers_are_paired_differences_both_ways(sources, tmp_path):
    page.write("matrix", ENTRY, sources, tmp_path)
    frame = pd.read_csv(tmp_path / "matrix.csv")
    first, second = (sources.cells(row, "geneval", "official") for row in ROWS[1:3])
    e = stats.estimate(stats.difference(first, second))
    there = frame.loc[1, [f"geneval_minus_3{end}" for end in ("", "_lo", "_hi")]].tolist()
    back = frame.loc[2, [f"geneval_minus_2{end}" for end in ("", "_hi", "_lo")]].tolist()
    assert there == pytest.approx([e.mean, e.lo, e.hi], abs=1e-4) and back == pytest.approx([-x for x in there])
    assert frame.filter(regex="_4$").isna().all().all() and frame.loc[0, "geneval_minus_1":"geneval_p_1"].isna().all()


def test_a_pair_is_marked_where_it_differs_after_holms_correction(sources, tmp_path):
    found = pairs.matrix(ROWS, "geneval", sources)
    tested = [found[pair] for pair in ((ROWS[0], ROWS[1]), (ROWS[0], ROWS[2]), (ROWS[1], ROWS[2]))]
    smallest = min(each.apart.p for each in tested)
    assert min(each.p for each in tested) == pytest.approx(3 * smallest) and tested[0].differs
    assert all(each.p >= each.apart.p for each in tested)
    page.write("matrix", ENTRY, sources, tmp_path)
    table = (tmp_path / "matrix.md").read_text().splitlines()
    stars = [line.count("\\*") for line in table if line.startswith("| ")][1:]
    assert stars == [sum(found[a, b].differs for b in ROWS if (a, b) in found) for a in ROWS]


def test_the_figure_shows_every_scored_pair(sources):
    figure, data = drawing.draw(ENTRY | {"kind": "heatmap"}, sources)
    drawing.plt.close(figure)
    assert len(data) == 6 and data["value"].sum() == pytest.approx(0)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert len(said) == 7 and said.count("not available") == 1
    strong = [text for text in figure.axes[0].texts if text.get_fontweight() == "bold"]
    assert len(strong) == (data["p_holm"] < 0.05).sum()


def test_a_base_is_one_model_at_all_its_seeds(sources, tmp_path):
    """Its interval is that of its prompts' means over the seeds; a difference has the other run's replicates."""
    raw = sources.scores.cells(ROWS[0], "geneval", "official")
    mean = stats.Cells(raw.values.mean(0, keepdims=True), (0,), raw.prompts, raw.tags)
    assert len(raw.seeds) == 2 and sources.estimate(ROWS[0], "geneval", "official") == stats.estimate(mean)
    gap = sources.gap(ROWS[1], ROWS[0], "geneval", "official")
    other = sources.cells(ROWS[1], "geneval", "official")
    assert gap.seeds == 4 and gap.mean == pytest.approx(np.mean(other.values.mean(0) - mean.values[0]))
    page.write("matrix", ENTRY, sources, tmp_path)
    text = (tmp_path / "matrix.md").read_text()
    assert text.count("is one model at all seeds: its interval covers prompts and sampling only") == 1
