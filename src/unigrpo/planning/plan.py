"""The plan of a run: which kind of run it is, what it needs, and whether it fits. Imports no torch."""

from __future__ import annotations

from types import ModuleType

from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace, to_dict
from unigrpo.models import mot_sizes
from unigrpo.planning import adapters_plan, cost, layout, reinforcement_plan, supervised_plan
from unigrpo.planning.layout import TFLOPS, Device
from unigrpo.study.config import RunConfig, check_processes
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import load_study, resolve


def plan(
    scale: str,
    run: str = "unigrpo",
    gpus: int | None = None,
    gpu_memory: float = 80,
    tflops: float | None = None,
    bandwidth: float = 3,
) -> tuple[list[str], bool]:
    """The lines of a plan, and whether the run fits as it is. ``gpus``: devices, one process each (None: the scale's);
    ``gpu_memory``: GB of one; ``tflops``: 10^12 operations a second that one reaches (None: 40 in fp32, 300 in bf16);
    ``bandwidth``: TB a second at which one reads its memory. Raises UserError."""
    given = {"gpus": gpus, "gpu-memory": gpu_memory, "tflops": tflops, "bandwidth": bandwidth}
    for name, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name}: expected a number above 0, got {value}")
    study = load_study(ROOT / "pipelines/experiments.yaml", ROOT / "pipelines/scales", {"scale": scale, "run": run})
    cfg, base = (resolve(study.catalogue, study.scale, study.scale_name, name, 0) for name in (run, "base"))
    if cfg.source == "released":
        raise UserError(f"--run {run}: expected a run that is trained, this one is released")
    gpus = cfg.launched if gpus is None else gpus
    device = Device(gpu_memory, tflops or TFLOPS[cfg.precision], bandwidth)
    check_split(cfg, gpus)
    if cfg.backbone_facts.adapters_only:
        return adapters_plan.report(cfg, base, gpus, device)
    return report(cfg, gpus, device)


def kind_of(cfg: RunConfig) -> ModuleType:
    """The formulas of the run's stage."""
    return reinforcement_plan if cfg.stage == "rl" else supervised_plan


def report(cfg: RunConfig, gpus: int, device: Device) -> tuple[list[str], bool]:
    """The same for a Mixture-of-Transformers."""
    kind = kind_of(cfg)
    setup, numbers = kind.as_it_is(cfg, gpus), mot_sizes.parameters(layout.network(cfg))
    lines = [layout.heading(cfg, gpus, device)]
    lines.append("parameters    " + ", ".join(f"{name} {count:,}" for name, count in numbers.items()))
    lines += layout.table(kind.memory(cfg, setup), kind.KINDS)
    lines += kind.details(cfg, setup)
    flops = kind.work(cfg, setup)
    training = sum(flops[phase] for phase in ("rollout", "replay", "update") if phase in flops)
    lines += layout.flops_and_hours(flops, kind.updates(cfg), training, gpus, device)
    steps = kind.remedies(cfg, gpus, device.room)
    helps = [(text, kind.need(cfg, changed)) for text, changed in steps]
    ending, fits = layout.verdict(kind.need(cfg, setup), helps, device.room)
    if helps and helps[-1][1] <= device.room:
        ending.append(f"    then about {layout.hours(kind.work(cfg, steps[-1][1]), gpus, device):.3g} hours")
    return lines + ending, fits


def check_split(cfg: RunConfig, gpus: int) -> None:
    """Raise UserError where the run cannot be split among so many processes."""
    try:
        check_processes(replace(cfg, processes=gpus, sharding=cfg.sharding and gpus > 1))
    except UserError as error:
        raise UserError(f"--gpus {gpus}: {error}") from None


def memory(cfg: RunConfig) -> dict[str, dict[str, int]] | None:
    """Bytes on each device by kind in each phase, as the configuration asks for; None where only adapters are trained,
    whose sizes stand in their releases."""
    if cfg.backbone_facts.adapters_only:
        return None
    kind = kind_of(cfg)
    return kind.memory(cfg, kind.as_it_is(cfg, cfg.launched))


def preview(cfg: RunConfig, guidance: float) -> dict:
    """What a dry run prints: configuration, cost, and memory where it is known; validation uses ``guidance``."""
    shown = {"config": to_dict(cfg), "cost": {}}
    if cfg.source == "released":
        return shown
    shown["cost"] = cost.reinforcement(cfg, guidance) if cfg.stage == "rl" else cost.supervised(cfg)
    needed = memory(cfg)
    return shown if needed is None else shown | {"memory": needed}


def check_fits(cfg: RunConfig, memory_of_device: int) -> None:
    """Raise UserError where the run needs more than ``memory_of_device`` bytes on each of its devices."""
    phases = memory(cfg)
    if phases is not None and (needed := layout.largest(phases)) > memory_of_device:
        raise UserError(
            f"scale {cfg.scale}: {cfg.run} needs about {needed / 1e9:.1f} GB on each of {cfg.launched} devices, there"
            f" are {memory_of_device / 1e9:.1f}; see unigrpo plan --scale {cfg.scale} --run {cfg.run}"
        )
