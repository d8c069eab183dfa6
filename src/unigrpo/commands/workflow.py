"""Verbs that start the workflow, plan a run, and do the steps of a study that neither train nor judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unigrpo.commands import START

app = typer.Typer()
STEPS = "Steps of a study"
Scale = Annotated[str, typer.Option(help="Scale, a file of pipelines/scales.")]
Cores = Annotated[int, typer.Option(min=1, help="CPU cores to use.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds; the scale's without it.")]
Run = Annotated[str, typer.Option(help="Run of the catalogue.")]
Chosen = Annotated[str | None, typer.Option(help="Scale, a file of pipelines/scales.")]
ChosenRun = Annotated[str | None, typer.Option(help="Run of the catalogue.")]
Config = Annotated[Path | None, typer.Option(help="Resolved configuration (JSON), for --scale and --run.")]
Model = Annotated[Path, typer.Option(help="Folder of the trained run.")]


@app.command(rich_help_panel=START)
def reproduce(
    scale: Scale = "cpu",
    cores: Cores = 2,
    seeds: Seeds = None,
    group: Annotated[
        str | None, typer.Option(help="Make the tables and figures of this group, and the claims, alone.")
    ] = None,
) -> None:
    """Train, evaluate and report everything of a scale. An interrupted call is continued by the same call."""
    from unigrpo.tools import reproduce

    reproduce.reproduce("one_group" if group else "all", cores, scale=scale, seeds=seeds, group=group)
    places = {"claims": "claims.md", "tables": "tables/", "figures": "figures/", "gallery": "gallery/index.html"}
    print("", *(f"{what:8} results/{scale}/{place}" for what, place in places.items()), sep="\n")


@app.command(rich_help_panel=START)
def run(
    name: Annotated[str, typer.Argument(help="Run of the catalogue.")],
    scale: Scale = "cpu",
    cores: Cores = 2,
    seeds: Seeds = None,
) -> None:
    """Train and evaluate one run, after what it descends from."""
    from unigrpo.tools.reproduce import reproduce

    reproduce("one_run", cores, scale=scale, seeds=seeds, run=name)
    print(f"\nrun      results/{scale}/runs/{name}/seed*/")


@app.command(rich_help_panel=START)
def plan(
    scale: Scale,
    run: Run = "unigrpo",
    gpus: Annotated[int | None, typer.Option(min=1, help="Devices, one process each; the scale's without it.")] = None,
    gpu_memory: Annotated[float, typer.Option(help="GB of one of them.")] = 80,
    tflops: Annotated[
        float | None, typer.Option(help="10^12 operations a second that one reaches; 40 in fp32 and 300 in bf16.")
    ] = None,
    bandwidth: Annotated[float, typer.Option(help="TB a second at which one reads its memory.")] = 3,
) -> None:
    """Show what a run needs and whether it fits, before anything is loaded; exit code 1 where it does not fit."""
    from unigrpo.planning import plan

    lines, fits = plan.plan(scale, run, gpus, gpu_memory, tflops, bandwidth)
    print("\n".join(lines))
    if not fits:
        raise typer.Exit(1)


@app.command(rich_help_panel=START)
def base(scale: Scale = "cpu", cores: Cores = 2) -> None:
    """Train the base of a scale and put it into assets/base."""
    from unigrpo.tools.reproduce import reproduce

    reproduce("ship_base", cores, scale=scale)
    print("\nbase     assets/base")


@app.command(rich_help_panel=STEPS)
def tune(
    model: Model,
    out: Annotated[Path, typer.Option(help="decoding.json, to write.")],
    scale: Chosen = None,
    run: ChosenRun = None,
    config: Config = None,
) -> None:
    """Choose guidance and temperature on validation prompts."""
    from unigrpo.core.files import write_json
    from unigrpo.sampling.decoding import tune as choose

    cfg, network = _loaded(scale, run, 0, config, model)
    write_json(out, choose(network, cfg))


@app.command(rich_help_panel=STEPS)
def sample_sets(
    model: Model,
    decoding: Annotated[Path, typer.Option(help="decoding.json.")],
    mode: Annotated[list[str], typer.Option(help="How the run is evaluated: think, direct, greedy; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the sets, to write.")],
    scale: Chosen = None,
    run: ChosenRun = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    config: Config = None,
) -> None:
    """Sample every evaluation set of a run."""
    from unigrpo.core.errors import UserError
    from unigrpo.core.registry import nearest
    from unigrpo.sampling import sets
    from unigrpo.sampling.engine import read_decoding

    for given in mode:
        if given not in sets.MODES:
            raise UserError(f"--mode {given}: no such mode{nearest(given, sets.MODES)}")
    chosen = read_decoding(decoding)
    cfg, network = _loaded(scale, run, seed, config, model)
    sets.sample_sets(network, cfg, model, chosen, mode, out)


@app.command(rich_help_panel=STEPS)
def ship_base(
    run: Annotated[Path, typer.Option(help="Folder of the finished run.")],
    out: Annotated[Path, typer.Option(help="Folder, to write.")],
) -> None:
    """Make a trained run shippable: weights in half precision, with the record of the training."""
    from unigrpo.tools.ship import ship

    ship(run, out)


@app.command(rich_help_panel=STEPS)
def hand_out(
    out: Annotated[Path, typer.Option(help="Folder of sample sets: results/<scale>/runs/<name>/seed<k>/samples.")],
    images_per_prompt: Annotated[int, typer.Option(min=1, help="As the scale's sampling.")] = 4,
) -> None:
    """Write the prompts of the benchmarks as folders that another program fills with pictures."""
    from unigrpo.tools.hand_out import hand_out

    print("\n".join(hand_out(out, images_per_prompt)))


@app.command(rich_help_panel=STEPS)
def train_detector(
    out: Annotated[Path, typer.Option(help="Folder for detector.safetensors and detector.json.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2000,
    batch: Annotated[int, typer.Option(help="Renders a step.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and renders.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train the second evaluator."""
    import torch

    from unigrpo.judges import detector

    torch.set_num_threads(threads)
    print(detector.make(out, steps, batch, seed))


@app.command(rich_help_panel=STEPS)
def steps(folder: Annotated[Path, typer.Argument(help="Results of a scale, results/<scale>.")]) -> None:
    """Collect what every step has used (benchmarks/) into steps.csv."""
    from unigrpo.tools.steps import collect

    collect(folder)
    print(f"wrote {folder / 'steps.csv'}")


def _loaded(scale: str | None, run: str | None, seed: int, config: Path | None, folder: Path):
    """The configuration of a run, and its model."""
    from unigrpo.models import checkpoint
    from unigrpo.study.run_choice import chosen_run
    from unigrpo.training.launch import accelerate_for

    _, cfg = chosen_run(scale, run, seed, config)
    return cfg, checkpoint.load_model(folder, accelerate_for(cfg).device, cfg.model).eval()
