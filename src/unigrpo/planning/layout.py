"""How a run is laid out on devices, and what plans of every kind of run share: tables, hours, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from unigrpo.core.settings import replace
from unigrpo.models import mot_sizes as sizes
from unigrpo.planning import cost
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.study.facts import BACKBONES

GUIDANCE = 2.0  # of validation: any scale above 1 doubles its evaluations
RESERVED = 0.08  # share of a device that the runtime and fragmentation take
TFLOPS = {"no": 40, "bf16": 300}  # assumed of a device: about a third of what the makers state


@dataclass(frozen=True)
class Setup:
    """How a run is laid out. Each of the ``gpus`` has its share of the episodes, or of a supervised step's examples.
    ``part``: how many one samples at once; ``micro``: those of a backward pass; ``split``: weights, gradients and
    optimiser state are divided among the devices; ``half``: it computes in bf16; ``rank``: of the adapters that are
    trained, 0 for the weights."""

    gpus: int
    part: int
    micro: int
    checkpointing: bool = False
    split: bool = False
    half: bool = False
    rank: int = 0

    @property
    def number(self) -> int:
        """Bytes of a number that is computed with. Where the weights are split they are bf16 too, otherwise autocast
        keeps some in fp32, and all are counted so."""
        return sizes.FLOAT // 2 if self.half and self.split else sizes.FLOAT


@dataclass(frozen=True)
class Device:
    """One of the devices: its memory in GB, the 10^12 operations a second that it reaches, and the TB a second at which
    it reads."""

    memory: float
    tflops: float
    bandwidth: float

    @property
    def room(self) -> float:
        """Bytes that a run may use."""
        return self.memory * 1e9 * (1 - RESERVED)


def network(cfg: RunConfig) -> sizes.Network:
    """Sizes of the network of a run, by its backbone."""
    return BACKBONES.load(cfg.backbone).network(cfg)


def batch(cfg: RunConfig, episodes: int) -> sizes.Batch:
    """The backward pass of ``episodes`` of a run, its prompts and traces as long as they are assumed to get."""
    rl, tokens = cfg.rl, cfg.model.tokens_per_side**2
    trace = cfg.sampling.max_trace_tokens + 2 if rl.thinking else 0
    steps = cost.evaluations(rl) + rl.facts.extra_evaluations(rl) * ("image" in rl.train)
    prompts = math.ceil(episodes / rl.group_size)
    return sizes.Batch(episodes, prompts, cfg.backbone_facts.prompt_tokens, trace, tokens, steps)


def copies(rl: RLConfig) -> int:
    """Frozen copies of the weights beside the policy: the reference, and the old weights where these are a copy."""
    return 2 if "old_weights" in rl.facts.needs else 1


def gathered(net: sizes.Network, setup: Setup) -> tuple[int, int]:
    """Bytes that a split network needs on each device beside its shares: complete, to sample from it, and in an update,
    where a layer, the next, and what lies outside of layers are put together, with their gradients."""
    if not setup.split:
        return 0, 0
    numbers = sizes.parameters(net)
    everything = sum(numbers.values()) - net.codec  # which is never split
    layer = 2 * net.expert_layer
    apart = everything - net.layers * layer  # outside of layers, and of it what is trained
    trained = numbers["text"] + numbers["image"] - net.layers * layer
    update = (4 * layer + apart + trained) * setup.number + layer * sizes.FLOAT  # gradients are summed in fp32
    return everything * setup.number, update


def logits(net: sizes.Network, b: sizes.Batch, text: bool) -> int:
    """Bytes of a trace's logits and their gradient, beside the log-probabilities that autograd keeps."""
    return 2 * b.episodes * b.trace * net.vocabulary * sizes.FLOAT if text else 0


def decoding(cfg: RunConfig, net: sizes.Network) -> int:
    """Bytes of the autoencoder at full resolution: one picture, three tensors of its widest level there."""
    return 3 * net.decoder * cfg.model.image_size**2 * sizes.FLOAT


def largest(phases: dict[str, dict[str, int]]) -> int:
    """Bytes of the phase that needs most."""
    return max(sum(phase.values()) for phase in phases.values())


def hours(done: dict[str, float], devices: int, device: Device) -> float:
    """Of a run that does so many FLOPs by phase and reads so many bytes of weights (``bytes read``), one after the
    other. What the devices say to each other is not counted."""
    computing = sum(value for name, value in done.items() if name != "bytes read") / (devices * device.tflops * 1e12)
    return (computing + done.get("bytes read", 0.0) / (device.bandwidth * 1e12)) / 3600


def heading(cfg: RunConfig, gpus: int, device: Device) -> str:
    """The first line of a plan."""
    return f"run {cfg.run} at scale {cfg.scale}: {gpus} x {device.memory:g} GB, {device.room / 1e9:.1f} of them usable"


def table(phases: dict[str, dict[str, int]], kinds: tuple[str, ...], note: str = "") -> list[str]:
    """Memory by kind and phase, in GB."""
    lines = ["memory (GB)   " + "".join(f"{name:>12}" for name in phases) + note]
    for kind in kinds:
        lines.append(f"  {kind:<12}" + "".join(f"{phase[kind] / 1e9:12.3f}" for phase in phases.values()))
    return [*lines, f"  {'sum':<12}" + "".join(f"{sum(phase.values()) / 1e9:12.3f}" for phase in phases.values())]


def flops_and_hours(done: dict[str, float], updates: int, training: float, gpus: int, device: Device) -> list[str]:
    """Two lines: what is computed, and how long that takes."""
    flops = ", ".join(f"{name} {value:.2e}" for name, value in done.items() if name != "bytes read")
    each_at = f"{gpus} x {device.tflops:g} TFLOP/s and {device.bandwidth:g} TB/s"
    return [
        f"FLOPs         {flops}; {training / updates:.2e} an update",
        f"hours         {hours(done, gpus, device):.3g} at {each_at}, an estimate",
    ]


def verdict(needed: int, helps: list[tuple[str, int]], room: float) -> tuple[list[str], bool]:
    """Lines that say whether ``needed`` bytes fit into ``room``, and where they do not, what each setting of ``helps``
    brings the need down to beside those before it; and whether they fit."""
    if needed <= room:
        return [f"fits          yes: {needed / 1e9:.1f} GB"], True
    lines = [f"fits          no: {needed / 1e9:.1f} GB on each device"]
    lines.append("what would make it fit, each beside those above it:")
    lines += [f"    {text:<58}{then / 1e9:10.1f} GB" for text, then in helps]
    if not helps or helps[-1][1] > room:
        lines.append("    and still more: larger devices, or more of them")
    return lines, False


def changed_until(
    setup: Setup, fits: Callable[[Setup], bool], tried: list[tuple[str, dict]]
) -> tuple[Setup, list[tuple[str, Setup]]]:
    """Settings to change, one on top of the other, until ``fits`` or none is left; the last setup, and those on the way
    with what each is called."""
    steps = []
    for text, change in tried:
        if not fits(setup) and replace(setup, **change) != setup:
            setup = replace(setup, **change)
            steps.append((text, setup))
    return setup, steps
