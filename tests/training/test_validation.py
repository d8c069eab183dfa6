"""Validation: means over categories, and the record of its images."""

import json

import numpy as np
import pytest
from PIL import Image

from unigrpo.core.records import SHEET_COLUMNS, Prompt
from unigrpo.sampling.engine import Samples
from unigrpo.sampling.validation_set import by_category, judge_each, validation_jobs
from unigrpo.training import validation
from unigrpo.training.validation import Validation, record, sheet
from unigrpo.world.prompts import Group, Statement, make_prompt
from unigrpo.world.render import render
from unigrpo.world.traces import Imperfection, annotate, paint_to_the_letter, write_plan


@pytest.fixture(scope="module")
def truth():
    """Every validation prompt twice, painted and planned as it asks."""
    jobs, rng = validation_jobs(2), np.random.default_rng(0)
    texts, scenes = zip(*(annotate(p.meta, rng, Imperfection()) for p, _ in jobs), strict=True)
    return jobs, Samples(render(scenes, 48), list(texts), 0)


def test_right_images_of_right_traces_score_one(truth):
    rows, painted = judge_each(*truth)
    means = by_category(truth[0], rows)
    assert means["gold"] > 0.98 and means["strict"] > 0.98 and means["trace_correct"] == 1
    assert means["artefact"] < 0.002 and painted["image_given_trace"] > 0.95
    assert means["extra"] < 0.02 and means["wrong_hues"] < 0.02


def test_each_image_says_what_is_wrong_with_it():
    """The first as asked; then a blue square more, the circle in blue, and a trace that is malformed."""
    prompt = make_prompt("p", "colors", Statement((Group(1, "red", "circle"),)))
    circle, square = ("red", "circle", "center"), ("blue", "square", "upper-left")
    plans = [[circle], [circle, square], [("blue", *circle[1:])], [circle]]
    texts = [write_plan([circle])] * 3 + ["<think> red"]
    samples = Samples(render([paint_to_the_letter(plan) for plan in plans], 48), texts, 0)
    rows, painted = judge_each([(prompt, k) for k in range(4)], samples)
    said = [[row[name] for name in ("extra", "wrong_hues", "image_given_trace", "trace_correct")] for row in rows]
    assert said == [[0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert painted["image_given_trace"] == pytest.approx(1 / 3)  # of valid traces


def test_categories_weigh_equally():
    jobs = [(Prompt(f"val/{i}", "x", tag, {}), 0) for i, tag in enumerate(["a", "a", "a", "b"])]
    rows = [{"gold": g, "soft": 1 - g} for g in (1.0, 1.0, 1.0, 0.0)]
    assert by_category(jobs, rows) == {"gold": 0.5, "soft": 0.5}


def test_a_sheet_has_the_first_image_of_each_prompt_in_its_place(truth):
    jobs, samples = truth
    page = np.asarray(sheet(Validation(jobs, samples, [], {})))
    for place in (0, 7, SHEET_COLUMNS, 33):
        row, column = divmod(place, SHEET_COLUMNS)
        tile = page[48 * row : 48 * (row + 1), 48 * column : 48 * (column + 1)]
        assert (tile == samples.images[2 * place]).all()
    assert page.shape == (48 * -(-len(jobs) // 2 // SHEET_COLUMNS), 48 * SHEET_COLUMNS, 3)


def test_larger_images_are_reduced(monkeypatch, truth):
    monkeypatch.setattr(validation, "TILE", 12)
    assert sheet(Validation(*truth, [], {})).size[0] == 12 * SHEET_COLUMNS


def test_the_record_is_one_line_an_image_and_starts_anew(truth, tmp_path):
    jobs, samples = truth
    rows, painted = judge_each(jobs, samples)
    folder = tmp_path / "validation"
    for update in (0, 20, 0):
        record(Validation(jobs, samples, rows, painted), folder, update)
    assert sorted(p.name for p in folder.iterdir()) == ["000000.jsonl", "000000.png"]
    lines = [json.loads(line) for line in (folder / "000000.jsonl").read_text().splitlines()]
    assert [(line["prompt_id"], line["tag"], line["sample"]) for line in lines] == [(p.id, p.tag, k) for p, k in jobs]
    assert [line["gold"] for line in lines] == pytest.approx([row["gold"] for row in rows], abs=1e-6)
    assert Image.open(folder / "000000.png").size[0] == 48 * SHEET_COLUMNS
