"""The door for a method: the file that docs/extending.md shows is found by its name and trains; half of it is not."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import pytest

import rewards
from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.sampling.engine import Decoding
from unigrpo.study import config, resolve
from unigrpo.study.facts import METHODS
from unigrpo.training import reinforcement


@pytest.fixture
def source(root):
    """The code of the shown file."""
    page = (root / "docs/extending.md").read_text()
    return re.search(r"methods/mine\.py`.*?```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture
def settings(monkeypatch):
    """Settings of a run that uses it."""
    monkeypatch.setattr(config, "METHODS", [*METHODS.names(), "mine"])
    return replace(tiny.RL, method="mine", train=("image",), same_noise=False, thinking=False)


def test_the_shown_file_trains(tmp_path, source, settings, monkeypatch):
    (tmp_path / "mine.py").write_text(source)
    spec = importlib.util.spec_from_file_location("unigrpo.methods.mine", tmp_path / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "unigrpo.methods.mine", module)
    checkpoint.save_model(tiny.model(), tmp_path / "init", {})
    cfg = tiny.run_config("rl", rl=settings)

    def brightness(images, prompts):
        return images.mean((1, 2, 3))

    decoding = Decoding(False, 1.0, 1.0)
    reinforcement.train(cfg, tmp_path / "out", tmp_path / "init", brightness, rewards.load("verifier"), decoding, "x")
    assert json.loads((tmp_path / "out/run.json").read_text())["updates"] == settings.rollouts * settings.epochs
    rows = [row for _, row in read_jsonl(tmp_path / "out/metrics.jsonl") if row["kind"] == "train"]
    assert all(row["image_velocity_mse"] >= 0 and row["image_grad_norm"] > 0 for row in rows)


def test_the_shown_file_keeps_the_contract_and_half_of_it_does_not(tmp_path, source, settings, monkeypatch):
    monkeypatch.setattr(resolve, "METHODS", tmp_path)
    (tmp_path / "mine.py").write_text(source)
    resolve._check_inputs(tiny.run_config(rl=settings))
    (tmp_path / "mine.py").write_text(source.replace("def losses(", "def loss("))
    with pytest.raises(UserError, match="mine.py has no losses"):
        resolve._check_inputs(tiny.run_config(rl=settings))
