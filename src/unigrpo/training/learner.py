"""What learns in reinforcement: the policy, the copies of it that a method compares it with, and its optimiser."""

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
from unigrpo.objectives.averaging import average_into, ema_share
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.study.facts import METHODS
from unigrpo.training.examples import SupervisedData

AVERAGE = "average"  # the copy that follows the policy where the run keeps an average of it


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
        acts = self.cfg.rl.facts.acts
        policy = self.nets.model if acts is None else self.nets.copies[acts]
        with sharding.gathered(policy), self.accelerator.autocast():
            yield

    def settings(self, index: int) -> RLConfig:
        """The settings of rollout ``index``: the run's, or those that its method has for it."""
        rl = self.cfg.rl
        return self.method.phase(rl, index) if hasattr(self.method, "phase") else rl

    def after_step(self, rl: RLConfig) -> None:
        """What follows an optimiser step: the count, the average of the policy, the next learning rate."""
        self.counts["updates"] += 1
        if AVERAGE in self.nets.copies:
            share = ema_share(self.counts["updates"] - 1, rl.ema_decay)
            average_into(self.nets.copies[AVERAGE], self.nets.model, share)
        warm_up(self.optimizer, rl, self.counts["updates"])

    @property
    def judged(self) -> UnifiedModel:
        """The policy that is validated and saved: its average, where the run says so."""
        return self.nets.copies[AVERAGE] if self.cfg.rl.average == "judged" else self.nets.model

    def beside(self, index: int) -> UnifiedModel | None:
        """The average to validate beside the policy after rollout ``index``: in the last third of a run that asks for
        it, because each costs as much as half a rollout."""
        late = 3 * (index + 1) > 2 * self.cfg.rl.rollouts
        return self.nets.copies[AVERAGE] if late and self.cfg.rl.average == "beside" else None


@dataclass(frozen=True)
class Outcome:
    """What became of a rollout: its episodes, rewards (B,) of all processes by name, their spread, metrics of its
    updates."""

    rollout: Rollout
    rewards: dict[str, Tensor]
    spread: dict[str, float]
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

    rank, parts = added_rank(cfg), cfg.rl.experts
    reference = lora.frozen_copy(model, model.parameters() if rank else ()) if start is None else start()
    if rank:
        lora.inject(model, rank, parts, cfg.seed)
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    below = [p for p in model.parameters() if not p.requires_grad] if rank else ()
    copies = {
        name: lora.frozen_copy(model, below) if start is None else start().requires_grad_(False)
        for name in (*cfg.rl.facts.copies, *[AVERAGE] * (cfg.rl.average != "none"))
    }
    data = SupervisedData(cfg.supervised) if "sft_data" in needs else None
    return Networks(model, reference.requires_grad_(False), reward, copies, data)


def added_rank(cfg: RunConfig) -> int:
    """Rank of the adapters that a run gives its network; a model of adapters has its own."""
    return 0 if cfg.backbone_facts.adapters_only else cfg.rl.lora_rank


def state_of(nets: Networks, cfg: RunConfig) -> dict[str, nn.Module]:
    """What a checkpoint of the run holds: its networks that move, or their adapters alone; the rest is the parent's."""
    changing = {"model": nets.model, **nets.copies}
    if added_rank(cfg):
        return {name: lora.trained(net) for name, net in changing.items()}
    follows = hasattr(METHODS.load(cfg.rl.method), "follow")  # which alone may move the reference
    return changing | ({"reference": nets.reference} if follows else {})


def optimizer_for(model: UnifiedModel, rl: RLConfig) -> tuple[torch.optim.Optimizer, dict[str, list[nn.Parameter]]]:
    """AdamW with one group per trained expert and its own learning rate; frozen experts need no gradient."""
    experts = model.expert_parameters()
    trained = {part: experts[part] for part in ("text", "image") if part in rl.experts}
    for part, parameters in experts.items():
        for p in parameters:
            p.requires_grad_(part in trained)
    rates = {"text": rl.lr_text, "image": rl.lr_image}
    groups = [{"params": parameters, "lr": rates[part], "peak": rates[part]} for part, parameters in trained.items()]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)
    warm_up(optimizer, rl, 0)
    return optimizer, trained


def warm_up(optimizer: torch.optim.Optimizer, rl: RLConfig, updates: int) -> None:
    """Set the learning rates of the next optimiser step, after ``updates`` of them: linear up to the peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * min(1.0, (updates + 1) / (rl.warmup + 1))
