"""The table of what the steps of a study have used."""

import json

import pytest

from tests._support.command import unigrpo
from unigrpo.core.errors import UserError


def test_processes_of_a_step_count_together(tmp_path, capsys):
    """By hand: the time of the longest, the processor time of both, the memory of the largest."""
    used = [
        {"step": "train", "seconds": 10.0, "cpu_seconds": 8.5, "max_rss_mb": 300.0},
        {"step": "train", "seconds": 11.0, "cpu_seconds": 9.25, "max_rss_mb": 250.0},
    ]
    for name, rows in {"train.unigrpo.0": used, "tune": used[:1]}.items():
        (tmp_path / "steps").mkdir(exist_ok=True)
        (tmp_path / f"steps/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unigrpo(f"steps {tmp_path}")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'steps.csv'}\n"
    assert (tmp_path / "steps.csv").read_text().splitlines() == [
        "step,seconds,cpu_seconds,max_rss_mb",
        "train.unigrpo.0,11.0,17.75,300.0",
        "tune,10.0,8.5,300.0",
    ]


def test_nothing_recorded_is_refused(tmp_path):
    with pytest.raises(UserError, match="steps: expected a file of each step that has run"):
        unigrpo(f"steps {tmp_path}")
