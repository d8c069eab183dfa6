"""What reinforcement needs: rollouts, replays and updates of the policy, beside its frozen reference and the reward.

In the layout that the configuration asks for: processes, sharding, precision, adapters, activation checkpointing, and
how much is rolled out and trained on at once. Imports no torch.
"""

from __future__ import annotations

from unigrpo.core.settings import replace
from unigrpo.planning import cost, sizes
from unigrpo.planning.layout import (
    GUIDANCE,
    Device,
    Setup,
    check,
    check_split,
    decoding,
    flops_and_hours,
    gathered,
    heading,
    hours,
    largest,
    logits,
    table,
    verdict,
)
from unigrpo.study.config import RunConfig

REWARD_PARAMETERS = 200_000_000  # a two-tower reward of the usual size
KINDS = ("weights", "gathered", "reference", "gradients", "optimiser", "activations", "KV cache", "latents", "reward")


def as_it_is(cfg: RunConfig, gpus: int) -> Setup:
    """The layout that the configuration asks for, on ``gpus`` devices."""
    rl, half = cfg.rl, cfg.precision == "bf16"
    own = rl.prompts_per_rollout * rl.group_size // gpus
    micro = min(rl.micro_batch, own // rl.epochs if rl.epoch_convention == "halves" else own)
    part = min(rl.rollout_batch or own, own)
    return Setup(gpus, part, micro, cfg.activation_checkpointing, cfg.sharding and gpus > 1, half, rl.lora_rank)


def memory(cfg: RunConfig, setup: Setup) -> dict[str, dict[str, int]]:
    """Bytes on one device by kind, in each phase: ``rollout`` and ``update``."""
    net, rl = sizes.network(cfg), cfg.rl
    held = sizes.parameters(net)
    everything, trained = sum(held.values()), sum(held[part] for part in rl.train)
    added, copies = 0, 2 if rl.method == "nft" else 1
    everything -= net.codec  # it is fp32 and whole whatever the network is
    frozen = copies * everything
    if setup.rank:  # a frozen copy shares what is below adapters, and the reference has none
        added = trained = sizes.adapters(net, setup.rank, rl.train)
        frozen = (copies - 1) * added
    devices, (whole, layers) = setup.gpus if setup.split else 1, gathered(net, setup)
    cast = trained * sizes.FLOAT // 2 if setup.half and not setup.split else 0  # autocast's copies
    b = sizes.batch(cfg, setup.micro)
    episodes = rl.prompts_per_rollout * rl.group_size // setup.gpus
    part = min(setup.part, episodes)
    width = setup.number / sizes.FLOAT
    latents = b.tokens * net.token_dim * sizes.FLOAT
    pixels = 3 * cfg.model.image_size**2 * sizes.FLOAT
    text = "text" in rl.train or rl.gradient_through_context
    standing = {
        "weights": (everything + added) * sizes.FLOAT // devices + net.codec * sizes.FLOAT,
        "reference": frozen * sizes.FLOAT // devices + (0 if setup.rank else copies * net.codec * sizes.FLOAT),
        "optimiser": 2 * trained * sizes.FLOAT // devices,
        # the window's states and noise, and what old and reference weights say of them
        "latents": episodes * latents * max(b.steps, 1) * 7,
        "reward": reward(cfg) + episodes * pixels,
    }
    block = b.tokens + 2
    rollout = {
        "gathered": whole + cast,
        "activations": int(width * sizes.evaluation(net, part, block)) + decoding(cfg),
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


def reward(cfg: RunConfig) -> int:
    """Bytes of the reward's weights: exact for none, an assumption for a learned one at BAGEL's scale."""
    if cfg.rl.reward == "verifier":
        return 0
    r = cfg.reward
    small = 2 * r.layers * 12 * r.width**2 + r.fusion_layers * 12 * r.width**2
    return sizes.FLOAT * (REWARD_PARAMETERS if cfg.backbone == "bagel" else small)


def need(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of the larger phase."""
    return largest(memory(cfg, setup))


def remedies(cfg: RunConfig, gpus: int, room: float) -> list[tuple[str, Setup]]:
    """Settings to change, one on top of the other, until the run needs no more than ``room`` bytes or none is left."""
    setup, steps = as_it_is(cfg, gpus), []
    largest = max((m for m in halvings(setup.micro) if need_update(cfg, replace(setup, micro=m)) <= room), default=1)
    tried = [("rl.micro_batch: {micro}", {"micro": largest})]
    tried.append(("activation_checkpointing: true", {"checkpointing": True}))
    if gpus > 1 and not setup.rank:
        tried.append(("sharding: true, processes: {gpus}", {"split": True}))
    for text, change in tried:
        if need(cfg, setup) > room and replace(setup, **change) != setup:
            setup = replace(setup, **change)
            steps.append((text.format(**vars(setup)), setup))
    if need(cfg, setup) > room:
        fitting = [n for n in halvings(setup.part) if need(cfg, replace(setup, part=n)) <= room]
        setup = replace(setup, part=max(fitting, default=1))
        steps.append((f"rl.rollout_batch: {setup.part}", setup))
    return steps


def need_update(cfg: RunConfig, setup: Setup) -> int:
    return sum(memory(cfg, setup)["update"].values())


def halvings(n: int) -> list[int]:
    """n, n // 2, ..., 1."""
    return [n] if n <= 1 else [n, *halvings(n // 2)]


def work(cfg: RunConfig, setup: Setup) -> dict[str, float]:
    """FLOPs of the whole run by phase, and the bytes of weights that writing token by token reads."""
    net, told = sizes.network(cfg), cost.reinforcement(cfg, GUIDANCE)
    b = sizes.batch(cfg, 1)
    context, block = b.prompt + b.trace, b.tokens + 2
    image = sizes.flops(net, block, context + block)
    token = sizes.flops(net, 1, context, head=True)
    backward = 4 if setup.checkpointing else 3
    number = sizes.FLOAT // 2 if setup.half else sizes.FLOAT
    rounds = cfg.rl.rollouts * -(-cfg.rl.prompts_per_rollout * cfg.rl.group_size // setup.gpus // setup.part)
    rounds += -(-told["validation_images"] // cfg.sampling.batch_size)
    text = sizes.parameters(net)["text"] - net.vocabulary * net.hidden
    return {
        "rollout": told["rollout_image_evaluations"] * image + told["rollout_text_tokens_at_most"] * token,
        "replay": told["replay_image_evaluations_at_most"] * image + told["replay_text_tokens_at_most"] * token,
        "update": backward
        * (told["update_image_evaluations_at_most"] * image + told["update_text_tokens_at_most"] * token),
        "validation": (told["validation_image_evaluations"] + told["drift_image_evaluations"]) * image
        + (told["validation_text_tokens_at_most"] + told["drift_text_tokens_at_most"]) * token,
        "bytes read": rounds * b.trace * text * number,
    }


def report(cfg: RunConfig, gpus: int, device: Device) -> tuple[list[str], bool]:
    """The lines that the command prints, and whether the run fits as it is."""
    check_split(cfg, gpus)
    setup, net = as_it_is(cfg, gpus), sizes.network(cfg)
    held, told, b = sizes.parameters(net), cost.reinforcement(cfg, GUIDANCE), sizes.batch(cfg, setup.micro)
    text = "text" in cfg.rl.train or cfg.rl.gradient_through_context
    done, each = work(cfg, setup), told["updates"]
    lines = [heading(cfg, gpus, device)]
    lines.append("parameters    " + ", ".join(f"{name} {count:,}" for name, count in held.items()))
    lines += table(memory(cfg, setup), KINDS)
    with_all, again = (sizes.activations(net, b, text, checkpointing) for checkpointing in (False, True))
    kept = f"{with_all / 1e9:.3f} GB kept, {again / 1e9:.3f} GB with checkpointing"
    lines.append(f"activations   of {setup.micro} episodes: {kept}")
    lines.append(
        f"an update     {told['update_image_evaluations_at_most'] // each:,} image evaluations with gradient,"
        f" {told['replay_image_evaluations_at_most'] // each:,} without,"
        f" {told['rollout_image_evaluations'] // each:,} in its rollout;"
        f" {told['update_text_tokens_at_most'] // each:,} tokens of traces at most"
    )
    training = sum(done[name] for name in ("rollout", "replay", "update"))
    lines += flops_and_hours(done, each, training, gpus, device)
    steps = remedies(cfg, gpus, device.room)
    helps = [(text, need(cfg, changed)) for text, changed in steps]
    ending, fits = verdict(need(cfg, setup), helps, device.room)
    if helps and helps[-1][1] <= device.room:
        ending.append(f"    then about {hours(work(cfg, steps[-1][1]), gpus, device):.3g} hours")
    return lines + ending, fits


def check_fits(cfg: RunConfig, memory_of_device: int) -> None:
    """Raise UserError where the run needs more than ``memory_of_device`` bytes on each of its devices."""
    check(cfg, need(cfg, as_it_is(cfg, cfg.processes)), memory_of_device)
