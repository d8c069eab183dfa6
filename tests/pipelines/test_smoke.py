"""The whole workflow, for real, at scale smoke: every rule runs, and every promised file says what it should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from unigrpo.study.catalogue import load_catalogue

pytestmark = pytest.mark.slow

COLUMNS = [
    "run",
    "label",
    "thinking",
    "seeds",
    "n",
    "ta",
    "ta_lo",
    "ta_hi",
    "geneval",
    "geneval_lo",
    "geneval_hi",
    "geneval_strict",
    "gold",
    "paper_ta",
    "paper_geneval",
    "model_evaluations",
    "images",
    "wall_seconds",
    "collapsed",
]
PAPER = [  # the rows of the paper's tables, in its order
    ("base", "no"), ("base", "yes"), ("sft", "no"), ("sft", "yes"), ("refl", "no"), ("refl", "yes"),
    ("fpo", "no"), ("fpo", "yes"), ("flow_grpo", "no"), ("flow_grpo", "yes"), ("text_grpo", "yes"),
    ("refl_thinking", "yes"), ("refl_thinking_text_grpo", "yes"), ("unifpo", "yes"), ("unigrpo", "yes"),
]  # fmt: skip
CATALOGUE = load_catalogue(Path(__file__).parents[2] / "pipelines/experiments.yaml")
ROWS = [tuple(row) for row in CATALOGUE["tables"]["table1"]["rows"]]
SECOND_STAGE = {"refl_thinking_text_grpo"}  # not trained, and so not judged, where its parent collapsed


def workflow(folder: Path, *options: str, target: str = "all") -> subprocess.CompletedProcess:
    scale = [] if any(option.startswith("scale=") for option in options) else ["scale=smoke"]
    command = [sys.executable, "-m", "snakemake", target, "--cores", "2", "--config", *scale, *options]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'src'}"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory) -> Path:
    """What the workflow needs of the repository, so that it may be changed."""
    folder = tmp_path_factory.mktemp("study") / "checkout"
    ignored = shutil.ignore_patterns(".*", "results", "docs", "tests", "benchmarks", "__pycache__")
    shutil.copytree(root, folder, ignore=ignored)
    shutil.copytree(root / "results/reference", folder / "results/reference", ignore=shutil.ignore_patterns("cpu"))
    return folder


@pytest.fixture(scope="module")
def results(checkout) -> Path:
    done = workflow(checkout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return checkout / "results/smoke"


@pytest.mark.timeout(900)
def test_table_1_has_its_rows_and_columns(results):
    for name in ("table1", "table1_unguided"):
        table = pd.read_csv(results / f"tables/{name}.csv")
        assert set(COLUMNS) <= set(table.columns)
        assert list(zip(table["run"], table["thinking"], strict=True)) == ROWS
        judged = table[table["n"] > 0]
        assert judged["geneval"].between(0, 1).all()
        assert set(table["run"]) - set(judged["run"]) <= SECOND_STAGE
        assert table["paper_ta"].isna().tolist() == [row not in PAPER or row[0] == "unifpo" for row in ROWS]
        assert table["paper_collapsed"].notna().tolist() == [row in PAPER for row in ROWS]


def test_table_2_has_six_categories_both_ways(results):
    table = pd.read_csv(results / "tables/table2.csv")
    for tag in ("single_object", "two_object", "counting", "colors", "position", "color_attr"):
        assert {tag, f"{tag}_lo", f"{tag}_hi", f"{tag}_strict", f"{tag}_n", f"paper_{tag}"} <= set(table.columns)
    assert list(zip(table["run"], table["thinking"], strict=True)) == ROWS


def test_every_figure_and_the_gallery_are_there(results):
    drawn = ("fig2_samples", "fig3_curves", "fig6_unigrpo", "fig7_base", "fig8_sft", "training", "scores", "categories")
    drawn += ("cfg", "cfg_samples")
    for name in drawn:
        assert (results / f"figures/{name}.png").stat().st_size > 10_000
    page = (results / "gallery/index.html").read_text()
    images = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert images and all((results / "gallery" / image).exists() for image in images)


def test_the_training_table_has_every_reinforced_run(results):
    table = pd.read_csv(results / "tables/training.csv").set_index("run")
    assert set(table.index) == {run for run, _ in ROWS} - {"base", "sft"} | {"unigrpo_cfg"}
    trained = table[table["seeds"] > 0]
    assert set(table.index) - set(trained.index) <= SECOND_STAGE
    assert trained[["gold_first", "training_last", "model_evaluations"]].notna().all(axis=None)
    hacking = pd.read_csv(results / "tables/hacking.csv").set_index("run")
    assert set(hacking.index) == set(table.index) and hacking["gold_first"].notna().any()


def test_every_claim_has_a_verdict(results):
    claims = pd.read_csv(results / "claims.csv")
    assert claims["id"].tolist() == list(CATALOGUE["claims"])
    apart = claims.set_index("id")["verdict"][["C7", "C8", "C9"]]
    assert apart.str.contains("made by `make overoptimise`", regex=False).all()
    words = ("holds", "does not hold", "undecided at this n", "not available: ")
    assert claims["verdict"].str.startswith(words).all()
    assert all((results / f"claims.{suffix}").stat().st_size > 1000 for suffix in ("md", "html"))


def test_scores_are_tidy_and_every_set_states_its_protocol(results):
    scores = pd.read_csv(results / "scores.csv")
    assert {"official", "strict", "gold", "second", "proxy", "artefact", "ta"} <= set(scores["metric"])
    assert set(scores["guidance"]) == {"unguided", "tuned", "greedy"}
    stated = [
        "prompt_hash",
        "steps",
        "grid",
        "shift",
        "guidance",
        "temperature",
        "resolution",
        "seed",
        "ema",
        "checkpoint",
        "version",
    ]
    protocols = list(results.glob("runs/*/seed*/samples/*/protocol.json"))
    judged = len(ROWS) - len(SECOND_STAGE - set(scores["run"]))
    assert len(protocols) == 4 * (judged + 1) + 2  # two benchmarks at two guidances; unigrpo_cfg; greedy text for SFT
    for path in protocols:
        assert set(stated) <= json.loads(path.read_text()).keys()


def test_a_second_call_has_nothing_to_do(checkout, results):
    again = workflow(checkout, "--dry-run")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_an_ablation_is_one_line_and_its_name_in_a_table(checkout, results):
    """As the README shows it: exactly the new jobs are run, and the new table has the row."""
    path = checkout / "pipelines/experiments.yaml"
    shown = "  door: {kind: main, default: false, rows: [[unigrpo, yes], [unigrpo_door, yes]]}\n"
    text = path.read_text().replace(
        "\ntables:\n", f"\n  unigrpo_door: {{like: unigrpo, ratio: plain}}\ntables:\n{shown}"
    )
    path.write_text(text)
    done = workflow(checkout, target="results/smoke/tables/door.md")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    jobs = re.search(r"Job stats:\n.*?\n-.*?\n(.*?)\n\n", done.stdout + done.stderr, re.DOTALL)[1]
    counted = {rule: int(n) for rule, n in (line.split() for line in jobs.splitlines()) if rule != "total"}
    assert counted == {"train": 1, "sample": 1, "score": 1, "collect_apart": 1, "table": 1}
    table = pd.read_csv(results / "tables/door.csv").set_index("run")
    assert table.loc["unigrpo_door", "geneval"] >= 0 and table.loc["unigrpo_door", "seeds"] == 1


def test_two_processes_train_what_one_does(checkout, results):
    """Fine-tuning and reinforcement split between two processes, started as the workflow starts them."""
    scales = checkout / "pipelines/scales"
    (scales / "split.yaml").write_text((scales / "smoke.yaml").read_text() + "processes: 2\nsharding: true\n")
    done = workflow(checkout, "scale=split", "run=text_grpo", target="one_run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runs = [checkout / f"results/{scale}/runs" for scale in ("split", "smoke")]
    for run in ("sft", "text_grpo"):
        split, one = (json.loads((folder / run / "seed0/run.json").read_text()) for folder in runs)
        assert (split["config"]["processes"], one["config"]["processes"]) == (2, 1)
        assert split["config"]["sharding"] and split["images"] == one["images"]
    start, split, one = (
        torch.cat([tensor.flatten() for _, tensor in sorted(load_file(folder / "seed0/model.safetensors").items())])
        for folder in (runs[1] / "base", runs[0] / "sft", runs[1] / "sft")
    )
    assert 0 < (split - one).norm() < 1e-2 * (one - start).norm()
