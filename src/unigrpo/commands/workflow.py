"""Verbs that start the workflow, plan a run, and do the steps of a study other than judging."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from unigrpo import sampling, study, tools, training
from unigrpo.commands import START, Scale, app, chosen_model, writes
from unigrpo.core import distributed, files, registry, settings
from unigrpo.core.errors import UserError, error_prefix

STEPS = "Steps of a study"
DEMO = "demo"  # a run of the catalogue, and the group of what shows it
OF_A_RUN = ("run.json", "metrics.jsonl", "model.*", "state", "*lock*")  # names in the folder of a run
Name = Annotated[str, typer.Argument(help="Run of the catalogue.")]
Cores = Annotated[int, typer.Option(min=1, help="CPU cores to use.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds; the scale's without it.")]
Words = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="WORD", help="code=keep, state=anew, weights=accept or published=use."),
]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
ChosenScale = Annotated[str | None, typer.Option(help="Scale, a file of pipelines/scales.")]
ChosenRun = Annotated[str | None, typer.Option(help="Run of the catalogue.")]
SftRun = Annotated[str | None, typer.Option(help="SFT run of the catalogue.")]
Config = Annotated[Path | None, typer.Option(help="Resolved configuration (JSON), for --scale and --run.")]
Section = Annotated[
    Literal["reward", "weak_reward", "preference_reward"], typer.Option(help="Section of the configuration.")
]
Model = Annotated[Path, typer.Option(help="Folder of the trained run.")]


@app.command(rich_help_panel=START)
def reproduce(
    scale: Scale = "cpu",
    cores: Cores = 2,
    seeds: Seeds = None,
    group: Annotated[str | None, typer.Option(help="Make the tables and figures of this group alone.")] = None,
    words: Words = None,
) -> None:
    """Train, evaluate and report everything of a scale. An interrupted call is continued by the same call."""
    tools.reproduce.reproduce("one_group" if group else "all", cores, scale, words, seeds=seeds, group=group)
    print(f"\nresults/{scale}/index.html shows claims, tables, figures, gallery and cost")


@app.command(rich_help_panel=START)
def run(name: Name, scale: Scale = "cpu", cores: Cores = 2, seeds: Seeds = None, words: Words = None) -> None:
    """Train and evaluate one run, after what it descends from."""
    tools.reproduce.reproduce("one_run", cores, scale, words, seeds=seeds, run=name)
    print(f"\nrun      results/{scale}/runs/{name}/seed*/")


@app.command(rich_help_panel=START)
def demo(
    method: Annotated[str | None, typer.Option(help="Your method, a file of src/unigrpo/methods, beside it.")] = None,
    reward: Annotated[str | None, typer.Option(help="Your reward, a file of rewards, beside it.")] = None,
    rollouts: Annotated[int | None, typer.Option(min=1, help="Rollouts; the catalogue's without it.")] = None,
    scale: Scale = "cpu",
    cores: Cores = 2,
    words: Words = None,
) -> None:
    """Train a short UniGRPO from a shipped start, and show it beside SFT on held-out prompts."""
    lines: dict[str, dict] = {DEMO: {"rollouts": rollouts}} if rollouts else {}
    own = {key: value for key, value in {"method": method, "reward": reward}.items() if value}
    if own:
        said = ", ".join(f"{key} {value}" for key, value in own.items())
        name = "_".join([DEMO, *(word for pair in own.items() for word in pair)]).lower()
        lines[name] = {"like": DEMO, "label": said[0].upper() + said[1:]} | own
    if method:
        facts = study.facts.METHODS.load(method, "--method").FACTS
        lines[name] |= {"train": [*max(facts.trains, key=len)]}
        lines[name] |= {} if facts.noise_inside else {"same_noise": False}
    os.environ[study.resolve.LINES] = json.dumps(lines)
    tools.reproduce.reproduce("one_group", cores, scale, words, seeds=1, group=DEMO)
    print(f"\nresults/{scale}/tables/{DEMO}.md          what the run gained over SFT, with intervals")
    print(f"results/{scale}/figures/{DEMO}.png        twelve prompts before and after")
    print(f"results/{scale}/gallery_{DEMO}/index.html  all prompts")


@app.command(rich_help_panel=START)
def publish(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Runs; all without any.")] = None,
    scale: Scale = "cpu",
    replace: Annotated[bool, typer.Option("--replace", help="Write over lines of other content.")] = False,
) -> None:
    """Write finished runs into results/reference/<scale>/published, without weights, to commit: see --with."""
    for said in study.published.publish(study.resolve.chosen_study(scale), runs or [], replace):
        print(said)


@app.command(rich_help_panel=START)
def plan(
    scale: Scale,
    run: Annotated[str, typer.Option(help="Run of the catalogue.")] = "unigrpo",
    table: Annotated[str | None, typer.Option(help="Sum over the runs of this table, for --run.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Devices, one process each; the scale's without it.")] = None,
    gpu_memory: Annotated[float, typer.Option(help="GB of one of them.")] = 80,
    tflops: Annotated[
        float | None, typer.Option(help="10^12 operations a second of one; 40 in fp32, 300 in bf16, 0.05 a CPU core.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="TB a second at which one reads its memory; 3, of a CPU 0.01.")
    ] = None,
) -> None:
    """Show what a run needs and whether it fits, before anything is loaded; exit code 1 where it does not fit."""
    from unigrpo.planning import plan

    device = plan.Device(gpu_memory, tflops, bandwidth)
    lines, fits = plan.table(scale, table, gpus, device) if table else plan.plan(scale, run, gpus, device)
    print("\n".join(lines))
    if not fits:
        raise typer.Exit(1)


@app.command(rich_help_panel=START)
def base(scale: Scale = "cpu", cores: Cores = 2) -> None:
    """Train what reinforced runs of a scale start from, the base and a start a seed, and put it into assets."""
    tools.reproduce.reproduce("ship", cores, scale, starts="train")
    print("\nbase     assets/base\nstarts   assets/starts")


@app.command(rich_help_panel=STEPS)
def train(
    out: Annotated[Path, writes("Folder of the run, to write.", *OF_A_RUN, folder=True)],
    scale: ChosenScale = None,
    run: Annotated[str | None, typer.Option(help="Run of the catalogue; it says the stage.")] = None,
    seed: Seed = 0,
    config: Config = None,
    init: Annotated[Path | None, typer.Option(help="Folder of the parent run; the base has none.")] = None,
    reward: Annotated[Path | None, typer.Option(help="Folder of the learned reward, where one is trained on.")] = None,
    decoding: Annotated[Path | None, typer.Option(help="decoding.json, for the validation of reinforcement.")] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="WORD", help="state=anew gives up what does not fit, code=keep lets code differ."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration, do nothing else.")] = False,
) -> None:
    """Train one run: reinforcement of the text part, the image part or both, or a supervised stage.

    A training that was stopped or killed continues when the same command is given again, and a finished reinforced run
    goes on when more rollouts are asked for.
    """
    chosen_words = {"anew": "state=anew" in (words or ()), "keep_code": "code=keep" in (words or ())}
    if unknown := set(words or ()) - {"state=anew", "code=keep"}:
        raise UserError(f"--with {min(unknown)}: expected state=anew or code=keep")
    where, cfg = study.resolve.chosen_run(scale, run, seed, config)
    reinforced = cfg.stage == "rl"
    settings.require(cfg.ceiling is None, where, "a run that is trained, it is a ceiling")
    for option, value, needed, what in (
        ("--init", init, cfg.stage != "base", "the folder of the parent run"),
        ("--decoding", decoding, reinforced, "decoding.json"),
    ):
        if needed != (value is not None):
            raise UserError(f"{option}: expected {what if needed else 'nothing'} for the stage of {where}")
    with error_prefix(where):
        study.config.check_together(cfg)
        if reinforced:
            pool = study.training_inputs.training_pool(cfg)
            training.task.draw_prompts(cfg.seed, 0, cfg.rl.prompts_per_rollout, pool)
    chosen = sampling.engine.read_decoding(decoding)["think" if cfg.rl.thinking else "direct"] if reinforced else None
    if dry_run:
        return print(json.dumps(settings.to_dict(cfg), indent=2))
    held = study.provenance.read_record(out)
    if held and any(held.get(key) != getattr(cfg, key) for key in ("run", "seed", "scale")):
        other = ", ".join(f"{key} {held.get(key)}" for key in ("run", "seed", "scale"))
        raise UserError(f"--out {out}: holds {other}, expected a folder of {where}'s own")
    training.launch.check_launch(cfg)
    training.launch.check_devices(cfg)
    if cfg.source != "train":
        return training.supervised_run.adopt(cfg, out)
    if (room := training.launch.device_memory(cfg)) is not None:
        from unigrpo.planning import plan  # which runs a step without numbers

        plan.check_fits(cfg, room)
    if reinforced:
        return _reinforce(cfg, out, init, reward, decoding, chosen, **chosen_words)
    training.supervised_run.train(cfg, out, init, **chosen_words)


def _reinforce(cfg, out: Path, init: Path, reward_folder: Path | None, file: Path, decoding, **words) -> None:
    """Reinforcement; or nothing but a record, where the parent has collapsed."""
    from unigrpo.judges import reward as rewards

    training.launch.join_others(cfg)  # before a reward is loaded onto this process's device
    if (reason := training.reinforcement_run.fate_of(init)) is not None:
        run = training.reinforcement_run
        return run.pass_on(cfg, out, init, reason, words["anew"]) if distributed.is_main() else None
    options, source = training.task.reward_source(cfg.rl.reward, reward_folder, cfg.rl.reward_options)
    reward = rewards.load(cfg.rl.reward, **options)
    inputs = {"decoding": file} | {str(path): path for path in study.training_inputs.named_files(cfg.rl.reward_options)}
    inputs |= {name: path for name, path in reward.files.items() if name != str(path)}  # of the hub
    inputs |= {"reward": source} if source.suffix != ".py" else {}  # whose code each piece of the run records
    inputs |= {} if cfg.rl.prompt_file is None else {"prompt_file": Path(cfg.rl.prompt_file)}
    training.reinforcement_run.train(cfg, out, init, reward, decoding, inputs, **words)


@app.command(rich_help_panel=STEPS)
def reward_data(
    init: Annotated[Path, typer.Option(help="Folder of the SFT run.")],
    out: Annotated[
        Path, writes("Sample folder, to write.", "manifest.jsonl", "protocol.json", "images.npy", folder=True)
    ],
    scale: ChosenScale = None,
    run: SftRun = None,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Sample the SFT model for the training of the learned reward."""
    with chosen_model(scale, run, seed, config, init) as (cfg, network):
        training.reward_samples.sample_for_reward(network, cfg, out)


@app.command(rich_help_panel=STEPS)
def train_reward(
    data: Annotated[Path, typer.Option(help="Sample folder of the SFT run.")],
    out: Annotated[Path, writes("Folder to write.", "report.json", "data", folder=True)],
    scale: ChosenScale = None,
    run: SftRun = None,
    seed: Seed = 0,
    config: Config = None,
    settings: Section = "reward",
) -> None:
    """Train the learned reward on renders and on samples of the SFT run."""
    from rewards._support.learned_training import train

    _, cfg = study.resolve.chosen_run(scale, run or (study.catalogue.SFT if config is None else None), seed, config)
    train(cfg, settings, data, out)


@app.command(rich_help_panel=STEPS)
def tune(
    model: Model,
    out: Annotated[Path, writes("decoding.json, to write.", "decoding.json")],
    scale: ChosenScale = None,
    run: ChosenRun = None,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Choose guidance of both modes, and temperature, on validation prompts."""
    with chosen_model(scale, run, seed, config, model) as (cfg, network):
        chosen = sampling.decoding.tune(network, cfg)
        if distributed.is_main():
            files.write_json(out, chosen)


@app.command(rich_help_panel=STEPS)
def sample_sets(
    model: Model,
    decoding: Annotated[Path, typer.Option(help="decoding.json.")],
    mode: Annotated[list[str], typer.Option(help="How the run is evaluated: think, direct; may be repeated.")],
    out: Annotated[Path, writes("Folder of the sets, to write.", "done.json", "*.*.*", folder=True)],
    scale: ChosenScale = None,
    run: ChosenRun = None,
    seed: Seed = 0,
    config: Config = None,
    group: Annotated[str | None, typer.Option(help="Group of benchmarks; those of every run without it.")] = None,
) -> None:
    """Sample every evaluation set of a run."""
    modes = sampling.sets.MODES
    for given in mode:
        if given not in modes:
            raise UserError(f"--mode {given}: no such mode{registry.nearest(given, modes)}")
    chosen = sampling.engine.read_decoding(decoding)
    with chosen_model(scale, run, seed, config, model) as (cfg, network):
        sampling.sets.sample_sets(network, cfg, model, chosen, mode, out, group)


@app.command(rich_help_panel=STEPS)
def ship(scale: Scale = "cpu") -> None:
    """Copy the base and the starts of a scale, as far as they are finished, into assets."""
    for said in study.starts.ship(study.resolve.chosen_study(scale)):
        print(said)


@app.command(rich_help_panel=STEPS)
def take_images(
    run: Annotated[str, typer.Option(help="Run of the catalogue whose line names images.")],
    out: Annotated[Path, writes("Folder of the sets, to write.", "done.json", "*.*.*", folder=True)],
    pictures: Annotated[Path | None, typer.Option(help="Where they lie, as its line says.")] = None,
    scale: Scale = "cpu",
    seed: Seed = 0,
) -> None:
    """Take the images that another program has made as the evaluation sets of a run."""
    from evals import outside

    chosen = study.resolve.chosen_study(scale)
    if run not in chosen.runs(study.catalogue.OUTSIDE):
        raise UserError(f"--run {run}: expected a run whose line names images")
    print("\n".join(outside.take(chosen, run, seed, pictures or chosen.outside(run, seed), out)))


@app.command(rich_help_panel=STEPS)
def train_detector(
    out: Annotated[Path, writes("Folder for detector.safetensors and detector.json.", "detector.json", folder=True)],
) -> None:
    """Train the second evaluator."""
    import torch

    from unigrpo.judges import detector

    torch.set_num_threads(1)
    print(detector.make(out, steps=2000, batch=64, seed=0))


@app.command(rich_help_panel=STEPS)
def steps(folder: Annotated[Path, typer.Argument(help="Results of a scale, results/<scale>.")]) -> None:
    """Collect what every step has used (steps/) into steps.csv."""
    tools.reproduce.collect_steps(folder)
    print(f"wrote {folder / 'steps.csv'}")
