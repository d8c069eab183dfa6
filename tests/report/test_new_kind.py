"""A kind of table of a user's own is one file and a line of the catalogue: it is planned, made and captioned."""

import pandas as pd
import pytest

from tests._support import project as copies
from tests._support.study import write_study

KIND = '''"""How many seeds collapsed."""

from unigrpo.report.data import lines
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Collapses", "Seeds that collapsed.", notes=("Counted.",), scores=False, reads="run.json")


def line(row, rows, sources):
    return {"seeds": sources.cost(row.run)["collapsed"]}


def text(line, sources):
    return {"collapsed seeds": lines.number(line, "seeds", "d")}
'''


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A copy of the project with one more kind of table, and a table of it."""
    folder = copies.copy(root, tmp_path_factory.mktemp("project"))
    (folder / "src/unigrpo/report/tables/collapses.py").write_text(KIND)
    path = folder / "pipelines/experiments.yaml"
    path.write_text(path.read_text().replace("\ntables:\n", "\ntables:\n  mine: {kind: collapses, runs: [unigrpo]}\n"))
    write_study(folder / "results/smoke", {"unigrpo": (0.8, 2), "text_grpo": (0.6, 1)})
    return folder


def test_it_is_planned_with_what_it_reads(project):
    target = "results/smoke/tables/mine.md"
    plan = copies.run(project, "snakemake", "-nF", "--cores", "1", target, "--config", "scale=smoke")
    jobs = dict(line.split() for line in plan.partition("job  ")[2].splitlines()[2:] if len(line.split()) == 2)
    assert jobs["table"] == "1" and jobs["train"] and not {"sample", "score", "collect"} & jobs.keys()


def test_it_is_made_and_listed(project):
    copies.run(project, "unigrpo", "table", "mine", "--scale", "smoke")
    folder = project / "results/smoke/tables"
    assert pd.read_csv(folder / "mine.csv").iloc[0].tolist() == ["unigrpo", "UniGRPO", 0]
    text = (folder / "mine.md").read_text()
    assert text.startswith("# Collapses\n") and "\n* Counted.\n" in text and "| UniGRPO | 0" in text
    assert "Counted." in (folder / "mine.tex").read_text() and "Collapses" in (folder / "mine.html").read_text()
    assert "collapses (runs, of training): Seeds that collapsed." in copies.run(project, "unigrpo", "kinds")
