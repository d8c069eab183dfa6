"""The verbs of ``unigrpo``: each file here adds some to ``app``; ``rich_help_panel`` names their group.

So that help takes no time, verbs reach modules through their rooms (``tools.export``), which load them when first used.
What verbs of several files share is here: also what they refuse to write to (``Verb``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from unigrpo import study, training
from unigrpo.core.errors import UserError


@dataclass(frozen=True)
class Output:
    """What a verb writes: a file, or files in a ``folder``. ``own`` are patterns of names. In an input a file replaces
    none but its own. A folder that is not empty must hold a name of its own; with None it is shared with others."""

    path: Path
    folder: bool
    own: tuple[str, ...] | None

    def check(self, option: str, inputs: list[tuple[str, Path]]) -> None:
        """Raise UserError where writing would destroy one of the ``inputs`` (option, path), or what is of others."""
        said, here, there = f"{option} {self.path}", self.path.resolve(), self.path.exists()
        if there and not (self.path.is_dir() if self.folder else self.path.is_file()):
            wanted = "folder" if self.folder else "file"
            raise UserError(f"{said}: expected a {wanted} or a new name, found something else")
        if self.own is None:
            return
        for name, path in inputs:
            place = path.resolve()
            if place == here:
                raise UserError(f"{said}: is {name} too, which would be overwritten")
            if self.folder and here in place.parents and place.is_dir() and place.name not in self.own:
                raise UserError(f"{said}: holds {name} {path}, expected a folder beside it")
            if not self.folder and there and place in here.parents and here.name not in self.own:
                raise UserError(f"{said}: is a file of {name}, expected a new one{_or(self.own)}")
        if self.folder and there and any(here.iterdir()) and not any(any(here.glob(name)) for name in self.own):
            raise UserError(f"{said}: holds other files, expected a new folder{_or(self.own, ' with ')}")


def _or(own: tuple[str, ...], word: str = " ") -> str:
    return f" or one{word}{' or '.join(own)}" if own else ""


def _path(text: str | Path) -> Path:
    if not str(text):
        raise typer.BadParameter("expected a path, got nothing")
    return Path(text)


def writes(help: str, *own: str, folder: bool = False, shared: bool = False, kind: Callable = typer.Option):
    """The option of an ``Output``; ``shared`` folders have files of others beside the verb's."""

    def note(context: typer.Context, parameter: typer.CallbackParam, value: Path | None) -> Path | None:
        if value is not None:
            context.meta.setdefault(Output, {})[parameter.name] = Output(value, folder, None if shared else own)
        return value

    return kind(help=help, metavar="FOLDER" if folder else "FILE", parser=_path, callback=note)


def _paths(value: object) -> Iterator[Path]:
    """The paths among the words of an option; those of RUN=PATH too."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, str) and (path := Path(value.partition("=")[2])) != Path():
        yield path
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)


class Verb(TyperCommand):
    """A verb that begins once none of its outputs would destroy something."""

    def invoke(self, context: typer.Context) -> object:
        outputs = context.meta.get(Output, {})
        names = {p.name: p.opts[0] for p in self.params}
        read = [(names[k], path) for k, v in context.params.items() if k not in outputs for path in _paths(v)]
        for name, output in outputs.items():
            output.check(names.get(name, f"--{name}"), read)
        return super().invoke(context)


class Verbs(typer.Typer):
    """Verbs, which are checked."""

    def command(self, name: str | None = None, **options) -> Callable:
        return super().command(name, cls=Verb, **options)


app = Verbs(add_completion=False, invoke_without_command=True)
START = "Start here"  # the group that help shows first
Scale = Annotated[str, typer.Option(help="Scale, a file of pipelines/scales.")]


@contextmanager
def chosen_model(scale: str | None, run: str | None, seed: int, config: Path | None, folder: Path) -> Iterator[tuple]:
    """The configuration of a run, and its model from ``folder``, to sample from. Raises UserError."""
    _, cfg = study.resolve.chosen_run(scale, run, seed, config)
    with training.launch.sampler(cfg, folder) as model:
        yield cfg, model
