"""The front page of a scale, and verdicts where a scale's numbers mean nothing."""

from dataclasses import replace

import pandas as pd
import pytest

from tests._support.study import sources_of, write_study
from unigrpo.report.claims import outcomes
from unigrpo.study import resolve

GAIN = {"claim": "UniGRPO beats SFT", "check": "gains", "why": "it may not", "benchmarks": ["geneval"]}
CLAIMS = {
    "C1": GAIN | {"pairs": [[["unigrpo", "yes"], ["sft", "yes"]]]},
    "C2": GAIN | {"pairs": [[["unigrpo", "yes"], ["fpo", "yes"]]]},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "smoke"
    write_study(root, {"sft": (0.3, 2), "unigrpo": (0.9, 2)})
    return root


@pytest.mark.parametrize(("scale", "verdict"), [("smoke", "not judged"), ("cpu", "holds")])
def test_a_scale_whose_numbers_mean_nothing_gives_no_verdict(study, tmp_path, scale, verdict):
    sources = sources_of(study, study / "scores.csv")
    sources = replace(sources, folder=replace(sources.folder, study=resolve.chosen_study(scale)))
    outcomes.write(CLAIMS, sources, tmp_path)
    table = pd.read_csv(tmp_path / "claims.csv").set_index("id")
    assert table["verdict"]["C1"] == verdict
    assert table["verdict"]["C2"].startswith("not available: ")
    for suffix in ("md", "html"):
        page = (tmp_path / f"claims.{suffix}").read_text()
        answers = page.split("All comparisons")[1]
        assert (" yes " in answers or ">yes<" in answers) == (scale == "cpu")
        assert ("numbers mean nothing" in page) == (scale == "smoke")
