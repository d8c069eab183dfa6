"""What reinforcement needs: rollouts, replays and updates of the policy, beside its frozen reference and the reward.

In the layout that the configuration asks for: processes, sharding, precision, adapters, activation checkpointing, and
how much is rolled out and trained on at once. Imports no torch.
"""

from __future__ import annotations

from unigrpo.core.settings import replace
from unigrpo.models import mot_sizes as sizes
from unigrpo.planning import cost
from unigrpo.planning.layout import (
    GUIDANCE,
    Setup,
    batch,
    changed_until,
    copies,
    decoding,
    gathered,
    largest,
    logits,
    network,
)
from unigrpo.study.config import RunConfig
from unigrpo.study.facts import REWARDS

KINDS = ("weights", "gathered", "reference", "gradients", "optimiser", "activations", "KV cache", "latents", "reward")


def as_it_is(cfg: RunConfig, gpus: int) -> Setup:
    """The layout that the configuration asks for, on ``gpus`` devices."""
    rl, half = cfg.rl, cfg.precision == "bf16"
    local = rl.prompts_per_rollout * rl.group_size // gpus
    micro = min(rl.micro_batch, local // rl.epochs if rl.epoch_convention == "halves" else local)
    part = min(rl.rollout_batch or local, local)
    return Setup(gpus, part, micro, cfg.activation_checkpointing, cfg.sharding and gpus > 1, half, rl.lora_rank)


def memory(cfg: RunConfig, setup: Setup) -> dict[str, dict[str, int]]:
    """Bytes on one device by kind, in each phase: ``rollout`` and ``update``."""
    net, rl = network(cfg), cfg.rl
    numbers, frozen_copies, added = sizes.parameters(net), copies(rl), 0
    everything, trained = sum(numbers.values()), sum(numbers[part] for part in rl.train)
    everything -= net.codec  # it is fp32 and never split
    frozen = frozen_copies * everything
    if setup.rank:  # a frozen copy shares what is below adapters, and the reference has none
        added = trained = sizes.adapters(net, setup.rank, rl.train)
        frozen = (frozen_copies - 1) * added
    devices, (complete, layers) = setup.gpus if setup.split else 1, gathered(net, setup)
    cast = trained * sizes.FLOAT // 2 if setup.half and not setup.split else 0  # autocast's copies
    b = batch(cfg, setup.micro)
    episodes = rl.prompts_per_rollout * rl.group_size // setup.gpus
    part = min(setup.part, episodes)
    width = setup.number / sizes.FLOAT
    latents = b.tokens * net.token_dim * sizes.FLOAT
    pixels = 3 * cfg.model.image_size**2 * sizes.FLOAT
    text = "text" in rl.train or rl.gradient_through_context
    standing = {
        "weights": (everything + added) * sizes.FLOAT // devices + net.codec * sizes.FLOAT,
        "reference": frozen * sizes.FLOAT // devices + (0 if setup.rank else frozen_copies * net.codec * sizes.FLOAT),
        "optimiser": 2 * trained * sizes.FLOAT // devices,
        # the window's states and noise, and what old and reference weights say of them
        "latents": episodes * latents * max(b.steps, 1) * 7,
        "reward": reward(cfg, net) + episodes * pixels,
    }
    block = b.tokens + 2
    rollout = {
        "gathered": complete + cast,
        "activations": int(width * sizes.evaluation(net, part, block)) + decoding(cfg, net),
        # a block joins a copy of the context
        "KV cache": int(width * sizes.cache(net, part, 2 * (b.prompt + b.trace) + block)),
        "gradients": 0,
    }
    update = {
        "gathered": layers + cast,
        "activations": int(width * sizes.activations(net, b, text, setup.checkpointing)) + logits(net, b, text),
        "KV cache": int(width * sizes.cache(net, b.episodes, (b.prompt + b.trace) * (1 + b.steps))),
        "gradients": trained * sizes.FLOAT // devices,
    }
    return {name: standing | phase for name, phase in (("rollout", rollout), ("update", update))}


def reward(cfg: RunConfig, net: sizes.Network) -> int:
    """Bytes of the reward's weights: exact for none, otherwise what the backbone assumes."""
    facts = REWARDS.load(cfg.rl.reward).FACTS
    return 0 if facts.weights == "none" else sizes.FLOAT * net.reward


def need(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of the larger phase."""
    return largest(memory(cfg, setup))


def remedies(cfg: RunConfig, gpus: int, room: float) -> list[tuple[str, Setup]]:
    """Settings to change, one on top of the other, until the run needs no more than ``room`` bytes or none is left."""
    setup = as_it_is(cfg, gpus)
    micro = max((m for m in halvings(setup.micro) if need_update(cfg, replace(setup, micro=m)) <= room), default=1)
    tried: list[tuple[str, dict]] = [(f"rl.micro_batch: {micro}", {"micro": micro})]
    tried.append(("activation_checkpointing: true", {"checkpointing": True}))
    if gpus > 1 and not setup.rank:
        tried.append((f"sharding: true, processes: {gpus}", {"split": True}))
    setup, steps = changed_until(setup, lambda s: need(cfg, s) <= room, tried)
    if need(cfg, setup) > room:
        fitting = [n for n in halvings(setup.part) if need(cfg, replace(setup, part=n)) <= room]
        setup = replace(setup, part=max(fitting, default=1))
        steps.append((f"rl.rollout_batch: {setup.part}", setup))
    return steps


def need_update(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of an update."""
    return sum(memory(cfg, setup)["update"].values())


def halvings(n: int) -> list[int]:
    """n, n // 2, ..., 1."""
    return [n] if n <= 1 else [n, *halvings(n // 2)]


def work(cfg: RunConfig, setup: Setup) -> dict[str, float]:
    """FLOPs of the run by phase, and the bytes of weights that writing token by token reads."""
    net, counts = network(cfg), cost.reinforcement(cfg, GUIDANCE)
    b = batch(cfg, 1)
    context, block = b.prompt + b.trace, b.tokens + 2
    image = sizes.flops(net, block, context + block)
    token = sizes.flops(net, 1, context, head=True)
    backward = 4 if setup.checkpointing else 3
    number = sizes.FLOAT // 2 if setup.half else sizes.FLOAT
    rounds = cfg.rl.rollouts * -(-cfg.rl.prompts_per_rollout * cfg.rl.group_size // setup.gpus // setup.part)
    rounds += -(-counts["validation_images"] // cfg.sampling.batch_size)
    text = sizes.parameters(net)["text"] - net.vocabulary * net.hidden
    return {
        "rollout": counts["rollout_image_evaluations"] * image + counts["rollout_text_tokens_at_most"] * token,
        "replay": counts["replay_image_evaluations_at_most"] * image + counts["replay_text_tokens_at_most"] * token,
        "update": backward
        * (counts["update_image_evaluations_at_most"] * image + counts["update_text_tokens_at_most"] * token),
        "validation": (counts["validation_image_evaluations"] + counts["drift_image_evaluations"]) * image
        + (counts["validation_text_tokens_at_most"] + counts["drift_text_tokens_at_most"]) * token,
        "bytes read": rounds * b.trace * text * number,
    }


def details(cfg: RunConfig, setup: Setup) -> list[str]:
    """What one update is made of."""
    net, b, counts = network(cfg), batch(cfg, setup.micro), cost.reinforcement(cfg, GUIDANCE)
    text, each = "text" in cfg.rl.train or cfg.rl.gradient_through_context, counts["updates"]
    with_all, again = (sizes.activations(net, b, text, checkpointing) for checkpointing in (False, True))
    numbers = f"{with_all / 1e9:.3f} GB stored, {again / 1e9:.3f} GB with checkpointing"
    return [
        f"activations   of {setup.micro} episodes: {numbers}",
        f"an update     {counts['update_image_evaluations_at_most'] // each:,} image evaluations with gradient,"
        f" {counts['replay_image_evaluations_at_most'] // each:,} without,"
        f" {counts['rollout_image_evaluations'] // each:,} in its rollout;"
        f" {counts['update_text_tokens_at_most'] // each:,} tokens of traces at most",
    ]


def updates(cfg: RunConfig) -> int:
    """Optimiser steps of the run."""
    return cfg.rl.rollouts * cfg.rl.epochs
