"""The plan of a run: what it needs, whether it fits, and what would make it fit; and the sum over the runs of a table.

Each phase is the real code on a network without numbers (``phases``), so a user's method and backbone are planned as
they are. Hours are those of one device after another operation: the longer of computing and of moving its numbers.
What devices say to each other, and judging on the host, is not counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.settings import replace, require
from unigrpo.planning import phases
from unigrpo.planning.phases import Phase
from unigrpo.planning.tracker import Rates
from unigrpo.study.catalogue import BASE, SFT, ancestors, runs_read
from unigrpo.study.config import RunConfig, check_together
from unigrpo.study.resolve import CATALOGUE, SCALES, Study, load_study

RESERVED = 0.08  # share of a device that the runtime and fragmentation take
TFLOPS = {"no": 40, "bf16": 300}  # assumed of a device: about a third of what the makers state
CORE, MEMORY = 0.05, 0.01  # assumed of a CPU core, in 10^12 operations a second, and of its memory, in TB a second
START = 5e-6  # seconds that an operation takes to start
KINDS = ("weights", "copies", "optimiser", "gradients", "episodes", "reward", "activations")


@dataclass(frozen=True)
class Device:
    """One of the devices: GB of memory; 10^12 operations a second that it reaches, and TB a second at which it reads;
    None: assumed. Raises UserError."""

    gpu_memory: float = 80
    tflops: float | None = None
    bandwidth: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')}: expected a number above 0, got {value}")

    @property
    def room(self) -> float:
        """Bytes that a run may use."""
        return self.gpu_memory * 1e9 * (1 - RESERVED)

    def rates(self, cfg: RunConfig) -> Rates:
        cpu = cfg.device == "cpu"
        tflops = self.tflops or (CORE * cfg.threads if cpu else TFLOPS[cfg.precision])
        return Rates(tflops * 1e12, (self.bandwidth or (MEMORY if cpu else 3)) * 1e12, START)


def plan(scale: str, run: str, gpus: int | None, device: Device) -> tuple[list[str], bool]:
    """The lines of a plan, and whether the run fits as it is. ``gpus``: devices, one process each (None: the scale's).
    Raises UserError."""
    study = load_study(CATALOGUE, SCALES, {"scale": scale, "run": run})
    base = study.resolve("base")
    if study.resolve(run).source == "released":
        raise UserError(f"--run {run}: expected a run that is trained, this one is released")
    cfg, found, after = planned(study, run, gpus, device)
    fits = need(found) <= device.room
    lines = [heading(cfg, device), parameters(cfg, base), *memory(found | after), *work(found, after, cfg)]
    lines.append(f"fits          {'yes' if fits else 'no'}: {need(found) / 1e9:.3g} GB")
    return lines if fits else [*lines, *remedies(cfg, base, device)], fits


def planned(study: Study, run: str, gpus: int | None, device: Device) -> tuple[RunConfig, dict, dict]:
    """A run on its devices, the phases of its training and of what samples it. Raises UserError."""
    cfg, base = on_devices(study.resolve(run), gpus), study.resolve("base")
    require(cfg.ceiling is None, f"--run {run}", "a run that is trained, it is a ceiling")
    rates = device.rates(cfg)
    return cfg, phases.training(cfg, base, rates), phases.sampling(cfg, base, rates, study.modes(run))


def on_devices(cfg: RunConfig, gpus: int | None) -> RunConfig:
    """The run on so many devices (None: as it is). Raises UserError where it cannot be split among them."""
    if gpus is None or cfg.stage == "base":
        return cfg
    with error_prefix(f"--gpus {gpus}"):
        cfg = replace(cfg, processes=gpus, sharding=cfg.sharding and gpus > 1)
        check_together(cfg)
    return cfg


def need(found: dict[str, Phase]) -> int:
    """Bytes on a device where most are in use."""
    return max(phase.cost.bytes for phase in found.values())


def heading(cfg: RunConfig, device: Device) -> str:
    """The first line of a plan."""
    usable = f"{cfg.launched} x {device.gpu_memory:g} GB, {device.room / 1e9:.1f} of them usable"
    if cfg.device == "cpu":
        usable = f"{cfg.threads} CPU cores, {device.room / 1e9:.1f} GB usable"
    return f"run {cfg.run} at scale {cfg.scale}: {usable}"


def parameters(cfg: RunConfig, base: RunConfig) -> str:
    """How many numbers each part has."""
    model = phases.unfilled(cfg, base)
    parts = {part: sum(p.numel() for p in found) for part, found in model.expert_parameters().items()}
    parts["fixed"] = sum(p.numel() for p in phases.tensors(model)) - sum(parts.values())
    return "parameters    " + ", ".join(f"{name} {count:,}" for name, count in parts.items())


def memory(found: dict[str, Phase]) -> list[str]:
    """GB on a device by kind and phase."""
    lines = ["memory (GB)               " + "".join(f"{kind:>12}" for kind in KINDS) + f"{'sum':>12}"]
    for name, phase in found.items():
        kinds = "".join(f"{phase.cost.peak.get(kind, 0) / 1e9:12.3f}" for kind in KINDS)
        lines.append(f"  {name:<24}{kinds}{phase.cost.bytes / 1e9:12.3f}")
    return lines


def work(found: dict[str, Phase], after: dict[str, Phase], cfg: RunConfig) -> list[str]:
    """What is computed on all devices, by phase, and how long it takes."""
    lines = ["all of the run               times       FLOPs  image evaluations  text tokens   minutes"]
    for name, phase in (found | after).items():
        t = phase.total
        counts = f"{t['image evaluations']:19,.0f}{t['tokens']:13,.0f}{t['seconds'] / 60:10.3g}"
        lines.append(f"  {name:<24}{phase.times:8,}{t['flops']:12.2e}{counts}")
    where = f"{cfg.threads} cores" if cfg.device == "cpu" else f"{cfg.launched} devices"
    lines.append(f"time          {span(time(found), cfg)} of training on {where}, {span(time(after), cfg)} after it")
    return lines


def time(found: dict[str, Phase]) -> float:
    """Seconds that phases take."""
    return sum(phase.total["seconds"] for phase in found.values())


def span(seconds: float, cfg: RunConfig) -> str:
    """A time in the unit of the machine: an estimate."""
    return f"{seconds / 60:.3g} minutes" if cfg.device == "cpu" else f"{seconds / 3600:.3g} hours"


def remedies(cfg: RunConfig, base: RunConfig, device: Device) -> Iterator[str]:
    """Settings to change, one on top of the other, until the run fits or none is left."""
    yield "what would make it fit, each beside those above it:"
    for text, changed in changes(cfg):
        cfg = changed(cfg)
        needed = need(phases.training(cfg, base, device.rates(cfg)))
        yield f"    {text:<58}{needed / 1e9:10.1f} GB"
        if needed <= device.room:
            return
    yield "    and still more: larger devices, or more of them"


def changes(cfg: RunConfig) -> Iterator[tuple[str, object]]:
    """What may be changed, and how."""
    if not cfg.activation_checkpointing and cfg.backbone_facts.recomputes:
        yield "activation_checkpointing: true", lambda c: replace(c, activation_checkpointing=True)
    if cfg.stage == "rl" and cfg.rl.micro_batch > 1:
        for micro in sorted({max(1, cfg.rl.micro_batch // n) for n in (2, 8, cfg.rl.micro_batch)}, reverse=True):
            yield f"rl.micro_batch: {micro}", lambda c, m=micro: replace(c, rl=replace(c.rl, micro_batch=m))
    if cfg.processes > 1 and not cfg.sharding and cfg.backbone_facts.splits and not (cfg.rl and cfg.rl.lora_rank):
        yield f"sharding: true, processes: {cfg.processes}", lambda c: replace(c, sharding=True)
    if (cfg.sharding or cfg.processes > 1) and cfg.stage == "rl" and not cfg.reduce_each_slice:
        yield "reduce_each_slice: true", lambda c: replace(c, reduce_each_slice=c.sharding)
    smaller = max(1, cfg.sampling.memory // 8)
    yield f"sampling.memory: {smaller}", lambda c: replace(c, sampling=replace(c.sampling, memory=smaller))


def table(scale: str, name: str, gpus: int | None, device: Device) -> tuple[list[str], bool]:
    """The lines and whether all fit, as of :func:`plan`, of the runs of a table and of all that these descend from.
    Raises UserError."""
    study = load_study(CATALOGUE, SCALES, {"scale": scale})
    tables, runs = study.catalogue["tables"], study.catalogue["runs"]
    if name not in tables:
        raise UserError(f"--table {name}: expected one of {', '.join(tables)}")
    used = {old for run in runs_read(tables[name]) for old in ancestors(runs, run, "init")}
    lines = [f"{'run':<32}{'seeds':>6}{'devices':>9}{'GB of each':>12}{'time of a seed':>18}{'GB on disk':>12}"]
    base, fits, total = study.resolve("base"), True, Counter()
    trained = [run for run in study.runs(BASE, SFT, "rl") if run in used]
    for run in (run for run in trained if study.resolve(run).source == "train"):
        cfg, found, after = planned(study, run, gpus, device)
        seeds, seconds, rest = len(study.seeds(run)), time(found), time(after)
        weights = [] if cfg.backbone_facts.adapters_only else phases.tensors(phases.unfilled(cfg, base))
        stored = sum(x.nbytes for x in weights)
        fits = fits and need(found) <= device.room
        each = f"{need(found) / 1e9:12.1f}{span(seconds + rest, cfg):>18}{stored / 1e9:12.2f}"
        lines.append(f"{run:<32}{seeds:6}{cfg.launched:9}{each}")
        total.update(all=seeds * (seconds + rest), devices=seeds * (seconds * cfg.launched + rest), disk=seeds * stored)
    summed = f"{span(total['all'], base)} one run after the other, {span(total['devices'], base)} of devices"
    return [*lines, f"sum           {summed}, {total['disk'] / 1e9:,.2f} GB of weights"], fits


def check_fits(cfg: RunConfig, memory_of_device: int) -> None:
    """Raise UserError where the run needs more than ``memory_of_device`` bytes on each of its devices. Runs of adapters
    alone, whose releases only their base knows, are passed over."""
    if cfg.backbone_facts.adapters_only:
        return
    if (needed := need(phases.training(cfg, cfg, Device().rates(cfg)))) > memory_of_device:
        raise UserError(
            f"scale {cfg.scale}: {cfg.run} needs about {needed / 1e9:.1f} GB on each of {cfg.launched} devices, there"
            f" are {memory_of_device / 1e9:.1f}; see unigrpo plan --scale {cfg.scale} --run {cfg.run}"
        )
