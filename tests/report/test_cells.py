"""Intervals are computed again from the cells that are committed, by other code than the tables'."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests._support.study import sources_of, write_study
from unigrpo.report.data import reference
from unigrpo.report.pages import page
from unigrpo.study import resolve

COMMITTED = Path(__file__).parents[2] / "results/reference/cpu"
ROWS = [["sft", "no"], ["sft", "yes"], ["flow_grpo", "no"], ["unigrpo", "no"], ["unigrpo", "yes"]]
COLUMNS = {"ta": "ta", "geneval": "official"}  # column of table 1, which is a benchmark -> its metric


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The reference of a study of four replicates, whose table 1 is made from scores.csv."""
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, {"sft": (0.5, 4), "flow_grpo": (0.6, 4), "unigrpo": (0.7, 4)}, prompts=6)
    page.write("table1", {"kind": "main", "rows": ROWS}, sources_of(root, root / "scores.csv"), root / "tables")
    out = root.parent / "reference"
    reference.write(replace(sources_of(root).folder, study=resolve.chosen_study("cpu")), out)
    return out


@pytest.fixture(params=["made", "committed"])
def folder(request, made):
    if request.param == "committed" and not (COMMITTED / "cells.csv.xz").exists():
        pytest.skip("the reference has no cells yet")
    return made if request.param == "made" else COMMITTED


def interval(cells: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Mean over categories and its interval, by an analysis of variance of replicates and prompts."""
    table = cells.pivot(index="seed", columns=["tag", "prompt_id"], values=metric)
    count, tags = len(table), table.columns.get_level_values("tag").unique()
    replicates = np.mean([table[tag].mean(axis=1) for tag in tags], axis=0)
    prompts = noise = fourth = 0.0
    for tag in tags:
        x = table[tag].to_numpy()
        n, mean = x.shape[1], x.mean()
        residuals = x - x.mean(0) - x.mean(1, keepdims=True) + mean
        part = ((x.mean(0) - mean) ** 2).sum() / (n - 1) / n / len(tags) ** 2
        prompts, fourth = prompts + part, fourth + part**2 / (n - 1)
        noise += (residuals**2).sum() / ((n - 1) * (count - 1)) / (n * count) / len(tags) ** 2
    parts = np.array([replicates.var(ddof=1) / count, max(prompts - noise, 0)])
    quantiles = stats.t.ppf(0.975, [count - 1, prompts**2 / fourth])
    half = parts @ quantiles / parts.sum() * np.sqrt(parts.sum())
    mean = replicates.mean()
    return mean, max(mean - half, 0), min(mean + half, 1)


def test_intervals_of_table_1_follow_from_the_cells(folder):
    cells, checked = pd.read_csv(folder / "cells.csv.xz"), 0
    for line in pd.read_csv(folder / "tables/table1.csv").itertuples():
        mode = {"yes": "think", "no": "direct"}[line.thinking]
        row = cells[(cells["run"] == line.run) & (cells["mode"] == mode) & (cells["guidance"] == "tuned")]
        for name, metric in COLUMNS.items():
            part = row[row["benchmark"] == name].dropna(subset=metric)
            if part["seed"].nunique() > 1 and part.groupby("tag")["prompt_id"].nunique().min() > 1:
                ours = interval(part, metric)
                shown = [getattr(line, column) for column in (name, f"{name}_lo", f"{name}_hi")]
                assert shown == pytest.approx(ours, abs=3e-4), (line.run, line.thinking, name)
                checked += 1
    assert checked >= 5


def test_a_run_and_replicate_is_a_line_with_its_course(folder):
    lines = [json.loads(line) for line in lzma.decompress((folder / "runs.jsonl.xz").read_bytes()).splitlines()]
    assert len({(line["run"], line["seed"]) for line in lines}) == len(lines) > 0
    assert {(run, seed) for run, seed in pd.read_csv(folder / "cells.csv.xz")[["run", "seed"]].to_numpy()} <= {
        (line["run"], line["seed"]) for line in lines
    }
    reinforced = [line for line in lines if line["training"].get("proxy")]
    assert reinforced and all(line["validations"][0]["gold"] <= 1 for line in reinforced)
    assert all(len(line["training"]["proxy"]) == len(line["training"]["update"]) for line in reinforced)


def test_the_reference_is_small_and_equal_results_give_equal_bytes(made, tmp_path):
    assert sum(path.stat().st_size for path in made.glob("*.xz")) < 100_000
    scores = (made.parent / "cpu/runs/unigrpo/seed1/scores.jsonl").read_text().splitlines()
    right = [row for line in scores if (row := json.loads(line))["prompt_id"] == "counting/002"]
    right = [row["metrics"]["official"] for row in right if (row["mode"], row["guidance"]) == ("direct", "tuned")]
    cells = pd.read_csv(made / "cells.csv.xz", dtype={"prompt_id": str}).query("run == 'unigrpo' and seed == 1")
    cell = cells.query("prompt_id == 'counting/002' and mode == 'direct' and guidance == 'tuned'")
    assert cell["official"].tolist() == [np.mean(right)] and cell["images"].tolist() == [len(right)]
    folder = replace(sources_of(made.parent / "cpu").folder, study=resolve.chosen_study("cpu"))
    reference.write(folder, tmp_path)
    for path in made.rglob("*.*"):
        assert (tmp_path / path.relative_to(made)).read_bytes() == path.read_bytes()
