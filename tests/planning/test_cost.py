"""--dry-run: what a run will cost is what a run then costs, counted at the network itself; and nothing is written."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from tests._support import command, tiny
from unigrpo.core import settings
from unigrpo.core.settings import replace
from unigrpo.judges import reward as rewards
from unigrpo.models import checkpoint
from unigrpo.models.mot import MoT
from unigrpo.models.mot_model import MoTModel
from unigrpo.planning import cost
from unigrpo.sampling.engine import Decoding
from unigrpo.study import config
from unigrpo.study.facts import METHODS
from unigrpo.training import reinforcement_run, supervised_run


@pytest.fixture
def counted(monkeypatch):
    """Counts image evaluations and text tokens asked for, by phase: rollout, validation, or replay and update."""
    counts, phase = Counter(), []

    def during(module, name):
        original = getattr(module, name)

        def call(*arguments, **options):
            phase.append({"roll_out": "rollout", "validate": "validation"}.get(name, "drift"))
            try:
                return original(*arguments, **options)
            finally:
                phase.pop()

        monkeypatch.setattr(module, name, call)

    rollouts = [(METHODS.load(method), "roll_out") for method in METHODS.names()]
    for module, name in (
        *rollouts,
        (reinforcement_run, "validate"),
        (reinforcement_run, "probe"),
        (reinforcement_run, "drift"),
        (supervised_run, "validate"),
    ):
        during(module, name)
    block, think, text_logp = MoT.block, MoTModel.think, MoTModel.text_logp

    def now():
        return phase[-1] if phase else "update" if torch.is_grad_enabled() else "replay"

    def count_block(self, x, *rest):
        counts[f"{now()}_image_evaluations"] += len(x)
        return block(self, x, *rest)

    def count_think(self, ids, tokens, *rest):
        counts[f"{now()}_text_tokens"] += len(ids) * tokens
        return think(self, ids, tokens, *rest)

    def count_logp(self, hidden, trace, temperature):
        counts[f"{now()}_episodes_of_text"] += len(trace.mask)
        return text_logp(self, hidden, trace, temperature)

    monkeypatch.setattr(MoT, "block", count_block)
    monkeypatch.setattr(MoTModel, "think", count_think)
    monkeypatch.setattr(MoTModel, "text_logp", count_logp)
    return counts


def predicted(told, name):
    """The number called ``name``, exact or at most."""
    return told.get(name, told.get(f"{name}_at_most"))


IMAGE = {"train": ("image",), "thinking": False, "same_noise": False}
RUNS = {
    "both": {},
    "repeat": {"epoch_convention": "repeat", "epochs": 3, "validate_every": 3},
    "one update": {"epochs": 1, "epoch_convention": "repeat", "kl_text": 0.1, "regulariser": "none"},
    "guided images": {"train": ("image",), "thinking": False, "guidance": 2.0, "regulariser": "latent_kl"},
    "fpo": {"method": "fpo", "same_noise": False, "matching_samples": 3},
    "nft": IMAGE | {"method": "nft", "matching_samples": 3},
    "refl": IMAGE | {"method": "refl", "guidance": 2.0},
    "unregularised text": {"train": ("text",), "grid": "points", "steps": 7},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_reinforcement_costs_what_was_told(tmp_path, counted, changes):
    cfg = tiny.run_config("rl", rl=replace(tiny.RL, **changes))
    told = cost.reinforcement(cfg, 2.0)
    checkpoint.save_model(tiny.model(), tmp_path / "init", {})
    marks = iter(range(10**6))

    def distinct(images, prompts):  # every episode has an advantage: none is left out
        return torch.tensor([(next(marks) % 7 / 7) ** 2 for _ in prompts]) + 0 * images.sum()

    decoding = Decoding(cfg.rl.thinking, 2.0, 1.0)
    reward = rewards.Reward("distinct", distinct, True)
    reinforcement_run.train(cfg, tmp_path / "out", tmp_path / "init", reward, decoding, "x")
    for phase in ("rollout", "replay", "update", "validation", "drift"):
        assert counted[f"{phase}_image_evaluations"] == predicted(told, f"{phase}_image_evaluations"), phase
    for phase in ("rollout", "validation", "drift"):
        assert counted[f"{phase}_text_tokens"] == predicted(told, f"{phase}_text_tokens"), phase
    if "text" in cfg.rl.train:
        for phase in ("replay", "update"):
            assert (
                counted[f"{phase}_episodes_of_text"] * cfg.sampling.max_trace_tokens
                == told[f"{phase}_text_tokens_at_most"]
            )
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert (record["images"], record["updates"]) == (told["images"], told["updates"])
    assert record["model_evaluations"] == told["rollout_image_evaluations"]


def test_supervision_costs_what_was_told(tmp_path, counted):
    cfg = tiny.run_config("sft", supervised=replace(tiny.run_config("sft").supervised, validate_every=4))
    told = cost.supervised(cfg)
    checkpoint.save_model(tiny.model(), tmp_path / "init", {})
    supervised_run.train(cfg, tmp_path / "out", tmp_path / "init")
    for name in ("update_image_evaluations", "validation_image_evaluations", "validation_text_tokens"):
        assert counted[name] == predicted(told, name), name
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert (record["images"], record["updates"]) == (told["images"], told["updates"])


@pytest.mark.parametrize("stage", ["rl", "sft"])
def test_a_dry_run_prints_and_does_nothing_else(tmp_path, monkeypatch, capsys, stage):
    tiny.write_start(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    options = "--reward reward --decoding decoding.json" if stage == "rl" else ""
    command.unigrpo(f"train --config {stage}.json --init init --out out --dry-run {options}")
    printed = json.loads(capsys.readouterr().out)
    assert settings.from_dict(config.RunConfig, printed["config"]) == tiny.run_config(stage)
    expected = cost.supervised(tiny.run_config("sft")) if stage == "sft" else None
    assert printed["cost"] == (expected or cost.reinforcement(tiny.run_config(), 2.0))
    assert sorted(tmp_path.rglob("*")) == before
