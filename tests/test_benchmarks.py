"""The benchmark runs, its table is complete and its shares add up. No time is asserted."""

import json
import sys

import pytest

from benchmarks import phases

STEP = {
    "text rollout": {"tokens"},
    "image rollout": {"images", "model evaluations"},
    "reward": {"images"},
    "replay": {"episodes"},
    "update": {"episodes", "optimiser steps"},
    "validation": {"images"},
}
OTHERS = {"supervised step": {"examples"}, "inspector": {"images"}}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "phases.json"
    arguments = ["phases.py", "--scale", "smoke", "--repeats", "1", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        phases.main()
    return json.loads(out.read_text())


def test_every_phase_is_measured(result):
    for group, expected in (("phases", STEP), ("others", OTHERS)):
        assert {name: set(row["per_second"]) for name, row in result[group].items()} == expected
        for row in result[group].values():
            assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
    assert result["peak_memory_mb"] > 0
    assert {"source_hash", "commit", "versions", "device", "threads"} <= set(result["provenance"])


def test_shares_sum_to_one(result):
    assert sum(row["share"] for row in result["phases"].values()) == pytest.approx(1)


def test_speeds_count_what_was_done(result):
    """Smoke: 16 episodes of 8 tokens and 8 denoising steps; two optimiser steps that halve the episodes."""
    assert (result["trace_tokens"], result["sizes"]["episodes"], result["sizes"]["denoising_steps"]) == (8, 16, 8)
    done = {
        name: {what: row["seconds"] * speed for what, speed in row["per_second"].items()}
        for name, row in result["phases"].items()
    }
    assert done["text rollout"] == pytest.approx({"tokens": 16 * 8})
    assert done["image rollout"] == pytest.approx({"images": 16, "model evaluations": 16 * 8})
    assert done["update"] == pytest.approx({"episodes": 16, "optimiser steps": 2})
    assert done["validation"] == pytest.approx({"images": 76})


def test_validation_counts_in_part():
    cost = {"update": {"seconds": 3.0}, "validation": {"seconds": 10.0}}
    assert phases.shares(cost, 10) == pytest.approx({"update": 0.75, "validation": 0.25})


def test_medians_and_extremes():
    laps = [phases.Lap(seconds, {"images": 6}) for seconds in (3.0, 1.0, 2.0)]
    expected = {"seconds": 2.0, "fastest": 1.0, "slowest": 3.0, "per_second": {"images": 3.0}}
    assert phases.summary(laps) == expected


def test_the_warm_up_is_not_measured():
    calls = []

    def work(index):
        calls.append(index)
        return {"work": phases.Lap(100.0 if index == 0 else 1.0, {"rounds": 1})}

    assert phases.repeat(work, 2)["work"]["slowest"] == 1.0
    assert calls == [0, 1, 2]


def test_the_readme_shows_the_recorded_run(root):
    recorded = json.loads((root / "benchmarks/results/phases.json").read_text())
    assert phases.table(recorded) in (root / "benchmarks/README.md").read_text()
