"""How long the phases of a training step take.

    python benchmarks/phases.py [--scale NAME | --config FILE [--run DIR]]

The step is that of ``unigrpo.training.loop``, timed between its marks, and that of
``unigrpo.training.supervised_run``, at the sizes of a scale. Without ``--run`` the model is new. Weights
change no speed but through the length of the traces that they write. Every trace then has the length of a plan of four
objects, the longest.
Numbers are medians after one unmeasured warm-up. Prints a table in Markdown and writes all of it as JSON.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `rewards` and `evals`, which are not installed

from rewards._support.learned_model import LearnedReward
from unigrpo.core import seeding
from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import write_json
from unigrpo.core.settings import from_dict, replace, to_dict
from unigrpo.episodes.slices import Networks
from unigrpo.models import checkpoint
from unigrpo.models.base import Trace
from unigrpo.models.mot_model import MoTModel
from unigrpo.models.mot_pieces import Context
from unigrpo.sampling.engine import Decoding
from unigrpo.study import config, provenance
from unigrpo.study.config import RunConfig
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import chosen_run
from unigrpo.training import loop, supervised_run
from unigrpo.training.examples import Steps
from unigrpo.training.launch import accelerate_for
from unigrpo.training.learner import Learner, optimizer_for
from unigrpo.training.supervised_run import Student
from unigrpo.training.validation import validate, validation_jobs
from unigrpo.world import inspector, render, scenes

RUN = "unigrpo"  # the run whose step is measured
LONGEST_TRACE = 4 * scenes.MAX_OBJECTS + 2  # three words an object, commas between, brackets, end token
VALIDATION_GUIDANCE = 2.0  # above 1, as a tuned guidance usually is: two model evaluations a denoising step
INSPECTED = 512  # renders
AMORTISED = "validation"  # not in every step


@dataclass(frozen=True)
class Lap:
    """One measured repetition: seconds, and what was done in them by name (tokens, images, ...)."""

    seconds: float
    done: dict[str, int]


def clock(device: torch.device) -> float:
    """Seconds: on an accelerator after everything that was queued is done, and of the processor where one thread does
    all the work, so that what else runs on the machine does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


class Writer(MoTModel):
    """A model that adds up the time of its writing; with ``in_full`` every trace counts in full, end token or not."""

    in_full = False
    seconds = 0.0

    def think(self, *args) -> tuple[Trace, Context]:
        begun = clock(self.device)
        trace, context = super().think(*args)
        self.seconds += clock(self.device) - begun
        return (Trace(trace.tokens, torch.ones_like(trace.mask)) if self.in_full else trace), context


def training_step(run: Learner, index: int) -> dict[str, Lap]:
    """Rollout ``index`` and its updates, timed by the marks of ``unigrpo.training.loop.learn`` itself."""
    model, before, device = run.nets.model, run.counts["updates"], run.nets.model.device
    model.seconds, ends = 0.0, {"begin": clock(device)}
    rollout = loop.learn(run, index, lambda phase: ends.update({phase: clock(device)})).rollout
    seconds = {name: ends[name] - begun for (name, begun) in zip(list(ends)[1:], ends.values(), strict=False)}
    episodes, laps, painting = len(rollout.prompts), {}, seconds["rollout"]
    if rollout.trace is not None:
        laps["text rollout"] = Lap(model.seconds, {"tokens": int(rollout.trace.mask.sum())})
        painting -= model.seconds
    done = {"images": episodes, "model evaluations": rollout.model_evaluations}
    laps["image rollout"] = Lap(painting, done)
    laps["reward"] = Lap(seconds["reward"], {"images": episodes})
    laps["replay"] = Lap(seconds["replay"], {"episodes": episodes})
    steps = run.counts["updates"] - before
    return laps | {"update": Lap(seconds["update"], {"episodes": episodes, "optimiser steps": steps})}


def rl_step(run: Learner, index: int) -> dict[str, Lap]:
    """A training step, then one validation."""
    laps, nets, rl = training_step(run, index), run.nets, run.cfg.rl
    begun = clock(nets.model.device)
    decoding = Decoding(rl.thinking, VALIDATION_GUIDANCE, 1.0)
    validate(nets.model, run.cfg, decoding, per_prompt=rl.validation_images, proxy=nets.reward)
    seconds = clock(nets.model.device) - begun
    return laps | {AMORTISED: Lap(seconds, {"images": len(validation_jobs(rl.validation_images))})}


def supervised_step(student: Student, index: int) -> dict[str, Lap]:
    """One step of ``unigrpo.training.supervised_run``, drawing and rendering of the examples included."""
    device = student.model.device
    begun = clock(device)
    supervised_run.learn(student, index)
    return {"supervised step": Lap(clock(device) - begun, {"examples": student.cfg.supervised.batch_size})}


def inspection(size: int, index: int) -> dict[str, Lap]:
    """The inspector on renders of 1-4 objects."""
    rng = seeding.numpy_generator(0, "benchmark", index)
    images = render.render([scenes.random_scene(rng, 1 + i % scenes.MAX_OBJECTS) for i in range(INSPECTED)], size)
    begun = clock(torch.device("cpu"))
    inspector.inspect_images(images)
    return {"inspector": Lap(clock(torch.device("cpu")) - begun, {"images": INSPECTED})}


def repeat(work: Callable[[int], dict[str, Lap]], repeats: int) -> dict[str, dict]:
    """Medians of ``repeats`` calls of ``work`` after one warm-up: seconds (with extremes) and amounts per second."""
    work(0)
    rounds = [work(k) for k in range(1, repeats + 1)]
    return {name: summary([laps[name] for laps in rounds]) for name in rounds[0]}


def summary(laps: list[Lap]) -> dict:
    seconds = [lap.seconds for lap in laps]
    speed = {name: statistics.median(lap.done[name] / lap.seconds for lap in laps) for name in laps[0].done}
    extremes = {"fastest": min(seconds), "slowest": max(seconds)}
    return {"seconds": statistics.median(seconds), **extremes, "per_second": speed}


def shares(phases: dict[str, dict], validate_every: int) -> dict[str, float]:
    """Share of each phase in a step; validation counts as a ``validate_every``-th part."""
    cost = {name: p["seconds"] / (validate_every if name == AMORTISED else 1) for name, p in phases.items()}
    return {name: seconds / sum(cost.values()) for name, seconds in cost.items()}


def save_fresh(settings: dict, folder: Path) -> None:
    """A freshly initialised model of the size that a run's ``settings`` give."""
    checkpoint.new_model(from_dict(RunConfig, settings)).save(folder, {})


def load_fresh(cfg: RunConfig, device: torch.device) -> MoTModel:
    """The model of :func:`save_fresh`, made in another process: fitting the codec takes more memory than a step."""
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            other.submit(save_fresh, to_dict(cfg), Path(folder)).result()
        return checkpoint.load_model(folder, device)


def with_longest_traces(cfg: RunConfig) -> RunConfig:
    """For a model that never learned to end a trace."""
    tokens = min(LONGEST_TRACE, cfg.sampling.max_trace_tokens)
    return replace(cfg, sampling=replace(cfg.sampling, max_trace_tokens=tokens))


def training(cfg: RunConfig, start: MoTModel, accelerator, *, in_full: bool) -> Learner:
    """A copy of ``start`` to train, ``start`` as its reference, a learned reward of random weights, the optimiser."""
    policy = copy.deepcopy(start)
    model = Writer(policy.mot, policy.codec, policy.tokenizer, policy.image_size)
    model.in_full = in_full
    optimizer, trained = optimizer_for(model, cfg.rl)
    device = accelerator.device
    judge = LearnedReward(cfg.reward, cfg.model.image_size).to(device).eval().requires_grad_(False)

    def reward(images, prompts):
        return judge(images.to(device), judge.word_ids(prompts).to(device)).sigmoid()

    nets = Networks(model, copy.deepcopy(start).requires_grad_(False), reward)
    return Learner(cfg, nets, optimizer, trained, accelerator)


def circumstances(device: torch.device, threads: int) -> dict:
    """Code, versions and machine of a measurement, for its record."""
    return {
        "source_hash": provenance.source_hash(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measure(cfg: RunConfig, sft: RunConfig, folder: Path | None, repeats: int) -> dict:
    """All measurements of the RL run ``cfg`` and the supervised run ``sft``; ``folder`` holds trained weights."""
    accelerator = accelerate_for(cfg)
    device = accelerator.device
    if folder is None:
        cfg = with_longest_traces(cfg)
    start = load_fresh(cfg, device) if folder is None else checkpoint.load_model(folder, device, cfg.model)
    phases = repeat(partial(rl_step, training(cfg, start, accelerator, in_full=folder is None)), repeats)
    for name, share in shares(phases, cfg.rl.validate_every).items():
        phases[name]["share"] = share

    s = sft.supervised
    average, optimizer = copy.deepcopy(start.network), supervised_run.optimizer_for(start, s)
    others = repeat(partial(supervised_step, Student(sft, start, average, optimizer, accelerator, Steps(sft))), repeats)
    others |= repeat(partial(inspection, cfg.model.image_size), repeats)

    episodes = cfg.rl.prompts_per_rollout * cfg.rl.group_size
    return {
        "scale": cfg.scale,
        "run": cfg.run,
        "weights": "freshly initialised" if folder is None else str(folder),
        "trace_tokens": cfg.sampling.max_trace_tokens if folder is None else None,
        "repeats": repeats,
        "warm_up": 1,
        "sizes": {
            "parameters": sum(p.numel() for p in start.mot.parameters()),
            "latent_numbers": start.latent_shape[0] * start.latent_shape[1],
            "episodes": episodes,
            "denoising_steps": cfg.rl.n_steps,
            "window_size": cfg.rl.window_size,
            "optimiser_steps": cfg.rl.epochs,
            "validate_every": cfg.rl.validate_every,
        },
        "phases": phases,
        "others": others,
        "peak_memory_mb": round(provenance.peak_memory_mb(), 1),
        "provenance": circumstances(device, cfg.threads),
    }


def table(result: dict) -> str:
    """The measurements as a Markdown table."""
    lines = ["| phase | seconds | share of a step | speed |", "|---|---:|---:|---|"]
    for name, row in (result["phases"] | result["others"]).items():
        speed = ", ".join(f"{v:,.{0 if v >= 10 else 1}f} {what}/s" for what, v in row["per_second"].items())
        share = f"{row['share']:.1%}" if "share" in row else ""
        lines.append(f"| {name} | {row['seconds']:.3f} | {share} | {speed} |")
    lines.append(f"| peak memory | | | {result['peak_memory_mb']:,.0f} MB |")
    return "\n".join(lines)


def configurations(scale: str, file: Path | None) -> tuple[RunConfig, RunConfig]:
    """The RL run to measure, of ``file`` or the catalogue, and the SFT run of the same scale. Raises UserError."""
    cfg = config.load(file) if file else None
    if cfg and cfg.stage != "rl":
        raise UserError(f"{file}: stage: expected 'rl', got {cfg.stage!r}")
    name = cfg.scale if cfg else scale
    return tuple(cfg if cfg and run == RUN else chosen_run(name, run, 0, None)[1] for run in (RUN, "sft"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the phases of a training step.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scale", default="cpu", help="file in pipelines/scales (default: cpu)")
    what.add_argument("--config", type=Path, help="resolved configuration of an RL run (JSON) in place of a scale")
    parser.add_argument("--run", type=Path, help="folder with the trained weights of that run; needs --config")
    parser.add_argument("--repeats", type=int, default=5, help="measured repetitions (default: 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "phases.json")
    args = parser.parse_args()
    if args.run and not args.config:
        parser.error("--run needs --config")
    if args.repeats < 1:
        parser.error("--repeats: expected at least 1")
    result = measure(*configurations(args.scale, args.config), args.run, args.repeats)
    write_json(args.out, result)
    print(table(result))


if __name__ == "__main__":
    in_one_line(main)
