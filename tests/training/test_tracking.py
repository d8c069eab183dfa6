"""Trackers: what TensorBoard holds after a run is what metrics_log.jsonl holds; others are known by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate.tracking import get_available_trackers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests._support import command, tiny
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_jsonl, write_json
from unigrpo.core.settings import replace
from unigrpo.training import launch, metrics_log, tracking


def events(out: Path) -> dict[str, dict[int, float]]:
    """Scalar -> step -> value, of the event files in a run's folder."""
    read = EventAccumulator(str(out / tracking.FOLDER / tracking.PROJECT), {"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def logged(out: Path, key: str) -> dict[str, dict[int, float]]:
    """The same, of metrics_log.jsonl."""
    found: dict[str, dict[int, float]] = {}
    for _, row in read_jsonl(out / "metrics.jsonl"):
        part = {True: "think/", False: "direct/", None: ""}[row.pop("thinking", None)]
        kind, step = row.pop("kind"), row.pop(key) + 1
        for name, value in row.items():
            found.setdefault(f"{kind}/{part}{name}", {})[step] = value
    return found


@pytest.mark.parametrize("stage, key", [("rl", "rollout"), ("sft", "step")])
def test_tensorboard_holds_what_the_record_holds(tmp_path, monkeypatch, stage, key):
    tiny.write_start(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = "--reward reward --decoding decoding.json" if stage == "rl" else ""
    write_json(tmp_path / f"{stage}.json", read_json(tmp_path / f"{stage}.json") | {"tracker": "tensorboard"})
    command.unigrpo(f"train --config {stage}.json --init init --out out {options}")
    seen, expected = events(tmp_path / "out"), logged(tmp_path / "out", key)
    assert seen.keys() == expected.keys() and len(seen) > 10
    for name, values in expected.items():
        assert seen[name] == pytest.approx(values, rel=1e-6), name
    assert max(seen["validation/gold" if stage == "rl" else "validation/think/gold"]) == (3 if stage == "rl" else 6)
    settings = next((tmp_path / "out" / tracking.FOLDER).rglob("hparams.yml")).read_text()
    rate = "rl.lr_text: 0.001" if stage == "rl" else "supervised.lr: 0.0015"
    assert rate in settings and "run: tiny" in settings


def test_what_was_logged_after_the_state_that_a_run_resumes_from_is_hidden(tmp_path):
    cfg, path = tiny.run_config(), tmp_path / "metrics.jsonl"

    def sit(first, values):
        accelerator = launch.accelerate_for(cfg, **tracking.options("tensorboard", tmp_path))
        follow = tracking.follower(accelerator, cfg, "rollout", first)
        log = metrics_log.MetricsLog(path, "rollout", first, follow)
        for index, value in values.items():
            log.write(kind="train", rollout=index, proxy=value)
        accelerator.end_training()
        return events(tmp_path)["train/proxy"]

    assert sit(0, {0: 1.0, 1: 2.0, 2: 3.0}) == {1: 1, 2: 2, 3: 3}
    assert sit(2, {2: 30.0, 3: 40.0}) == {1: 1, 2: 2, 3: 30, 4: 40}
    assert [row["proxy"] for _, row in read_jsonl(path)] == [1, 2, 30, 40]


def test_all_sittings_are_one_run_of_weights_and_biases():
    """Also when it goes on for more rollouts; another learning rate is another run."""

    class Accelerator:
        def init_trackers(self, project, config, init_kwargs):
            self.given = init_kwargs["wandb"]

    def given(first, **changes):
        accelerator = Accelerator()
        tracking.follower(accelerator, tiny.run_config(rl=replace(tiny.RL, **changes)), "rollout", first)
        return accelerator.given

    start = given(0)
    assert start["resume"] == "allow" and start["id"].startswith("smoke-tiny-3-")
    assert given(2) == given(3, rollouts=9, micro_batch=7) == start != given(0, lr_text=2e-3)


def test_without_a_tracker_nothing_is_asked_of_accelerate(tmp_path):
    assert tracking.options(None, tmp_path) == {} and not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_says_so(tmp_path):
    assert {"tensorboard", "wandb", "mlflow"} <= set(tracking.NAMES) and "all" not in tracking.NAMES
    installed = {str(kind) for kind in get_available_trackers()}
    assert "tensorboard" in installed
    with pytest.raises(UserError, match="tracker: expected one of .*, got boards"):
        tracking.options("boards", tmp_path)
    missing = next(name for name in tracking.NAMES if name not in installed)
    with pytest.raises(UserError) as refusal:
        tracking.options(missing, tmp_path)
    expected = f"tracker: {missing}: expected an installed package, try: pip install {missing.replace('_', '-')}"
    assert str(refusal.value) == expected


def test_settings_are_flat_and_of_kinds_that_trackers_take():
    flat = tracking._plain({"a": 1, "b": {"c": [1, 2], "d": None, "e": {"f": "x", "g": True}}})
    assert flat == {"a": 1, "b.c": json.dumps([1, 2]), "b.d": "null", "b.e.f": "x", "b.e.g": True}
