"""The front page of a scale, and verdicts where a scale's numbers mean nothing."""

import html
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from docutils.core import publish_parts

from tests._support.study import sources_of, write_jsonl, write_study
from unigrpo.core.errors import UserError
from unigrpo.report.claims import outcomes
from unigrpo.report.pages import index
from unigrpo.study import resolve
from unigrpo.study.catalogue import facts_of

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


@pytest.fixture(scope="module")
def finished(study):
    """With two tables, a figure, the gallery's page, claims and records of steps."""
    folder = replace(sources_of(study).folder, study=resolve.chosen_study("smoke"))
    outcomes.write(CLAIMS, replace(sources_of(study, study / "scores.csv"), folder=folder), study)
    for name in ("tables/table1.html", "tables/cfg.html", "figures/fig6_unigrpo.png", "gallery/index.html"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).touch()
    steps = {"train.unigrpo.0": 60, "train.unigrpo.1": 120, "sample.sft.0": 30, "table.table1": 6, "gallery": 6}
    for step, seconds in steps.items():
        row = {"seconds": seconds, "cpu_seconds": seconds / 2, "max_rss_mb": 100.0 + seconds}
        write_jsonl(study / f"steps/{step}.jsonl", [row])
    index.write(folder)
    return study


def test_the_front_page_links_what_is_there_and_nothing_else(finished):
    page = (finished / "index.html").read_text()
    links = dict.fromkeys(re.findall(r'(?:href|src)="([^"]+)"', page))
    wanted = ["claims.html", "tables/table1.html", "tables/cfg.html", "figures/fig6_unigrpo.png"]
    assert [*links] == [*wanted, "gallery/index.html", "scores.csv"]
    assert all((finished / link).exists() for link in links)
    catalogue = resolve.chosen_study("smoke").catalogue
    for section, name in (("tables", "cfg"), ("figures", "fig6_unigrpo")):
        assert facts_of(section, catalogue[section][name]).caption in html.unescape(page)


def test_the_front_page_says_what_was_run_and_what_came_out(finished):
    page = html.unescape(re.sub("<[^>]+>", " ", (finished / "index.html").read_text()))
    for words in (
        "Runs : 2, which make 3 rows",
        "Replicates : 2 of SFT, UniGRPO.",
        "Base : trained here.",
        "5 steps, 4 minutes one after the other, 2 minutes of a processor",
        "Of 2 claims: 1 not judged, 1 not available.",
        "numbers mean nothing",
    ):
        assert words in " ".join(page.split())
    cost = [row.split() for row in page.split("largest memory in MB")[1].splitlines() if row.split()]
    assert cost[:3] == [
        ["train", "2", "3.0", "1.5", "220"],
        ["sample", "1", "0.5", "0.2", "130"],
        ["report", "2", "0.2", "0.1", "106"],
    ]


def test_without_claims_the_front_page_has_what_there_is(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "smoke")
    for name in ("claims.csv", "claims.html", "scores.csv"):
        (tmp_path / "smoke" / name).unlink()
    of_base = {"settings": {}, "inputs": {}, "outputs": {}, "shipped": True, "versions": {}, "code": {}}
    write_jsonl(tmp_path / "smoke/steps/pretrain.base.0.jsonl", [{"step": "pretrain.base.0", "made": of_base}])
    (tmp_path / "smoke/gallery").rename(tmp_path / "smoke/gallery_demo")
    index.write(replace(sources_of(tmp_path / "smoke").folder, study=resolve.chosen_study("smoke")))
    page = (tmp_path / "smoke/index.html").read_text()
    links = dict.fromkeys(re.findall(r'(?:href|src)="([^"]+)"', page))
    assert [*links][-1] == "gallery_demo/index.html" and not {"claims.html", "scores.csv"} & links.keys()
    assert "Gallery of demo" in page and "5 steps" in page and "the one that ships with the project" in page
    assert "claims:" not in (tmp_path / "smoke/index.rst").read_text()


def test_the_report_of_the_workflow_opens_on_the_same_words(finished):
    said = publish_parts((finished / "index.rst").read_text(), writer="html")["html_body"]
    page = (finished / "index.html").read_text()
    plain = [" ".join(html.unescape(re.sub("<[^>]+>", "", each)).split()) for each in (said, page)]
    for line in (finished / "index.rst").read_text().replace("*", "").replace("``", "").splitlines():
        assert line.strip() in plain[0]
    for words in ("Replicates: 2 of SFT, UniGRPO.", "Of 2 claims: 1 not judged, 1 not available."):
        assert words in plain[0] and words in plain[1]
    assert "system-message" not in said


def test_without_steps_or_with_damaged_claims_the_front_page_says_so(tmp_path):
    folder = replace(sources_of(tmp_path).folder, study=resolve.chosen_study("smoke"))
    with pytest.raises(UserError, match="steps: expected a file of each step"):
        index.write(folder)
    write_jsonl(tmp_path / "steps/tune.jsonl", [{"seconds": 1, "cpu_seconds": 1, "max_rss_mb": 1}])
    (tmp_path / "claims.csv").write_text("id,claim\nC1,x\n")
    with pytest.raises(UserError, match="claims.csv: .*verdict"):
        index.write(folder)
    assert not (tmp_path / "index.html").exists()
