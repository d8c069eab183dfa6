"""What learns in reinforcement: the policy, the copies of it that a method compares it with, and its optimiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.episodes.rollout import Rollout
from unigrpo.episodes.slices import Networks
from unigrpo.models import lora, sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.study.facts import METHODS
from unigrpo.training.examples import SupervisedData


@dataclass
class Learner:
    """A run in reinforcement. ``experts`` are the trained parameters by part, ``counts`` what was done so far."""

    cfg: RunConfig
    nets: Networks
    optimizer: torch.optim.Optimizer
    experts: dict[str, list[nn.Parameter]]
    accelerator: Accelerator
    pool: list[Prompt] | None = None  # prompts to draw from; None: the world's
    counts: dict[str, float] = field(default_factory=Counter)

    @cached_property
    def method(self) -> ModuleType:
        """The update rule."""
        return METHODS.load(self.cfg.rl.method)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Within it the policy that makes the rollouts is put together, and computes in the run's precision."""
        policy = self.nets.model if self.nets.old is None else self.nets.old
        with sharding.gathered(policy), self.accelerator.autocast():
            yield


@dataclass(frozen=True)
class Outcome:
    """What became of a rollout: its episodes, rewards (B,) of all processes, their spread, metrics of its updates."""

    rollout: Rollout
    rewards: Tensor
    spread: dict[str, Tensor]
    metrics: dict[str, float]


def networks(cfg: RunConfig, model, reward, start: Callable[[], UnifiedModel] | None = None) -> Networks:
    """The policy and what its method needs beside it. ``start`` loads the frozen copy where the policy cannot be copied
    (split among processes). Raises UserError for a reward without the gradient it needs."""
    needs = cfg.rl.facts.needs
    if "reward_gradient" in needs and not getattr(reward, "differentiable", False):
        name = getattr(reward, "name", "of this run")
        raise UserError(
            f"{cfg.run}: rl.method: {cfg.rl.method} needs a differentiable reward, the reward {name} is not"
        )
    if cfg.backbone_facts.adapters_only and model.origin.lora_rank != cfg.rl.lora_rank:
        expected = f"{model.origin.lora_rank}, that of the parent's adapters"
        raise UserError(f"{cfg.run}: rl.lora_rank: expected {expected}, got {cfg.rl.lora_rank}")

    rank, parts = added_rank(cfg), cfg.rl.train
    reference = lora.frozen_copy(model, model.parameters() if rank else ()) if start is None else start()
    if rank:
        lora.inject(model, rank, parts, cfg.seed)
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    below = [p for p in model.parameters() if not p.requires_grad] if rank else ()
    old = None
    if "old_weights" in needs:
        old = lora.frozen_copy(model, below) if start is None else start().requires_grad_(False)
    data = SupervisedData(cfg.supervised) if "sft_data" in needs else None
    return Networks(model, reference.requires_grad_(False), reward, old, data)


def added_rank(cfg: RunConfig) -> int:
    """Rank of the adapters that a run gives its network; a model of adapters has its own."""
    return 0 if cfg.backbone_facts.adapters_only else cfg.rl.lora_rank


def state_of(nets: Networks, cfg: RunConfig) -> dict[str, nn.Module]:
    """What a checkpoint of the run holds: its networks, or their adapters alone, as the rest is the parent's."""
    changing = {"model": nets.model, "old": nets.old}
    if added_rank(cfg):
        return {name: lora.trained(net) for name, net in changing.items() if net is not None}
    return {name: net for name, net in (changing | {"reference": nets.reference}).items() if net is not None}


def optimizer_for(model: UnifiedModel, rl: RLConfig) -> tuple[torch.optim.Optimizer, dict[str, list[nn.Parameter]]]:
    """AdamW with one group per trained expert and its own learning rate; frozen experts need no gradient."""
    experts = model.expert_parameters()
    trained = {part: experts[part] for part in ("text", "image") if part in rl.train}
    for part, parameters in experts.items():
        for p in parameters:
            p.requires_grad_(part in trained)
    rates = {"text": rl.lr_text, "image": rl.lr_image}
    groups = [{"params": parameters, "lr": rates[part]} for part, parameters in trained.items()]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True), trained
