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

from unigrpo.core import code_identity
from unigrpo.study import standing
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
    own = ("results", "docs", "tests", "benchmarks")  # of the checkout, not of its folders
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(root, folder, ignore=lambda at, names: {*ignored(at, names), *(own if at == str(root) else ())})
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
    assert set(table.index) == {run for run, _ in ROWS if CATALOGUE["runs"][run]["stage"] == "rl"} | {"unigrpo_cfg"}
    trained = table[table["seeds"] > 0]
    assert set(table.index) - set(trained.index) <= SECOND_STAGE
    assert trained[["gold_first", "training_last", "model_evaluations"]].notna().all(axis=None)
    hacking = pd.read_csv(results / "tables/hacking.csv").set_index("run")
    assert set(hacking.index) == set(table.index) and hacking["gold_first"].notna().any()


def test_every_claim_has_a_verdict(results):
    claims = pd.read_csv(results / "claims.csv")
    assert claims["id"].tolist() == list(CATALOGUE["claims"])
    apart = claims.set_index("id")["verdict"][["C7", "C8", "C9"]]
    assert apart.str.contains("not available: validations of ", regex=False).all()
    words = ("not judged", "not available: ")
    assert claims["verdict"].str.startswith(words).all()
    assert all((results / f"claims.{suffix}").stat().st_size > 1000 for suffix in ("md", "html"))


def test_scores_are_tidy_and_every_set_states_its_protocol(results):
    scores = pd.read_csv(results / "scores.csv")
    assert {"official", "strict", "gold", "second", "proxy", "artefact", "ta"} <= set(scores["metric"])
    assert set(scores["guidance"]) == {"unguided", "tuned"}
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
    assert len(protocols) == 4 * (judged + 1)  # two benchmarks at two guidances; unigrpo_cfg
    for path in protocols:
        assert set(stated) <= json.loads(path.read_text()).keys()


def test_a_second_call_has_nothing_to_do(checkout, results):
    again = workflow(checkout, "--dry-run")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


SIGN, SYNTAX = ("return ", "return -"), ("def ", "de ")
METHOD = {
    name: lambda config, name=name: config["stage"] == "rl" and config["rl"]["method"] == name
    for name in ("grpo", "fpo", "awm", "nft", "ddrl", "refl")
}
ALL, RL, SUPERVISED = (
    (lambda config: True),
    (lambda config: config["stage"] == "rl"),
    (lambda config: config["stage"] != "rl"),
)
REACHES = {  # edited file -> (edit, the runs that it reaches)
    "src/unigrpo/objectives/advantages.py": (SIGN, RL),
    "src/unigrpo/objectives/text_losses.py": (SIGN, RL),
    "src/unigrpo/objectives/image_losses.py": (SIGN, RL),
    "src/unigrpo/objectives/averaging.py": (SYNTAX, ALL),
    "src/unigrpo/objectives/flow.py": (SIGN, ALL),
    "src/unigrpo/objectives/matching.py": (SIGN, lambda c: any(METHOD[m](c) for m in ("fpo", "awm", "nft", "ddrl"))),
    "src/unigrpo/methods/fpo.py": (SIGN, lambda c: METHOD["fpo"](c) or METHOD["awm"](c)),
    "src/unigrpo/objectives/regularisers/velocity_mse.py": (
        SIGN,
        lambda c: RL(c) and c["rl"]["regulariser"] == "velocity_mse" and "image" in c["rl"]["train"],
    ),
    "src/unigrpo/methods/grpo.py": (SIGN, METHOD["grpo"]),
    "src/unigrpo/methods/nft.py": (SIGN, METHOD["nft"]),
    "src/unigrpo/methods/refl.py": (SYNTAX, METHOD["refl"]),
    "rewards/learned.py": (SIGN, lambda c: RL(c) and c["rl"]["reward"] == "learned"),
    "rewards/_support/learned_model.py": (SIGN, lambda c: RL(c) and c["rl"]["reward"] in ("learned", "weak")),
    "src/unigrpo/world/render.py": (SIGN, ALL),
    "src/unigrpo/world/traces.py": (SIGN, ALL),
    "src/unigrpo/models/mot_layers.py": (SIGN, ALL),
    "src/unigrpo/sampling/painting.py": (SIGN, ALL),
    "src/unigrpo/core/seeding.py": ((">> 1", ">> 2"), ALL),
    "src/unigrpo/core/distributed.py": (SIGN, ALL),
    "src/unigrpo/training/supervised_run.py": (SIGN, SUPERVISED),
    "src/unigrpo/training/loop.py": (("* s.share", "/ s.share"), RL),
    "src/unigrpo/study/config.py": (SIGN, ALL),
}
REACHES_NONE = {
    "src/unigrpo/methods/grpo.py": ("\nFACTS", "\n# a comment\nFACTS"),
    "src/unigrpo/training/loop.py": ('"""The algorithm', '"""All of the algorithm'),
    "src/unigrpo/objectives/advantages.py": ("\n\n\n", "\n\n\n\n\n"),
    "src/unigrpo/objectives/flow.py": ("\n    return ", "\n    # a comment\n    return "),
    "src/unigrpo/methods/mine.py": None,
    "rewards/mine.py": None,
    "src/unigrpo/report/tables/mine.py": None,
    "rewards/jpeg.py": SIGN,
    "evals/run.py": SIGN,
    "src/unigrpo/judges/detector.py": SIGN,
    "src/unigrpo/report/tables/main.py": SIGN,
    "src/unigrpo/report/figures/curves.py": ("def ", "de "),
    "src/unigrpo/report/data/stats.py": SIGN,
    "src/unigrpo/planning/phases.py": SIGN,
    "src/unigrpo/tools/export.py": SIGN,
    "src/unigrpo/commands/look.py": SIGN,
    "src/unigrpo/core/files.py": SIGN,
    "src/unigrpo/core/settings.py": SIGN,
    "src/unigrpo/study/resolve.py": SIGN,
    "src/unigrpo/study/published.py": SIGN,
    "pipelines/steps.smk": ("\n\n\nrule tune", "\n\n\n# a comment\nrule tune"),
}


def out_of_date(checkout: Path, monkeypatch) -> set[str]:
    """Steps whose code is another one now."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(code_identity, "PLACES", (checkout / "src", checkout))
    for function in (code_identity.hash_of, code_identity._tree):
        function.cache_clear()
    records = {
        path.stem: [json.loads(row) for row in path.read_text().splitlines()]
        for path in (checkout / "results/smoke/steps").iterdir()
    }
    return {
        step
        for step, rows in records.items()
        if any(standing.changed_code(row["made"]) for row in rows if "made" in row)
    }


@pytest.fixture
def edited(checkout, results, request):
    path, edit = checkout / request.param[0], request.param[1]
    before = path.read_text() if path.exists() else None
    if edit is None:
        path.write_text("FACTS = 1\n")
    else:
        assert edit[0] in before
        path.write_text(before.replace(*edit, 1))
    yield path
    path.write_text(before) if before is not None else path.unlink()


TRAINING = ("pretrain.", "sft.", "train.")


@pytest.mark.parametrize(
    "edited, reached",
    [((path, edit), reached) for path, (edit, reached) in REACHES.items()],
    indirect=["edited"],
    ids=REACHES,
)
def test_an_edit_that_changes_numbers_makes_the_runs_that_it_reaches_stale(
    checkout, results, edited, reached, monkeypatch
):
    """And no other: each run's file says by which settings it was made."""
    records = {path: json.loads(path.read_text()) for path in results.glob("runs/*/seed*/run.json")}
    stage = {"rl": "train", "sft": "sft", "base": "pretrain"}
    trained = [r for r in records.values() if not r["config"].get("ceiling")]
    expected = {f"{stage[r['config']['stage']]}.{r['run']}.{r['seed']}" for r in trained if reached(r["config"])}
    assert {step for step in out_of_date(checkout, monkeypatch) if step.startswith(TRAINING)} == expected != set()


@pytest.mark.parametrize("edited", REACHES_NONE.items(), indirect=True, ids=REACHES_NONE)
def test_an_edit_that_changes_no_number_of_a_run_makes_none_stale(checkout, results, edited, monkeypatch):
    stale = out_of_date(checkout, monkeypatch)
    assert not {step for step in stale if step.startswith(TRAINING)}
    if edited.name in ("run.py", "detector.py"):
        assert stale and all(step.startswith("score.") for step in stale)  # an edited judge judges again


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
