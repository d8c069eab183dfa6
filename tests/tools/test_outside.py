"""An outside method's way in, as docs/extending.md shows it: prompts handed out, pictures filled in, judged, tabled."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter

import pandas as pd
import pytest
from PIL import Image

from evals import run as evals_run
from rewards._support import learned_model
from tests._support import tiny
from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.study import resolve


def handed_out(folder, *options):
    unigrpo(shlex.join(["hand-out", "--out", str(folder), *options]))
    return {path.parent.name: [row for _, row in read_jsonl(path)] for path in folder.glob("*/manifest.jsonl")}


def test_every_prompt_is_handed_out_as_often_as_our_runs_paint_it(tmp_path):
    sets = handed_out(tmp_path)
    assert {"geneval.direct.tuned", "ta.direct.tuned"} <= set(sets)
    for benchmark, entry in resolve.benchmarks().items():
        name = f"{benchmark}.direct.tuned"
        counted = pd.DataFrame(sets[name]).groupby("prompt_id", sort=False).size().to_dict()
        assert counted == Counter(prompt.id for prompt, _ in entry.jobs(4))
        assert list(counted) == [p.id for p in entry.pool()]
        assert len({row["image"] for row in sets[name]}) == len(sets[name])


def test_a_handed_out_folder_without_pictures_is_refused(tmp_path):
    handed_out(tmp_path, "--images-per-prompt", "1")
    with pytest.raises(UserError, match="00000.png"):
        evals_run.score_folder(tmp_path, [], tmp_path / "scores.jsonl")


def test_pictures_become_a_row(root, tmp_path):
    seed = tmp_path / "cpu/runs/outside/seed0"
    sets = handed_out(seed / "samples", "--images-per-prompt", "1")
    learned_model.save(learned_model.LearnedReward(tiny.REWARD, 48), tmp_path / "reward")
    for name, rows in sets.items():
        Image.new("RGB", (48, 48), "white").save(seed / "samples" / name / "00000.png")
        for row in rows[1:]:
            shutil.copy(seed / "samples" / name / "00000.png", seed / "samples" / name / row["image"])
    detector, scored = root / "assets/detector", seed / "scores.jsonl"
    unigrpo(f"score --samples {seed / 'samples'} --reward {tmp_path / 'reward'} --detector {detector} --out {scored}")
    unigrpo(f"collect outside={seed} --out {tmp_path}/scores.csv")
    made = f"--scores {tmp_path}/scores.csv --results {tmp_path}/cpu --out {tmp_path}/tables"
    unigrpo(f"table t --kind main --row outside:no --row unigrpo {made}")
    line = pd.read_csv(tmp_path / "tables/t.csv").iloc[0]
    assert (line["run"], line["n"], line["geneval"]) == ("outside", sum(map(len, sets.values())), 0.0)
