"""The table of strengths: of the runs that are within one standard error of the best, the one that moved least."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tests._support.study import PAPER_FILE, write_validations
from unigrpo.report.data.results import Folder, Paper, Row, Sources
from unigrpo.report.pages import drawing
from unigrpo.report.tables import strength

UPDATES = (0, 20, 40, 60)


def write(root, run, end, drift, weight):
    """A course whose gold ends at ``end`` (P,): the last third of 60 updates are the validations at 40 and 60."""
    gold = np.stack([np.full(4, 0.1), np.full(4, 0.9), end - 0.1, end + 0.1])[None, :, :, None]
    values = {"gold": gold, "proxy": np.zeros_like(gold), "artefact": np.zeros_like(gold)}
    rows = [
        {"kind": "validation", "update": u, "drift": d}
        for u, d in zip(UPDATES, (0, 9, drift / 2, 3 * drift / 2), strict=True)
    ]
    write_validations(root, run, values, rl={"velocity_mse_weight": weight}, logs=[rows])


@pytest.fixture
def sources(tmp_path):
    best = np.array([0.8, 0.6, 0.7, 0.5])
    write(tmp_path, "a_0", best, 0.3, 0.0)
    write(tmp_path, "a_1", best + np.array([0.04, -0.05, 0.03, -0.03]), 0.1, 0.1)  # its errors are larger than its loss
    write(tmp_path, "a_2", best - 0.1, 0.01, 0.5)  # moves least, and is clearly worse
    write(tmp_path, "b_0", best - 0.3, 0.2, 0.5)  # another rule, which is not measured by the first
    catalogue = {run: {"like": ["base_of", rule, run], "label": run} for run, rule in
                 {"a_0": "a", "a_1": "a", "a_2": "a", "b_0": "b"}.items()}  # fmt: skip
    catalogue |= {rule: {"like": [rule], "label": rule.upper()} for rule in "ab"}
    study = SimpleNamespace(catalogue={"runs": catalogue, "benchmarks": {}}, runs=lambda: list(catalogue))
    return Sources(None, Paper(PAPER_FILE), dataclasses.replace(Folder(tmp_path), study=study))


def test_the_least_moved_of_the_best_is_chosen(sources):
    rows = [Row(run) for run in ("a_0", "a_1", "a_2", "b_0", "gone")]
    sources.folder.study.catalogue["runs"]["gone"] = {"like": ["a", "gone"], "label": "gone"}
    assert strength.chosen(rows, sources.folder) == {"a": "a_1", "b": "b_0"}
    lines = {row.run: strength.line(row, rows, sources) for row in rows if row.run != "gone"}
    assert [line["chosen"] for line in lines.values()] == ["no", "yes", "no", "yes"]
    assert lines["a_0"]["gold"] == pytest.approx((np.mean([0.8, 0.6, 0.7]) + 0.5) / 2)  # categories weigh equally
    assert lines["a_0"]["drift"] == pytest.approx(0.3) and lines["a_0"]["rule"] == "A" and lines["a_0"]["weight"] == 0
    assert strength.text(lines["a_1"], sources)["chosen"] == "chosen"


def test_a_run_alone_is_its_rule(sources):
    assert strength.rule_of("a", sources.folder) == "a" and strength.rule_of("a_0", sources.folder) == "a"


def test_a_frontier_joins_the_weights_of_a_sweep_and_no_others(sources):
    runs = {"a_0": "A, all steps, weight 0", "a_1": "A, all steps, weight 0.1", "a_2": "A, 24 steps", "b_0": "B"}
    for run, label in runs.items():
        sources.folder.study.catalogue["runs"][run]["label"] = label
    figure, data = drawing.draw({"kind": "frontier", "runs": [*runs]}, sources)
    assert data["series"].tolist() == ["A, all steps", "A, all steps", "A, 24 steps", "B"]
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert [lines[name] for name in ("A, all steps", "A, 24 steps", "B")] == [
        pytest.approx(drift) for drift in ([0.3, 0.1], [0.01], [0.2])
    ]
