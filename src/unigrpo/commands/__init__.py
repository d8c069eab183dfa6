"""The verbs of ``unigrpo``: each file here adds some to ``app``; ``rich_help_panel`` names their group.

So that help takes no time, verbs reach modules through their rooms (``tools.export``), which load them when first used.
What verbs of several files share is here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from unigrpo import study, training

app = typer.Typer(add_completion=False, invoke_without_command=True)
START = "Start here"  # the group that help shows first
Scale = Annotated[str, typer.Option(help="Scale, a file of pipelines/scales.")]


@contextmanager
def chosen_model(scale: str | None, run: str | None, seed: int, config: Path | None, folder: Path) -> Iterator[tuple]:
    """The configuration of a run, and its model from ``folder``, to sample from. Raises UserError."""
    _, cfg = study.resolve.chosen_run(scale, run, seed, config)
    with training.launch.sampler(cfg, folder) as model:
        yield cfg, model
