"""Results are believed only where they can be true: types, ranges, every image once, complete files."""

import json
import math

import numpy as np
import pytest

from tests._support.study import score_rows, write_jsonl
from unigrpo.core.errors import UserError
from unigrpo.report.data import rows
from unigrpo.report.data.results import COLUMNS, Paper, Row, Scores, collect

RANGES = {  # benchmark, metric -> least and largest value
    ("geneval", "official"): (0, 1),
    ("held_out", "strict"): (0, 1),
    ("ta", "ta"): (0, 1),
    ("ta", "soft"): (0, 1),
    ("ta", "gold"): (0, 1),
    ("ta", "artefact"): (0, 1),
    ("geneval", "second"): (0, 1),
    ("geneval", "exact"): (0, 1),
    ("ta", "ta_soft"): (0, 1),
    ("dpg", "dpg"): (0, 1),
    ("geneval2", "am"): (0, 1),
    ("geneval2", "gm"): (0, 1),
    ("text", "similar"): (0, 1),
    ("text", "exact"): (0, 1),
    ("geneval", "proxy"): (0, 1),  # the learned reward
    ("cross", "clip_score"): (0, 2.5),
    ("cross", 'ocr={"upscale": 2}'): (0, 1),
    ("cross", "jpeg"): (-math.inf, 0),
    ("geneval", "somebody's"): (-math.inf, math.inf),
    ("ours", "exact"): (-math.inf, math.inf),  # a share of another benchmark
}


@pytest.mark.parametrize("pair, ends", RANGES.items(), ids=map(".".join, RANGES))
def test_a_metric_lies_in_its_range(pair, ends):
    least, largest = ends
    inside = [max(least, -1e6), min(largest, 1e6)]
    rows.check_range("here", *pair, *inside)
    for value in (math.nan, math.inf, -math.inf, *([largest + 0.01, 70] if math.isfinite(largest) else ())):
        with pytest.raises(UserError, match="^here: .*: expected a number from .* to .*, got"):
            rows.check_range("here", *pair, value)


ROW = next(score_rows("think", "tuned", 1, np.random.default_rng(0)))
BAD_ROWS = {
    "too large": ({"metrics": {"official": 70}}, "official: expected a number from 0 to 1, got 70"),
    "negative": ({"metrics": {"second": -0.2}}, "second: expected a number from 0 to 1, got -0.2"),
    "text": ({"metrics": {"official": "1"}}, "metrics.official: expected a number, got '1'"),
    "true": ({"metrics": {"official": True}}, "metrics.official: expected a number, got True"),
    "list": ({"metrics": [1]}, "metrics: expected a mapping"),
    "sample": ({"sample": -1}, "sample: expected at least 0, got -1"),
    "sample true": ({"sample": True}, "sample: expected a whole number, got True"),
    "prompt": ({"prompt_id": 3}, "prompt_id: expected text, got 3"),
    "reason": ({"reason": ["x"]}, "reason: expected text"),
    "mode": ({"mode": "dream"}, "mode: expected 'think' or 'direct', got 'dream'"),
    "no metric": ({"metrics": {}}, "metrics: expected"),
    "again": ({}, f"prompt '{ROW['prompt_id']}', sample {ROW['sample']} is already in"),
}


@pytest.mark.parametrize("change, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_of_scores_that_cannot_be_true_is_named(change, message, tmp_path):
    write_jsonl(tmp_path / "seed0" / "scores.jsonl", [ROW, ROW | ({"sample": 1} | change if change else {})])
    with pytest.raises(UserError) as refusal:
        collect([f"a={tmp_path}/seed0"], tmp_path / "scores.csv")
    assert f"scores.jsonl, line 2: {message}" in str(refusal.value)
    assert not (tmp_path / "scores.csv").exists()


BAD_COURSES = {
    "gold": ({"gold": 1.5}, "gold: expected at most 1, got 1.5"),
    "update": ({"update": -2}, "update: expected at least 0, got -2"),
    "kind": ({"kind": "x"}, "kind: expected 'train', 'validation' or 'collapse', got 'x'"),
    "a number": ({"proxy": "high"}, "proxy: expected a number, got 'high'"),
}


@pytest.mark.parametrize("change, message", BAD_COURSES.values(), ids=BAD_COURSES)
def test_a_row_of_a_course_that_cannot_be_true_is_named(change, message, tmp_path):
    row = {"kind": "train", "rollout": 0, "update": 1, "images": 8, "proxy": 3.5, "gold": 0.5}
    write_jsonl(tmp_path / "metrics.jsonl", [row, row | {"rollout": 1} | change])
    with pytest.raises(UserError) as refusal:
        list(rows.read_course(tmp_path / "metrics.jsonl"))
    assert str(refusal.value).endswith(f"metrics.jsonl, line 2: {message}")


VALIDATION = {"prompt_id": "p", "tag": "t", "sample": 0, "gold": 0.5, "strict": 0.0, "artefact": 0.1, "proxy": -3.0}


@pytest.mark.parametrize(
    "change, message",
    [({"sample": 1, "strict": 2}, "strict: expected at most 1"), ({}, "prompt 'p', sample 0 is")],
)
def test_a_row_of_a_validation_that_cannot_be_true_is_named(change, message, tmp_path):
    write_jsonl(tmp_path / "000000.jsonl", [VALIDATION, VALIDATION | change])
    with pytest.raises(UserError, match=f"000000.jsonl, line 2: {message}"):
        list(rows.read_validation(tmp_path / "000000.jsonl"))


LINES = [",".join(COLUMNS)]
LINES += [f"a,{seed},geneval,1,think,tuned,{prompt},x,0,official,{seed}" for seed in (0, 1) for prompt in ("p", "q")]
GOOD = "\n".join(LINES) + "\n"
BAD_TABLES = {  # change of scores.csv -> what is said
    "cut in its last number": (lambda t: t.removesuffix("\n"), "scores.csv, line 5: is cut off"),
    "too large": (
        lambda t: t.replace("official,1", "official,70", 1),
        "line 4: official: expected a number from 0",
    ),
    "NaN": (lambda t: t.replace("official,1", "official,nan", 1), "line 4: value: expected a number, got 'nan'"),
    "infinite": (lambda t: t.replace("official,1", "official,inf", 1), "line 4: official: expected a number"),
    "twice": (lambda t: t + LINES[2] + "\n", "line 6: expected every metric of an image once"),
    "twice, another value": (lambda t: t + LINES[2][:-1] + "1\n", "line 6: expected every metric of an image once"),
    "short": (lambda t: t + "a,2,geneval\n", "line 6: expected 11 cells"),
    "long": (lambda t: t + LINES[2] + ",1\n", "line 6: expected 11 cells, found 12"),
    "all long": (lambda t: t.replace("\na,", "\na,a,"), "line 2: expected 11 cells, found 12"),
    "blank": (lambda t: t.replace("\n", "\n\n", 1), "line 2: expected 11 cells, found 0"),
    "a column twice": (lambda t: t.replace("run,seed", "seed,seed"), "line 1: column 'seed' is given twice"),
    "another column": (lambda t: t.replace("run,seed", "name,seed"), "expected the columns run, seed"),
    "text for a number": (
        lambda t: t.replace("official,1", "official,x", 1),
        "line 4: value: expected a number",
    ),
    "half a seed": (
        lambda t: t.replace("a,1,", "a,0.5,"),
        "line 4: seed: expected a whole number",
    ),
    "a seed below 0": (lambda t: t.replace("a,1,", "a,-1,"), "line 4: seed: expected a whole number of at least 0"),
    "another mode": (lambda t: t.replace("think", "dream", 1), "line 2: mode: expected think or direct, got 'dream'"),
    "no run": (lambda t: t.replace("\na,", "\n,", 1), "line 2: run: expected a run's name, got ''"),
    "empty": (lambda t: "", "expected the columns run, seed"),
}


@pytest.mark.parametrize("change, message", BAD_TABLES.values(), ids=BAD_TABLES)
def test_scores_that_cannot_be_true_are_named(change, message, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(GOOD)
    assert Scores(path).cells(Row("a", "yes", "tuned"), "geneval", "official").values.tolist() == [[0, 0], [1, 1]]
    path.write_text(change(GOOD))
    with pytest.raises(UserError) as refusal:
        Scores(path)
    assert str(refusal.value).startswith(f"{path}") and message in str(refusal.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_scores_that_a_spreadsheet_has_saved_are_read(encoding, tmp_path):
    (tmp_path / "scores.csv").write_bytes(GOOD.replace("\n", "\r\n").encode(encoding))
    assert Scores(tmp_path / "scores.csv").cells(Row("a", "yes", "tuned"), "geneval", "official").seeds == (0, 1)


def test_a_prompt_that_a_seed_lacks_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(LINES[:-1]) + "\n")
    message = "a, seed 1: geneval, think, tuned: official: prompt 'q' is missing, which another seed has"
    with pytest.raises(UserError, match=message):
        Scores(path).cells(Row("a", "yes", "tuned"), "geneval", "official")


PAPER = "run,thinking,method,ta,collapsed\nbase,no,Bagel,0.6810,no\nsft,yes,SFT,,yes\n"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("0.6810", "68.1", "line 2: ta: expected a number from 0 to 1, got '68.1'"),
        ("0.6810", "high", "line 2: ta: expected a number from 0 to 1, got 'high'"),
        ("0.6810", "nan", "line 2: ta: expected a number from 0 to 1, got 'nan'"),
        (",yes\n", ",maybe\n", "line 3: collapsed: expected yes or no, got 'maybe'"),
        ("base,no", "base,maybe", "line 2: thinking: expected yes or no, got 'maybe'"),
        ("sft,yes", "base,no", "expected one row for each run and thinking"),
        ("run,", "name,", "expected one row for each run and thinking"),
        ("sft,yes,SFT,,yes", "sft,yes", "line 3: expected 5 cells"),
        ("yes\n", "yes", "line 3: is cut off"),
    ],
)
def test_numbers_of_the_paper_that_cannot_be_true_are_named(old, new, message, tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text(PAPER)
    assert Paper(path).value("base", "no", "ta") == "0.6810" and Paper(path).value("sft", "yes", "ta") == ""
    path.write_text(PAPER.replace(old, new))
    with pytest.raises(UserError) as refusal:
        Paper(path)
    assert str(refusal.value).startswith(f"{path}") and message in str(refusal.value)


def test_reading_does_not_depend_on_further_keys(tmp_path):
    write_jsonl(tmp_path / "scores.jsonl", [ROW | {"image": "a.png", "points": [["q", 1]]}])
    assert [json.loads(json.dumps(row)) for _, row in rows.read_scores(tmp_path / "scores.jsonl")]
