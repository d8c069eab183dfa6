"""What supervised fine-tuning needs: both experts are trained, beside their moving average. Imports no torch."""

from __future__ import annotations

from unigrpo.models import mot_sizes as sizes
from unigrpo.planning import cost
from unigrpo.planning.layout import Setup, changed_until, decoding, gathered, largest, logits, network
from unigrpo.study.config import RunConfig
from unigrpo.world.prompts import prompt_set

KINDS = ("weights", "gathered", "average", "gradients", "optimiser", "activations", "KV cache")


def as_it_is(cfg: RunConfig, gpus: int) -> Setup:
    """The layout that the configuration asks for, on ``gpus`` devices."""
    local = cfg.supervised.batch_size // gpus
    half, split = cfg.precision == "bf16", cfg.sharding and gpus > 1
    return Setup(gpus, cfg.sampling.batch_size, local, cfg.activation_checkpointing, split, half)


def batch(cfg: RunConfig, examples: int) -> sizes.Batch:
    """The backward pass of so many examples, each with a prompt, one flow time, and a trace as long as it
    may get."""
    trace, tokens = cfg.sampling.max_trace_tokens + 2, cfg.model.tokens_per_side**2
    return sizes.Batch(examples, examples, cfg.backbone_facts.prompt_tokens, trace, tokens, 1)


def memory(cfg: RunConfig, setup: Setup) -> dict[str, dict[str, int]]:
    """Bytes on one device by kind, in each phase: ``update`` and ``validation``."""
    net = network(cfg)
    numbers, b = sizes.parameters(net), batch(cfg, setup.micro)
    everything, trained = sum(numbers.values()) - net.codec, numbers["text"] + numbers["image"]
    devices, width = setup.gpus if setup.split else 1, setup.number / sizes.FLOAT
    complete, layers = gathered(net, setup)
    cast = trained * sizes.FLOAT // 2 if setup.half and not setup.split else 0  # autocast's copies
    standing = {
        "weights": everything * sizes.FLOAT // devices + net.codec * sizes.FLOAT,
        "average": everything * sizes.FLOAT // devices,
        "optimiser": 2 * trained * sizes.FLOAT // devices,
    }
    context, block = b.prompt + b.trace, b.tokens + 2
    activations = sizes.activations(net, b, True, setup.checkpointing)
    update = {
        "gathered": layers + cast,
        "gradients": trained * sizes.FLOAT // devices,
        "activations": int(width * activations) + logits(net, b, True),
        "KV cache": 0,  # the keys and values of a context are among the activations
    }
    images = cost.SUPERVISED_VALIDATION_IMAGES * len(prompt_set("val"))
    part = min(setup.part, -(-images // setup.gpus))
    validation = {
        "gathered": complete,
        "gradients": 0,
        "activations": int(width * sizes.evaluation(net, part, block)) + decoding(cfg, net),
        "KV cache": int(width * sizes.cache(net, part, 2 * context + block)),  # a block joins a copy of the context
    }
    return {"update": standing | update, "validation": standing | validation}


def need(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of the larger phase."""
    return largest(memory(cfg, setup))


def remedies(cfg: RunConfig, gpus: int, room: float) -> list[tuple[str, Setup]]:
    """Settings to change, one on top of the other, until the run needs no more than ``room`` bytes or none is left."""
    tried: list[tuple[str, dict]] = [("activation_checkpointing: true", {"checkpointing": True})]
    if gpus > 1:
        tried.append((f"sharding: true, processes: {gpus}", {"split": True}))
    return changed_until(as_it_is(cfg, gpus), lambda setup: need(cfg, setup) <= room, tried)[1]


def work(cfg: RunConfig, setup: Setup) -> dict[str, float]:
    """FLOPs of the run by phase; traces as long as they may get."""
    net, counts, b = network(cfg), cost.supervised(cfg), batch(cfg, 1)
    context, block = b.prompt + b.trace, b.tokens + 2
    image, token = sizes.flops(net, block, context + block), sizes.flops(net, 1, context, head=True)
    backward = 4 if setup.checkpointing else 3
    written = counts["images"] * (1 - cfg.supervised.no_thinking) * b.trace
    return {
        "update": backward * (counts["update_image_evaluations"] * image + written * token),
        "validation": counts["validation_image_evaluations"] * image + counts["validation_text_tokens_at_most"] * token,
    }


def details(cfg: RunConfig, setup: Setup) -> list[str]:
    """What one update is made of."""
    return [f"an update     {cfg.supervised.batch_size:,} examples, {setup.micro:,} on each device"]


def updates(cfg: RunConfig) -> int:
    """Optimiser steps of the run."""
    return cfg.supervised.steps
