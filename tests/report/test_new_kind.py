"""A kind of table of a user's own is one file and a line of the catalogue: it is planned, made and captioned."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests._support.study import write_study

COPIED = ("src", "rewards", "evals", "pipelines", "profiles", "assets", "Snakefile", "environment.yml")
KIND = '''"""How many seeds collapsed."""

from unigrpo.report.data import lines
from unigrpo.study.facts import KindFacts

FACTS = KindFacts("Collapses", "Seeds that collapsed.", notes=("Counted.",), scores=False, reads="run.json")


def line(row, rows, sources):
    return {"run": row.run, "label": sources.folder.label(row.run), "seeds": sources.cost(row.run)["collapsed"]}


def text(line):
    return {"run": line["label"], "collapsed seeds": lines.number(line, "seeds", "d")}
'''


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A copy of the project with one more kind of table, and a table of it."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, folder / name)
    (folder / "results/reference").mkdir(parents=True)
    shutil.copy(root / "results/reference/paper.csv", folder / "results/reference")
    (folder / "src/unigrpo/report/tables/collapses.py").write_text(KIND)
    path = folder / "pipelines/experiments.yaml"
    path.write_text(path.read_text().replace("\ntables:\n", "\ntables:\n  mine: {kind: collapses, runs: [unigrpo]}\n"))
    write_study(folder / "results/smoke", {"unigrpo": (0.8, 2), "text_grpo": (0.6, 1)})
    return folder


def run(project, *command):
    variables = os.environ | {"PYTHONPATH": f"{project / 'src'}{os.pathsep}{project}"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=project, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def test_it_is_planned_with_what_it_reads(project):
    target = "results/smoke/tables/mine.md"
    plan = run(project, "snakemake", "-nF", "--cores", "1", target, "--config", "scale=smoke")
    jobs = dict(line.split() for line in plan.partition("job  ")[2].splitlines()[2:] if len(line.split()) == 2)
    assert jobs["table"] == "1" and jobs["train"] and not {"sample", "score", "collect"} & jobs.keys()


def test_it_is_made_and_listed(project):
    run(project, "unigrpo", "table", "mine", "--scale", "smoke")
    folder = project / "results/smoke/tables"
    assert pd.read_csv(folder / "mine.csv").iloc[0].tolist() == ["unigrpo", "UniGRPO", 0]
    text = (folder / "mine.md").read_text()
    assert text.startswith("# Collapses\n") and "\n* Counted.\n" in text and "| UniGRPO | 0" in text
    assert "Counted." in (folder / "mine.tex").read_text() and "Collapses" in (folder / "mine.html").read_text()
    assert "collapses (runs, of training): Seeds that collapsed." in run(project, "unigrpo", "kinds")
