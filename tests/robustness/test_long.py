"""The sweeps over bad input and kills, for real. Of the mark `long`: `make test-slow` makes them."""

import pytest

from benchmarks import kill_sweep, mutate_sweep

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_are_refused_in_one_line_or_work(seed):
    result = mutate_sweep.sweep(200, seed)
    assert result["findings"] == []


@pytest.mark.timeout(7200)
def test_a_reproduction_that_is_killed_ends_as_one_that_was_left_alone(tmp_path):
    result = kill_sweep.sweep(tmp_path, kill_sweep.plan(), tmp_path / "kill_sweep.json")
    assert kill_sweep.wrong(result) == [] and len(result["kills"]) >= 60
    assert min(result["hits"].values()) >= 3 and len(result["hits"]) == 6
