"""How the phases of a training step grow with group size, prompts, denoising steps, model width and guidance.

    python benchmarks/scaling.py [--scale NAME] [--repeats 3]

One axis at a time around the sizes of a scale, everything else as ``phases.py`` measures it: a freshly initialised
model, traces of the longest plan. Every point has a process of its own, so that its peak memory is its own. Prints a
table in Markdown, writes all of it as JSON and draws it beside that file.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import matplotlib

from unigrpo.core.settings import from_dict, replace, to_dict

matplotlib.use("Agg")

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`, which is not installed

from benchmarks import phases
from unigrpo.core.errors import in_one_line
from unigrpo.core.files import write_json
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig
from unigrpo.study.provenance import ROOT
from unigrpo.training.launch import accelerate_for

COLOURS = ("#0072B2", "#E69F00", "#999999", "#009E73", "#CC79A7")  # of the phases; told apart by the colour-blind


def points(cfg: RunConfig) -> dict[str, dict[float, RunConfig]]:
    """Axis -> value -> configuration. The value that ``cfg`` has itself is among those of every axis."""
    rl, model = cfg.rl, cfg.model

    def with_rl(name: str, values) -> dict[float, RunConfig]:
        return {value: replace(cfg, rl=replace(rl, **{name: value})) for value in values}

    widths = {
        model.hidden_size * k // 2: replace(
            model, hidden_size=model.hidden_size * k // 2, intermediate_size=model.intermediate_size * k // 2
        )
        for k in (1, 2, 4)
    }
    return {
        "group size": with_rl("group_size", [rl.group_size * k // 2 for k in (1, 2, 4)]),
        "prompts": with_rl("prompts_per_rollout", [rl.prompts_per_rollout * k // 2 for k in (1, 2, 4)]),
        "denoising steps": with_rl("steps", [rl.steps * k for k in (1, 2, 4)]),
        "model width": {width: replace(cfg, model=sizes) for width, sizes in widths.items()},
        "guidance": with_rl("guidance", [1.0, 2.0]),
    }


def measure(settings: dict, repeats: int) -> dict:
    """The phases of a training step of a run with these settings, its rates, and the memory of this process."""
    cfg = phases.with_longest_traces(from_dict(RunConfig, settings))
    accelerator = accelerate_for(cfg)
    start = phases.load_fresh(cfg, accelerator.device)
    work = partial(phases.training_step, phases.training(cfg, start, accelerator, in_full=True))
    measured = phases.repeat(work, repeats)
    step = sum(row["seconds"] for row in measured.values())
    return {
        "parameters": sum(p.numel() for p in start.mot.parameters()),
        "seconds": step,
        "images_per_second": cfg.rl.prompts_per_rollout * cfg.rl.group_size / step,
        "tokens_per_second": measured["text rollout"]["per_second"]["tokens"],
        "model_evaluations_per_second": measured["image rollout"]["per_second"]["model evaluations"],
        "peak_memory_mb": round(provenance.peak_memory_mb(), 1),
        "phases": measured,
    }


def alone(cfg: RunConfig, repeats: int) -> dict:
    """:func:`measure` in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(measure, to_dict(cfg), repeats).result()


def sweep(cfg: RunConfig, repeats: int) -> dict:
    """All points; ``cfg`` itself, which lies on every axis, is measured once."""
    base = alone(cfg, repeats)
    axes = {
        axis: [{"value": value, **(base if point == cfg else alone(point, repeats))} for value, point in values.items()]
        for axis, values in points(cfg).items()
    }
    return {
        "scale": cfg.scale,
        "run": cfg.run,
        "repeats": repeats,
        "warm_up": 1,
        "axes": axes,
        "provenance": phases.circumstances(accelerate_for(cfg).device, cfg.threads),
    }


def table(result: dict) -> str:
    """The points as a Markdown table: seconds of the phases, rates, memory."""
    names = list(next(iter(result["axes"].values()))[0]["phases"])
    head = ["axis", "value", *names, "step", "images/s", "tokens/s", "evaluations/s", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for axis, rows in result["axes"].items():
        for row in rows:
            seconds = [f"{row['phases'][name]['seconds']:.3f}" for name in names]
            rates = ("images_per_second", "tokens_per_second", "model_evaluations_per_second", "peak_memory_mb")
            shown = [f"{row['value']:g}", *seconds, f"{row['seconds']:.2f}", *(f"{row[name]:,.0f}" for name in rates)]
            lines.append(f"| {axis} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def draw(result: dict, out: Path) -> None:
    """Stacked seconds of the phases, one panel an axis."""
    axes = result["axes"]
    figure, panels = plt.subplots(1, len(axes), figsize=(11, 3), sharey=True, layout="constrained")
    for panel, (axis, rows) in zip(panels, axes.items(), strict=True):
        below = [0.0] * len(rows)
        for colour, name in zip(COLOURS, rows[0]["phases"], strict=True):
            seconds = [row["phases"][name]["seconds"] for row in rows]
            panel.bar([f"{row['value']:g}" for row in rows], seconds, bottom=below, color=colour, label=name)
            below = [a + b for a, b in zip(below, seconds, strict=True)]
        panel.set_xlabel(axis)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds of a training step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the phases of a training step grow.")
    parser.add_argument("--scale", default="cpu", help="file in pipelines/scales (default: cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="measured repetitions (default: 3)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scaling.json")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats: expected at least 1")
    result = sweep(phases.configurations(args.scale, None)[0], args.repeats)
    write_json(args.out, result)
    draw(result, args.out.with_suffix(".png"))
    print(table(result))


if __name__ == "__main__":
    in_one_line(main)
