"""``unigrpo train``: every stage of training, the base, supervised fine-tuning and reinforcement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(rich_help_panel="Steps of a study")
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run, to write.")],
    scale: Annotated[str | None, typer.Option(help="Scale, a file of pipelines/scales.")] = None,
    run: Annotated[str | None, typer.Option(help="Run of the catalogue; it says the stage.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    config: Annotated[Path | None, typer.Option(help="Resolved configuration (JSON), for --scale and --run.")] = None,
    init: Annotated[Path | None, typer.Option(help="Folder of the parent run; the base has none.")] = None,
    reward: Annotated[Path | None, typer.Option(help="Folder of the learned reward, where one is trained on.")] = None,
    decoding: Annotated[Path | None, typer.Option(help="decoding.json, for the validation of reinforcement.")] = None,
    tracker: Annotated[str | None, typer.Option(help="Also log to this tracker, e.g. tensorboard.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print configuration and cost, do nothing else.")] = False,
) -> None:
    """Train one run: reinforcement of the text part, the image part or both, or a supervised stage.

    A killed training continues from its last checkpoint when the same command is given again.
    """
    import json

    from unigrpo.core.errors import UserError
    from unigrpo.core.settings import replace
    from unigrpo.planning import plan
    from unigrpo.sampling.engine import read_decoding
    from unigrpo.study.config import check_processes
    from unigrpo.study.prompt_pool import training_pool
    from unigrpo.study.run_choice import chosen_run
    from unigrpo.training import launch, supervised_run, task

    where, cfg = chosen_run(scale, run, seed, config)
    reinforced = cfg.stage == "rl"
    needs = ("--init", init, cfg.stage != "base"), ("--decoding", decoding, reinforced)
    for option, value, needed in needs:
        if needed != (value is not None):
            what = {"--init": "the folder of the parent run", "--decoding": "decoding.json"}[option]
            raise UserError(f"{option}: expected {what if needed else 'nothing'} for the stage of {where}")
    try:
        check_processes(cfg)
        if reinforced:
            task.draw_prompts(cfg.seed, 0, cfg.rl.prompts_per_rollout, training_pool(cfg))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    chosen = replace(read_decoding(decoding), thinking=cfg.rl.thinking) if reinforced else None
    if dry_run:
        return print(json.dumps(plan.preview(cfg, chosen.guidance if reinforced else 1.0), indent=2))
    launch.check_launch(cfg)
    launch.check_devices(cfg)
    if cfg.source == "released":
        return supervised_run.adopt(cfg, out)
    plan.check_fits(cfg, launch.device_memory(cfg))
    if reinforced:
        return _reinforce(cfg, out, init, reward, decoding, chosen, tracker)
    supervised_run.train(cfg, out, init, tracker)


def _reinforce(cfg, out: Path, init: Path, reward_folder: Path | None, file: Path, decoding, tracker) -> None:
    """Reinforcement; or nothing but a record, where the parent has collapsed."""
    from unigrpo.core import distributed
    from unigrpo.judges import reward as rewards
    from unigrpo.study import run_folder
    from unigrpo.study.resolve import training_fingerprint
    from unigrpo.training import launch, reinforcement_run, task

    launch.join_others(cfg)  # before a reward is loaded onto this process's device
    if (reason := reinforcement_run.fate_of(init)) is not None:
        return reinforcement_run.pass_on(cfg, out, init, reason) if distributed.is_main() else None
    options, source = task.reward_source(cfg.rl.reward, reward_folder, cfg.rl.reward_options)
    reward = rewards.load(cfg.rl.reward, **options)
    inputs = [run_folder.weights(init), source, file]
    inputs += [] if cfg.rl.prompt_file is None else [Path(cfg.rl.prompt_file)]
    settings = training_fingerprint(cfg, *inputs, *rewards.inputs(cfg.rl.reward_options))
    reinforcement_run.train(cfg, out, init, reward, decoding, settings, tracker)


@app.command(rich_help_panel="Steps of a study")
def reward_data(
    init: Annotated[Path, typer.Option(help="Folder of the SFT run.")],
    out: Annotated[Path, typer.Option(help="Sample folder, to write.")],
    scale: Annotated[str | None, typer.Option(help="Scale, a file of pipelines/scales.")] = None,
    run: Annotated[str | None, typer.Option(help="SFT run of the catalogue.")] = None,
    config: Annotated[Path | None, typer.Option(help="Resolved configuration (JSON), for --scale and --run.")] = None,
) -> None:
    """Sample the SFT model for the training of the learned reward."""
    from unigrpo.study.run_choice import chosen_run
    from unigrpo.training.reward_samples import sample_for_reward

    sample_for_reward(chosen_run(scale, run, 0, config)[1], init, out)
