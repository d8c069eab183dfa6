"""Records of runs and steps are believed only where they can be true; damaged ones are named, or count as none."""

import json

import pytest

from unigrpo.core.errors import UserError
from unigrpo.report.data import logs
from unigrpo.report.data.results import Folder
from unigrpo.study import provenance, standing

RECORD = {"run": "a", "seed": 0, "ema": True, "collapsed": False, "images": 8, "wall_seconds": 1.5, "not_trained": None}
RECORD |= {
    "pieces": [{"from": 0, "code": {"m": "h"}}],
    "config": {"label": "A", "stage": "rl", "rl": {"method": "grpo"}},
}
BAD = {
    "a list": ([1], "run.json, line 1: expected a JSON object, found list"),
    "seed": (RECORD | {"seed": "0"}, "run.json: seed: expected a whole number, got '0'"),
    "seed true": (RECORD | {"seed": True}, "run.json: seed: expected a whole number, got True"),
    "config": (RECORD | {"config": "a"}, "run.json: config: expected a mapping, got 'a'"),
    "label": (RECORD | {"config": {"label": 3}}, "run.json: config.label: expected text, got 3"),
    "images": (RECORD | {"images": -8}, "run.json: images: expected at least 0, got -8"),
    "collapsed": (RECORD | {"collapsed": "no"}, "run.json: collapsed: expected true or false, got 'no'"),
    "pieces": (RECORD | {"pieces": [{"code": ["m"]}]}, "run.json: pieces[0].code: expected a mapping"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_a_record_of_a_run_that_cannot_be_true_is_named(content, message, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RECORD))
    assert provenance.read_record(tmp_path) == RECORD
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as refusal:
        provenance.read_record(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path}/{message}")


def test_a_configuration_without_what_a_report_needs_is_named(tmp_path):
    with pytest.raises(UserError, match="^a: its configuration: cannot be read .*'regulariser'"):
        logs.anchor({"run": "a", "stage": "rl", "rl": {"method": "grpo"}})


def test_only_folders_called_by_a_number_are_seeds(tmp_path):
    for name in ("seed0", "seed1.bak", "seed2x", "seed10"):
        (tmp_path / "runs/a" / name).mkdir(parents=True)
    (tmp_path / "runs/a/seed3").write_text("")
    assert sorted(Folder(tmp_path).seed_folders("a")) == [0, 10]


MADE = {"settings": {}, "inputs": {"a": "digest"}, "outputs": {"b": None}, "code": {"m": "h"}, "versions": {}}


@pytest.mark.parametrize(
    "odd", [{"settings": [1]}, {"inputs": "a"}, {"outputs": {"b": 3}}, {"code": [1]}, {"pieces": 3}]
)
def test_an_odd_record_of_a_step_counts_as_none(odd, tmp_path):
    """The step is made again."""
    path, output = tmp_path / "train.a.0.jsonl", tmp_path / "out"
    output.write_text("")
    path.write_text(json.dumps({"step": "train", "seconds": 1.5, "made": MADE}) + "\n")
    assert standing.read(path) == MADE
    path.write_text(json.dumps({"step": "train", "seconds": 1.5, "made": MADE | odd}) + "\n")
    assert standing.read(path) is None
    assert standing.reasons(path, str(output), {}) == ["no record of its making"]
