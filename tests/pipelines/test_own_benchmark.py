"""What a user adds to the evaluation by a line of the catalogue: a benchmark is sampled, judged, tabulated, compared
and shown; so are images that another program has made; a reward has its column for every run."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rewards._support import learned_model
from tests._support import project as copies
from unigrpo.core.files import read_jsonl, write_json
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.sampling import sample_folder
from unigrpo.study import resolve
from unigrpo.study.facts import STATISTICS
from unigrpo.world.render import render
from unigrpo.world.scenes import scene_for

PROMPTS = [
    {"prompt": "a photo of a ring and a star", "tag": "pairs"},
    {"prompt": "a photo of a red ring", "tag": "one", "include": [{"class": "ring", "count": 1, "color": "red"}]},
    {"prompt": "a photo of a star", "tag": "one", "include": [{"class": "star", "count": 1}]},
]
PROMPTS[0]["include"] = [{"class": "ring", "count": 1}, {"class": "star", "count": 1}]
ENTRIES = """
  mine: {label: My prompts, prompts: mine.jsonl, judge: official, images: 2, also: {my gold: gold}}
  small: {prompts: mine.jsonl, judge: jpeg, judge_options: {quality: 50}, images: 1}
"""
TABLES = """
  own: {kind: main, default: false, benchmarks: [mine, small], rows: [[base, yes], [sft, yes]]}
  outside: {kind: main, default: false, rows: [[sft, yes], [theirs, no]]}
"""
THEIRS = """
  theirs: {label: Their method, images: "theirs/seed{seed}", thinking: no}
"""
REDNESS = '"""The mean of the red channel."""\nfrom unigrpo.study.facts import RewardFacts\n\n'
REDNESS += 'FACTS = RewardFacts("redness", range=(0.0, 1.0))\n\n\n'
REDNESS += "def build():\n    return lambda images, prompts: images[:, 0].mean((1, 2))\n"
SCALE = ("--config", "scale=smoke")
STEPS = ("sample", "outside", "score", "collect_apart", "collect_two", "table", "compare")


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A copy of the project with two entries and a table, and what the workflow has before it samples: two models,
    untrained, the choice of decoding, and the learned reward."""
    folder = copies.copy(root, tmp_path_factory.mktemp("project"))
    (folder / "mine.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    catalogue = folder / "pipelines/experiments.yaml"
    (folder / "rewards/redness.py").write_text(REDNESS)
    text = catalogue.read_text().replace("\nbenchmarks:\n", f"\nalso_report: [redness]\nbenchmarks:{ENTRIES}")
    text = text.replace("\nruns:\n", f"\nruns:{THEIRS}")
    catalogue.write_text(text.replace("\ntables:\n", f"\ntables:{TABLES}"))
    paint(folder)
    results, study = folder / "results/smoke", resolve.chosen_study("smoke")
    for run, seed in (("base", 0), ("sft", 1)):
        cfg = study.resolve(run)
        checkpoint.new_model(replace(cfg, seed=seed)).save(results / f"runs/{run}/seed0", {})
        write_json(results / f"runs/{run}/seed0/run.json", {"run": run, "seed": 0, "ema": False})
    chosen = {"think": {"guidance": 2.0, "temperature": 1.0}, "direct": {"guidance": 2.0}}
    write_json(results / "starts/seed0/decoding.json", chosen)
    torch.manual_seed(0)
    learned_model.save(learned_model.LearnedReward(cfg.reward, cfg.model.image_size), results / "starts/seed0/reward")
    return folder


def paint(folder):
    """As a stranger would: the prompts are written as folders, and a painter that does all that is asked fills them."""
    copies.run(folder, "unigrpo", "prompts", "world", "--scale", "smoke", "--out", "theirs/seed0")
    rng, side = np.random.default_rng(0), resolve.chosen_study("smoke").resolve("base").model.image_size
    for place in sorted((folder / "theirs/seed0").iterdir()):
        meta = json.loads((place / "metadata.jsonl").read_text())
        scenes = [scene_for(meta, rng) for _ in range(meta["images"])]
        for k, pixels in enumerate(render(scenes, side)):
            Image.fromarray(pixels).save(place / f"samples/{k:04d}.png")


@pytest.fixture(scope="module")
def made(project):
    targets = (
        "results/smoke/tables/own.csv",
        "results/smoke/compare/base.vs.sft.md",
        "results/smoke/tables/outside.md",
        "results/smoke/compare/sft.vs.theirs.md",
    )
    copies.run(project, "snakemake", "--cores", "2", *targets, *SCALE, "--allowed-rules", *STEPS)
    copies.run(project, "unigrpo", "gallery", "--scale", "smoke")
    return project / "results/smoke"


def scores(made, benchmark):
    rows = [row for _, row in read_jsonl(made / "runs/sft/seed0/scores.jsonl")]
    chosen = [row for row in rows if row["benchmark"] == benchmark and row["mode"] == "think"]
    return [row for row in chosen if row["guidance"] == "tuned"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_run_is_sampled_and_judged_on_it(made):
    for run in ("base", "sft"):
        sets = json.loads((made / f"runs/{run}/seed0/samples/done.json").read_text())["sets"]
        assert {f"{name}.think.tuned" for name in ("mine", "small", "ta", "geneval")} <= set(sets)
    mine, small = scores(made, "mine"), scores(made, "small")
    assert (len(mine), len(small)) == (6, 3)
    assert all({"official", "strict", "gold", "second", "proxy"} <= row["metrics"].keys() for row in mine)
    assert all(row["metrics"].keys() - STATISTICS.keys() == {"jpeg", "redness"} for row in small)
    assert all(row["metrics"]["jpeg"] < 0 for row in small)


@pytest.mark.slow
def test_the_table_that_names_it_has_its_numbers(made):
    line = pd.read_csv(made / "tables/own.csv").set_index("run").loc["sft"]
    gold = pd.DataFrame([row | row["metrics"] for row in scores(made, "mine")]).groupby("tag")["gold"].mean().mean()
    size = pd.DataFrame([row | row["metrics"] for row in scores(made, "small")]).groupby("tag")["jpeg"].mean().mean()
    assert line[["my_gold", "small"]].tolist() == pytest.approx([gold, size], abs=1e-4)
    assert (line["n"], line["prompts_mine"]) == (9, 3) and not {"ta", "geneval", "paper_mine"} & set(line.index)
    text = (made / "tables/own.md").read_text()
    assert "| My prompts " in text and "Small is JPEG compressibility" in text


@pytest.mark.slow
def test_it_is_compared_and_shown(made):
    compared = pd.read_csv(made / "compare/base.vs.sft.csv")["metric"].tolist()
    assert {"My prompts", "my gold", "small", "My prompts, one", "TA", "GenEval, counting"} <= set(compared)
    page = (made / "gallery/index.html").read_text()
    headings = re.findall(r'<p class="category">(.*?)</p>', page)
    assert {"My prompts, pairs", "My prompts, one", "small, one", "GenEval, counting", "TA, compound"} <= set(headings)
    first = json.loads((made / "runs/sft/seed0/samples/mine.think.tuned/manifest.jsonl").read_text().splitlines()[0])
    assert first["prompt"] == PROMPTS[0]["prompt"] and f"<h2>{first['prompt']}</h2>" in page


@pytest.mark.slow
def test_images_made_elsewhere_are_a_row_like_that_of_a_trained_run(made):
    table = pd.read_csv(made / "tables/outside.csv").set_index("run")
    theirs = table.loc["theirs"]
    assert min(theirs["ta"], theirs["geneval"], theirs["geneval_strict"]) > 0.99 > table.loc["sft", "geneval"]
    assert theirs["n"] == table.loc["sft", "n"] and theirs["label"] == "Their method"
    text = (made / "tables/outside.md").read_text()
    assert "**Made elsewhere**: Their method, seed 0: " in text and "GenEval: " not in theirs["label"]
    assert (
        theirs.isna()["collapsed"] and "GenEval" in pd.read_csv(made / "compare/sft.vs.theirs.csv")["metric"].tolist()
    )
    assert "Their method" in (made / "gallery/index.html").read_text()


@pytest.mark.slow
def test_a_reward_that_is_reported_besides_has_its_column_for_every_run(made):
    table = pd.read_csv(made / "tables/outside.csv").set_index("run")
    for run, mode in (("sft", "think"), ("theirs", "direct")):
        folder = made / f"runs/{run}/seed0/samples/geneval.{mode}.tuned"
        samples = sample_folder.read(folder)
        red = [np.asarray(image)[..., 0].mean() / 255 for image in samples.images]
        rows = pd.DataFrame({"tag": [row["tag"] for row in samples.rows], "red": red})
        assert table.loc[run, "geneval_redness"] == pytest.approx(rows.groupby("tag")["red"].mean().mean(), abs=1e-3)
    assert "GenEval, redness" in pd.read_csv(made / "compare/base.vs.sft.csv")["metric"].tolist()
    assert "redness" in (made / "gallery/index.html").read_text()


def test_no_table_claim_or_figure_knows_a_benchmark_by_name(root):
    names = "|".join(resolve.benchmarks())
    for place in ("src/unigrpo/report", "src/unigrpo/sampling", "src/unigrpo/study", "evals/run.py"):
        for path in [root / place] if place.endswith(".py") else (root / place).rglob("*.py"):
            assert not re.search(rf"""["']({names})\b""", path.read_text()), path
