"""What chooses something never sees an evaluation prompt: decoding, the data of the learned reward, training."""

from __future__ import annotations

import pytest

from tests._support import several, tiny
from unigrpo.core.settings import replace
from unigrpo.sampling import decoding
from unigrpo.sampling.engine import Decoding
from unigrpo.training import reinforcement_run, reward_samples, supervised_run
from unigrpo.world import prompts


@pytest.fixture
def asked(monkeypatch):
    """The sets of prompts that are asked for, of which few prompts come."""
    seen = []
    monkeypatch.setattr(prompts, "prompt_set", lambda name: seen.append(name) or several.few_prompts(name))
    return seen


@pytest.fixture
def start(tmp_path):
    tiny.write_start(tmp_path)
    return tmp_path


def few_steps(cfg):
    return replace(cfg, sampling=replace(cfg.sampling, steps=2, guidance_grid=(1.0, 2.0), temperature_grid=(1.0,)))


def choose_decoding(start):
    decoding.tune(tiny.model(), few_steps(tiny.run_config("sft")))


def sample_for_the_reward(start):
    cfg = few_steps(tiny.run_config("sft"))
    reward_samples.sample_for_reward(tiny.model(), replace(cfg, reward=replace(cfg.reward, samples=2)), start / "data")


def reinforce(start):
    cfg = tiny.run_config("rl", rl=tiny.reinforcement(rollouts=1, validate_every=1))
    reinforcement_run.train(cfg, start / "out", start / "init", several.brightness, Decoding(True, 2.0, 0.7), {})


def fine_tune(start):
    cfg = tiny.run_config("sft", supervised=replace(tiny.run_config("sft").supervised, steps=1, validate_every=1))
    supervised_run.train(cfg, start / "out", start / "init")


@pytest.mark.parametrize("choose", [choose_decoding, sample_for_the_reward, reinforce, fine_tune])
def test_choices_rest_on_training_and_validation_prompts(choose, start, asked):
    choose(start)
    assert "val" in asked and {*asked} <= {"train", "val"}
