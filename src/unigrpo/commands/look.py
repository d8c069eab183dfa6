"""Verbs for what is there: a model, runs, images that are judged, the machine."""

import ctypes
import json
import math
import os
from contextlib import suppress
from inspect import Signature, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal, get_type_hints

import typer

from unigrpo import study, tools
from unigrpo.commands import Scale, Verbs, app, chosen_model, writes
from unigrpo.core import files, settings
from unigrpo.core.errors import UserError, error_prefix

MODELS, RUNS, JUDGE = "Models", "Runs", "Judge"
Checkpoint = Annotated[Path, typer.Argument(help="Model folder: a run, an exported one, or assets/base.")]
Images = Annotated[Path, typer.Option(help="Sample folder, folder in GenEval's layout, or JSON file {prompt: image}.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")]


@app.command(rich_help_panel=MODELS)
def sample(
    checkpoint: Checkpoint,
    prompt: Annotated[str | None, typer.Argument(help="What to paint.")] = None,
    out: Annotated[Path, writes("Picture to write; its ending chooses the format.", "sample.png")] = Path("sample.png"),
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with `prompt`: one image of each.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and text.")] = 0,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance, 1 is none.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Temperature of the trace, 0 is greedy.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the run's without it.")] = None,
    thinking: Annotated[bool, typer.Option(help="Write a trace before painting.")] = True,
    grid: Annotated[int, typer.Option(min=1, help="Paint N x N samples of the prompt.")] = 1,
    enlarge: Annotated[int, typer.Option(min=1, help="Pixels per pixel in the file.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto; the run's without it.")] = None,
    precision: Annotated[str | None, typer.Option(help="no (fp32) or bf16; the run's without it.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest trace in tokens; the run's without it.")] = None,
) -> None:
    """Write a trace and paint a picture, for a prompt or for every prompt of a file."""
    from unigrpo.world.prompts import read_prompts

    if (prompt is None) == (prompts is None):
        raise UserError("expected either a prompt or --prompts")
    picture = tools.api.picture_format(out)
    model = tools.api.load(checkpoint, device, precision, max_tokens)
    if prompts is None:
        jobs, columns = [(tools.api.as_prompt(prompt), k) for k in range(grid**2)], grid
    else:
        jobs = [(row, 0) for row in read_prompts(prompts)]
        columns = math.ceil(math.sqrt(len(jobs)))
        with error_prefix(prompts):
            model.network.prompt_ids([row.text for row, _ in jobs])
    paintings = model.generate_all(
        jobs, thinking=thinking, guidance=guidance, temperature=temperature, steps=steps, seed=seed
    )
    for painting in paintings:
        if prompts is not None:
            print(f"{painting.prompt.text}: {painting.trace or ''}")
        elif painting.trace is not None:
            print(painting.trace)
    sheet = tools.api.picture_sheet([p.image for p in paintings], columns, enlarge)
    with files.replacing(out) as temporary:
        sheet.save(temporary, format=picture)
    print(f"wrote {out}")


@app.command(rich_help_panel=MODELS)
def inspect(checkpoint: Checkpoint, json: Json = False) -> None:
    """Show what a checkpoint is and where it comes from, without loading it."""
    _print(tools.describe.checkpoint(checkpoint), tools.describe.checkpoint_lines, json)


@app.command(rich_help_panel=MODELS)
def export(
    run: Annotated[Path, typer.Argument(help="Folder of the finished run.")],
    out: Annotated[Path, writes("Folder to make.", folder=True, kind=typer.Argument)],
    at: Annotated[
        str | None, typer.Option(help="A validation whose weights were kept, by its update, or `best` by its gold.")
    ] = None,
) -> None:
    """Put a run's checkpoint into a folder of its own, with a model card."""
    tools.export.export(run, out, at)
    print(f"wrote {out}")


@app.command(rich_help_panel=RUNS)
def diff(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what is equal too.")] = False,
) -> None:
    """Show two runs side by side: the settings and the provenance that differ."""
    print("\n".join(tools.describe.side_by_side(run_a, run_b, everything)))


@app.command(rich_help_panel=RUNS)
def variance(
    folder: Annotated[Path, typer.Argument(help="Folder of the policy to measure.")],
    scale: Scale,
    run: Annotated[str, typer.Option(help="Run of the catalogue, with thinking: how the policy rolls out.")],
    reward: Annotated[Path, typer.Option(help="Folder of the learned reward.")],
    out: Annotated[Path, writes("JSON file to write.", "variance.json")],
    traces: Annotated[int, typer.Option(min=2, help="Traces per prompt.")] = 8,
    images: Annotated[int, typer.Option(min=2, help="Images per trace.")] = 8,
    judge: Annotated[list[str] | None, typer.Option(help="Also split this file of rewards/; may be repeated.")] = None,
) -> None:
    """Split the reward's spread within a group into traces and image noise, on validation prompts."""
    from unigrpo.judges import reward as rewards
    from unigrpo.world.prompts import prompt_set

    with chosen_model(scale, run, 0, None, folder) as (cfg, model):
        judges = {"reward": rewards.load(study.training_inputs.trained_as("reward"), path=reward, device="auto")}
        judges |= {name: rewards.load(name) for name in judge or ()}
        result = tools.variance.split(model, cfg, judges, traces, images)
    for name, rows in result.items():
        for judged, row in rows.items():
            print(f"{name}: {judged}: traces explain {row['share']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]")
    files.write_json(out, {"prompts": len(prompt_set("val")), "traces": traces, "images": images, **result})


@app.command(rich_help_panel=RUNS)
def env(json: Json = False) -> None:
    """Show versions, devices and threads: the first thing to add to a report of a problem."""
    _print(tools.describe.machine(), tools.describe.machine_lines, json)


def _print(described: dict, lines, as_json: bool) -> None:
    print(json.dumps(described, indent=2) if as_json else "\n".join(lines(described)))


class Benchmarks(typer.core.TyperGroup):
    """The benchmarks as commands: files of ``evals/benchmarks``, each with the options that its ``build`` takes."""

    def list_commands(self, context) -> list[str]:
        return study.facts.BENCHMARKS.names()

    def get_command(self, context, name: str):
        return _command(name) if name in self.list_commands(context) else None


judging = "Judge real images by a benchmark, e.g. unigrpo judge geneval --images DIR."
app.add_typer(typer.Typer(), cls=Benchmarks, no_args_is_help=True, name="judge", help=judging, rich_help_panel=JUDGE)


def _prepare() -> None:
    """Before torch is imported: its threads sleep between two small operations, so that others read pictures; arrays of
    8 MB and more go back to the system, which glibc would keep with holes between them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(-3, 2**23)  # M_MMAP_THRESHOLD


def _command(benchmark: str):
    """The command of a benchmark: where the images are, and the options that the benchmark's ``build`` takes."""
    module = study.facts.BENCHMARKS.load(benchmark)

    def judge_images(
        images: Images,
        out: Annotated[
            Path | None, writes("Folder to write (default: beside the images).", folder=True, shared=True)
        ] = None,
        batch: Annotated[int, typer.Option(min=1, help="Images judged at once.")] = 8,
        **options,
    ) -> None:
        _prepare()
        from evals import images as evaluation

        raise typer.Exit(1 if evaluation.judge_images(benchmark, images, out, batch, options) else 0)

    taken, hints = {}, {}
    for function in (judge_images, module.build):
        taken |= signature(function).parameters
        hints |= settings.annotations(function)
    del taken["options"]
    plain = get_type_hints(SimpleNamespace(__annotations__=hints))  # without the checks, which come later
    for name, parameter in taken.items():
        metadata = getattr(hints[name], "__metadata__", ())
        hint = Annotated[(plain[name], *metadata)] if metadata else plain[name]
        taken[name] = parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hint)
    judge_images.__signature__ = Signature(list(taken.values()))
    single = Verbs(add_completion=False)
    single.command(benchmark, help=module.FACTS.title)(judge_images)
    return typer.main.get_command(single)


@app.command(rich_help_panel=JUDGE)
def prompts(
    benchmark: Annotated[
        Literal["geneval", "ta", "world"],
        typer.Argument(help="geneval: the official rows; ta: in GenEval 2's format; world: all of the catalogue's."),
    ],
    out: Annotated[
        Path | None, writes("Folder to write in GenEval's layout, for pictures, in place of printing.", folder=True)
    ] = None,
    scale: Scale = "cpu",
) -> None:
    """Print the prompts of a benchmark, a JSON object a line, or write them as folders that wait for pictures."""
    from evals import outside
    from unigrpo.world import exam_points, geneval_verdict
    from unigrpo.world.prompts import prompt_set

    if benchmark == "ta" and out is not None:
        raise UserError("--out: expected geneval or world, whose rows are metadata")
    rows = {
        "geneval": geneval_verdict.metadata,
        "ta": lambda: map(exam_points.row, prompt_set("ta_eval")),
        "world": lambda: outside.wanted(study.resolve.chosen_study(scale)),
    }[benchmark]()
    if out is None:
        return print("\n".join(map(json.dumps, rows)))
    print(outside.hand_out(list(rows), out))
    if benchmark == "world":
        print(outside.size_wanted(study.resolve.chosen_study(scale)))


@app.command(rich_help_panel=JUDGE)
def score(
    samples: Annotated[Path, typer.Option(help="Folder of sample sets.")],
    reward: Annotated[Path, typer.Option(help="Folder of the learned reward.")],
    detector: Annotated[Path, typer.Option(help="Folder of the second evaluator.")],
    out: Annotated[Path, writes("scores.jsonl to write.", "scores.jsonl")],
) -> None:
    """Judge the images of every sample set of a run by the synthetic world's instruments."""
    from evals.run import score_run

    score_run(samples, reward, detector, out)


@app.command(rich_help_panel=JUDGE)
def cross(
    sources: Annotated[list[str], typer.Argument(metavar="RUN=PATH...", help="Runs and folders of their images.")],
    reward: Annotated[list[str], typer.Option(help="Reward, with options as NAME={...} in JSON; once for each.")],
    out: Annotated[Path, writes("Folder to write.", folder=True, shared=True)],
    batch: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 32,
) -> None:
    """Score the images of several runs by several rewards, so that hacking one shows on the others."""
    _prepare()
    from evals.cross import compare

    raise typer.Exit(1 if compare(out, sources, reward, batch) else 0)


@app.command(rich_help_panel=JUDGE)
def convert_images(images: Images, out: Annotated[Path, writes("New folder to write.", folder=True)]) -> None:
    """Write images in GenEval's official layout, for its own tool."""
    from evals.instruments.picture_files import convert

    print(f"{out}: {convert(images, out)} images")
