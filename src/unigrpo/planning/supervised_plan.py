"""What supervised fine-tuning needs: both experts are trained, beside their moving average. Imports no torch."""

from __future__ import annotations

from unigrpo.core.settings import replace
from unigrpo.planning import cost, sizes
from unigrpo.planning.layout import (
    Device,
    Setup,
    check,
    check_split,
    decoding,
    flops_and_hours,
    gathered,
    heading,
    largest,
    logits,
    table,
    verdict,
)
from unigrpo.study.config import RunConfig
from unigrpo.world.prompts import prompt_set

KINDS = ("weights", "gathered", "average", "gradients", "optimiser", "activations", "KV cache")


def as_it_is(cfg: RunConfig, gpus: int) -> Setup:
    """The layout that the configuration asks for, on ``gpus`` devices."""
    own = cfg.supervised.batch_size // gpus
    half, split = cfg.precision == "bf16", cfg.sharding and gpus > 1
    return Setup(gpus, cfg.sampling.batch_size, own, cfg.activation_checkpointing, split, half)


def batch(cfg: RunConfig, examples: int) -> sizes.Batch:
    """The backward pass of so many examples, each with a prompt of its own, one flow time, and a trace as long as it
    may get."""
    trace, prompt = cfg.sampling.max_trace_tokens + 2, sizes.PROMPT_TOKENS[cfg.backbone]
    return sizes.Batch(examples, examples, prompt, trace, cfg.model.tokens_per_side**2, steps=1)


def memory(cfg: RunConfig, setup: Setup) -> dict[str, dict[str, int]]:
    """Bytes on one device by kind, in each phase: ``update`` and ``validation``."""
    net = sizes.network(cfg)
    held, b = sizes.parameters(net), batch(cfg, setup.micro)
    everything, trained = sum(held.values()) - net.codec, held["text"] + held["image"]
    devices, width = setup.gpus if setup.split else 1, setup.number / sizes.FLOAT
    whole, layers = gathered(net, setup)
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
        "gathered": whole,
        "gradients": 0,
        "activations": int(width * sizes.evaluation(net, part, block)) + decoding(cfg),
        "KV cache": int(width * sizes.cache(net, part, 2 * context + block)),  # a block joins a copy of the context
    }
    return {"update": standing | update, "validation": standing | validation}


def need(cfg: RunConfig, setup: Setup) -> int:
    """Bytes of the larger phase."""
    return largest(memory(cfg, setup))


def remedies(cfg: RunConfig, gpus: int, room: float) -> list[tuple[str, Setup]]:
    """Settings to change, one on top of the other, until the run needs no more than ``room`` bytes or none is left."""
    setup, steps = as_it_is(cfg, gpus), []
    tried = [("activation_checkpointing: true", {"checkpointing": True})]
    if gpus > 1:
        tried.append((f"sharding: true, processes: {gpus}", {"split": True}))
    for text, change in tried:
        if need(cfg, setup) > room and replace(setup, **change) != setup:
            setup = replace(setup, **change)
            steps.append((text, setup))
    return steps


def work(cfg: RunConfig, setup: Setup) -> dict[str, float]:
    """FLOPs of the whole run by phase; traces as long as they may get."""
    net, told, b = sizes.network(cfg), cost.supervised(cfg), batch(cfg, 1)
    context, block = b.prompt + b.trace, b.tokens + 2
    image, token = sizes.flops(net, block, context + block), sizes.flops(net, 1, context, head=True)
    backward = 4 if setup.checkpointing else 3
    written = told["images"] * (1 - cfg.supervised.no_thinking) * b.trace
    return {
        "update": backward * (told["update_image_evaluations"] * image + written * token),
        "validation": told["validation_image_evaluations"] * image + told["validation_text_tokens_at_most"] * token,
    }


def report(cfg: RunConfig, gpus: int, device: Device) -> tuple[list[str], bool]:
    """The lines that the command prints, and whether the run fits as it is."""
    check_split(cfg, gpus)
    setup, net = as_it_is(cfg, gpus), sizes.network(cfg)
    held, done = sizes.parameters(net), work(cfg, setup)
    lines = [heading(cfg, gpus, device)]
    lines.append("parameters    " + ", ".join(f"{name} {count:,}" for name, count in held.items()))
    lines += table(memory(cfg, setup), KINDS)
    lines.append(f"an update     {cfg.supervised.batch_size:,} examples, {setup.micro:,} on each device")
    lines += flops_and_hours(done, cfg.supervised.steps, done["update"], gpus, device)
    helps = [(text, need(cfg, changed)) for text, changed in remedies(cfg, gpus, device.room)]
    ending, fits = verdict(need(cfg, setup), helps, device.room)
    return lines + ending, fits


def check_fits(cfg: RunConfig, memory_of_device: int) -> None:
    """Raise UserError where the run needs more than ``memory_of_device`` bytes on each of its devices."""
    check(cfg, need(cfg, as_it_is(cfg, cfg.launched)), memory_of_device)
