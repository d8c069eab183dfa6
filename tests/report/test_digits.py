"""Columns show as many digits as their intervals have; a part of a benchmark is marked where its numbers stand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evals import cross
from tests._support.study import sources_of, write_study
from unigrpo.report.claims import outcomes
from unigrpo.report.data import lines, results, stats
from unigrpo.report.data.results import Folder, Row
from unigrpo.report.pages import compare, page

ENDLESS = (-np.inf, np.inf)
SCALES = {"jpeg": (-3.2, 0.5), "pickscore": (20.3, 1.5), "image_reward": (0.4, 1e-4), "aesthetic": (5000.0, 900.0)}


@pytest.mark.parametrize(
    ("width", "expected"),
    [(0.41, ".2f"), (0.1, ".2f"), (0.052, ".3f"), (0.0041, ".4f"), (4.1, ".1f"), (12, ".0f"), (3e-9, ".6f")],
)  # fmt: skip
def test_a_width_shows_two_significant_digits(width, expected):
    assert stats.form(ENDLESS, [width]) == stats.form((-2, 1), [width / 50, width, 9 * width]) == expected
    assert stats.form((0, 1), [width]) == stats.form((0.2, 0.5), []) == ".3f"
    assert stats.form(ENDLESS, []) == stats.form(ENDLESS, [0.0]) == ".2f"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A study whose benchmarks are judged by rewards of other scales, too."""
    root, draw = tmp_path / "cpu", np.random.default_rng(0)
    write_study(root, {"base": (0.5, 1), "unigrpo": (0.6, 2)}, prompts=8)
    frame = pd.read_csv(root / "scores.csv")
    ta = frame[(frame["benchmark"] == "ta") & (frame["metric"] == "ta")]
    more = [
        ta.assign(metric=name, value=draw.normal(level, spread, len(ta)).clip(max=0 if name == "jpeg" else None))
        for name, (level, spread) in SCALES.items()
    ]
    pd.concat([frame, *more]).to_csv(root / "scores.csv", index=False)
    known = {name: replace_reports(each, name) for name, each in Folder(root).benchmarks.items()}
    monkeypatch.setattr(Folder, "benchmarks", property(lambda self: {name: known[name] for name in self.chosen}))
    return sources_of(root, root / "scores.csv", root / "paper.csv")


def replace_reports(benchmark, name):
    return benchmark.model_copy(update={"also_report": dict.fromkeys(SCALES, {}) if name == "ta" else {}})


def decimals(cell):
    """Of every number in a cell."""
    return {len(number.partition(".")[2]) for number in re.findall(r"[-+]?\d[\d,]*\.?\d*", cell)}


def test_columns_format_their_own_digits_everywhere(sources, tmp_path):
    forms = {metric: sources.form("ta", metric) for metric in SCALES}
    wanted = {"jpeg": 2, "pickscore": 1, "image_reward": 6, "aesthetic": 0}
    assert {metric: int(form[1]) for metric, form in forms.items()} == wanted
    assert {sources.form("geneval", m) for m in ("official", "strict", "gold", "proxy")} == {".3f"}
    page.write("t", {"kind": "main", "rows": [["base", "yes"], ["unigrpo", "yes"]]}, sources, tmp_path)
    head, _, *rows = [line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in head.split("|")]
    for row in rows:
        cells = dict(zip(heads, row.split("|"), strict=True))
        assert {metric: decimals(cells[f"TA, {metric}"]) for metric in wanted} == {m: {n} for m, n in wanted.items()}
        assert decimals(cells["TA"]) == decimals(cells["GenEval"]) == {3}
    a, b = Row("unigrpo", "yes", "tuned"), Row("base", "yes", "tuned")
    table = compare.markdown(a, b, compare.compare(a, b, sources), sources).splitlines()
    for metric, digits in wanted.items():
        (line,) = [line for line in table if line.startswith(f"| TA, {metric} ")]
        assert [decimals(cell) for cell in line.split("|")[2:6]] == [{digits}] * 4
    assert outcomes.Finding("x", sources.gap(a, b, "ta", "aesthetic"), form=forms["aesthetic"]).shown.count(".") == 0


def test_the_cross_table_formats_its_own_digits():
    e = lines.columns("mean", stats.Estimate(-3.21987, -3.4, -3.0, 1, 9)) | lines.columns("gap", None)
    rows = [{"run": "a", "trained_on": None, "reward": r, "seeds": 1, "images": 9} | e for r in ("jpeg", "ocr")]
    shown = cross.table(rows, "mean").iloc[0]
    assert shown["jpeg"] == "-3.22 [-3.40, -3.00]" and shown["ocr"] == "-3.220 [-3.400, -3.000]"


def test_a_part_of_a_benchmark_is_marked_in_every_form(sources, tmp_path):
    frame = pd.read_csv(sources.folder.root / "scores.csv", dtype=str)
    part = (frame["run"] == "base") & (frame["benchmark"] == "ta")
    frame.loc[part, "version"] += results.PARTIAL + "4 of 800 prompts)"
    frame.to_csv(tmp_path / "scores.csv", index=False)
    marked = replace(sources, scores=results.Scores(tmp_path / "scores.csv"))
    spec = {"kind": "main", "rows": [["base", "yes"], ["unigrpo", "yes"]]}
    page.write("t", spec, marked, tmp_path)
    for suffix in ("md", "html", "tex"):
        text = (tmp_path / f"t.{suffix}").read_text()
        assert text.count("(part)") == 1 and ("4 of 800 prompts" in text or suffix == "tex")
    assert pd.read_csv(tmp_path / "t.csv")["label"].tolist() == ["Base", "UniGRPO"]
    page.write("t", spec | {"benchmarks": ["geneval"]}, marked, tmp_path)
    assert "(part)" not in (tmp_path / "t.md").read_text()
