"""Verbs that judge images, print the prompts of benchmarks, and train the learned reward."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal, get_origin, get_type_hints

import typer

from unigrpo import study
from unigrpo.commands import ChosenScale, Config, SftRun
from unigrpo.core import settings

app = typer.Typer()
PANEL = "Judge"
Images = Annotated[Path, typer.Option(help="Sample folder, folder in GenEval's layout, or JSON file {prompt: image}.")]


class Benchmarks(typer.core.TyperGroup):
    """The benchmarks as commands: files of ``evals/benchmarks``, each with the options that its ``build`` takes."""

    def list_commands(self, context) -> list[str]:
        return study.facts.BENCHMARKS.names()

    def get_command(self, context, name: str):
        return _command(name) if name in self.list_commands(context) else None


judges = typer.Typer(cls=Benchmarks, no_args_is_help=True)
app.add_typer(judges, name="judge", rich_help_panel=PANEL)


@judges.callback()
def judge() -> None:
    """Judge real images by a benchmark, e.g. unigrpo judge geneval --images DIR."""


def _command(benchmark: str):
    """The command of a benchmark: where the images are, and the options that the benchmark's ``build`` takes."""
    module = study.facts.BENCHMARKS.load(benchmark)

    def judge_images(
        images: Images,
        out: Annotated[Path | None, typer.Option(help="Folder to write (default: beside the images).")] = None,
        batch: Annotated[int, typer.Option(min=1, help="Images judged at once.")] = 8,
        **options,
    ) -> None:
        from evals import images as evaluation

        raise typer.Exit(1 if evaluation.judge_images(benchmark, images, out, batch, options) else 0)

    functions = (judge_images, module.build)
    parameters = {
        name: p for f in functions for name, p in inspect.signature(f).parameters.items() if name != "options"
    }
    hints = {name: hint for f in functions for name, hint in settings.annotations(f).items()}
    plain = get_type_hints(
        SimpleNamespace(__annotations__=hints)
    )  # what else they say is checked when values are known
    for name, hint in hints.items():
        hints[name] = Annotated[(plain[name], *hint.__metadata__)] if get_origin(hint) is Annotated else plain[name]
    judge_images.__annotations__ = hints
    judge_images.__signature__ = inspect.Signature(
        [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[name]) for name, p in parameters.items()]
    )
    single = typer.Typer(add_completion=False)
    single.command(benchmark, help=module.FACTS.title)(judge_images)
    return typer.main.get_command(single)


@app.command(rich_help_panel=PANEL)
def prompts(
    benchmark: Annotated[
        Literal["geneval", "ta"],
        typer.Argument(help="geneval: the official metadata rows; ta: the synthetic world's, in GenEval 2's format."),
    ],
) -> None:
    """Print the prompts of a benchmark, a JSON object a line."""
    from unigrpo.world import exam_points, geneval_verdict
    from unigrpo.world.prompts import prompt_set

    official = benchmark == "geneval"
    for row in geneval_verdict.metadata() if official else map(exam_points.row, prompt_set("ta_eval")):
        print(json.dumps(row))


@app.command(rich_help_panel=PANEL)
def score(
    samples: Annotated[Path, typer.Option(help="Folder of sample sets.")],
    reward: Annotated[Path, typer.Option(help="Folder of the learned reward.")],
    detector: Annotated[Path, typer.Option(help="Folder of the second evaluator.")],
    out: Annotated[Path, typer.Option(help="scores.jsonl to write.")],
) -> None:
    """Judge the images of every sample set of a run by the synthetic world's instruments."""
    from evals.run import score_run

    score_run(samples, reward, detector, out)


@app.command(rich_help_panel=PANEL)
def cross(
    sources: Annotated[list[str], typer.Argument(metavar="RUN=PATH...", help="Runs and folders of their images.")],
    reward: Annotated[list[str], typer.Option(help="Reward, with options as NAME={...} in JSON; once for each.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    batch: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 32,
) -> None:
    """Score the images of several runs by several rewards, so that hacking one shows on the others."""
    from evals.cross import compare

    raise typer.Exit(1 if compare(out, sources, reward, batch) else 0)


@app.command(rich_help_panel=PANEL)
def convert_images(images: Images, out: Annotated[Path, typer.Option(help="New folder to write.")]) -> None:
    """Write images in GenEval's official layout, for its own tool."""
    from evals.instruments.picture_files import convert

    print(f"{out}: {convert(images, out)} images")


@app.command(rich_help_panel=PANEL)
def train_reward(
    data: Annotated[Path, typer.Option(help="Sample folder of the SFT run.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    scale: ChosenScale = None,
    run: SftRun = None,
    config: Config = None,
    settings: Annotated[
        Literal["reward", "weak_reward"], typer.Option(help="Section of the configuration.")
    ] = "reward",
) -> None:
    """Train the learned reward on renders and on samples of the SFT run."""
    from rewards._support.learned_training import train

    _, cfg = study.resolve.chosen_run(scale, run or (study.catalogue.SFT if config is None else None), 0, config)
    train(cfg, settings, data, out)
