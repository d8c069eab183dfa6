"""A tiny untrained model of the same class, for tests of everything that does not need learning."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from unigrpo.core.files import write_json
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.models.base import UnifiedModel
from unigrpo.study.config import (
    ModelConfig,
    RewardConfig,
    RLConfig,
    RunConfig,
    SamplingConfig,
    SupervisedConfig,
    rl_config,
)

MODEL = ModelConfig(
    hidden_size=32, intermediate_size=32, layers=2, heads=2, kv_heads=1, latent_channels=4, latent_patch=2
)
REWARD = RewardConfig(width=16, layers=1, heads=2, fusion_layers=1, steps=2, batch_size=8, samples=8)
DEFAULTS = {"method": "grpo", "regulariser": "velocity_mse", "reward": "learned"}
RL = rl_config(
    **DEFAULTS,
    rollouts=3,
    prompts_per_rollout=4,
    group_size=3,
    micro_batch=5,
    steps=6,
    window_size=2,
    window_range=(0, 4),
    validate_every=2,
    checkpoint_every=1,
    lr_text=1e-3,
    lr_image=1e-3,
)


def reinforcement(**changes) -> RLConfig:
    """The settings of RL with some changed, of whichever method they name."""
    return rl_config(**RL.model_dump(exclude_unset=True) | changes)


def run_config(stage: str = "rl", **changes) -> RunConfig:
    """A run of a few seconds."""
    settings = {
        "run": "tiny",
        "label": "Tiny",
        "stage": stage,
        "scale": "smoke",
        "seed": 3,
        "init": None if stage == "base" else "sft",
        "evaluate": ("yes",),
        "backbone": "world",
        "device": "cpu",
        "model": MODEL,
        "supervised": SupervisedConfig(steps=6, batch_size=8, warmup=2, validate_every=6, checkpoint_every=2),
        "sampling": SamplingConfig(steps=4, images_per_prompt=1, max_trace_tokens=8, memory=64),
        "rl": RL if stage == "rl" else None,
        "reward": REWARD,
    }
    return from_dict(RunConfig, settings | changes)


def write_start(folder: Path) -> None:
    """What a run starts from: ``init/``, ``reward/`` (random weights), decoding.json, and a configuration a stage."""
    from rewards._support import learned_model

    model().save(folder / "init", {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learned_model.save(learned_model.LearnedReward(REWARD, MODEL.image_size), folder / "reward")
    write_json(folder / "decoding.json", {"think": {"guidance": 2.0, "temperature": 0.7}, "direct": {"guidance": 1.5}})
    for stage in ("rl", "sft", "base"):
        write_json(folder / f"{stage}.json", to_dict(run_config(stage)))


def learner(nets, rl, optimizer=None, experts=None, accelerator=None):
    """What the updates of ``training.loop`` are made on."""
    from unigrpo.training.learner import Learner

    return Learner(run_config("rl", rl=rl), nets, optimizer, experts, accelerator)


def both(advantages: torch.Tensor) -> dict[str, torch.Tensor]:
    """The advantages that both parts share."""
    return {"text": advantages, "image": advantages}


@cache
def model() -> UnifiedModel:
    """Untrained, but with velocities that depend on the text (llm2vae is not zero). Do not change it in place."""
    from unigrpo.models.checkpoint import new_model

    torch.set_num_threads(1)
    return new_model(run_config("base")).eval()
