"""The command line: ``unigrpo <verb>``, or ``python -m unigrpo <verb>``. The verbs are in ``unigrpo.commands``."""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from unigrpo import commands, study
from unigrpo.commands import app, writes
from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import parse_json

for file in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"{commands.__name__}.{file.name}")
app.registered_commands.sort(key=lambda command: command.rich_help_panel != commands.START)


@app.callback()
def unigrpo(
    context: typer.Context,
    record: Annotated[Path | None, writes("JSON lines to write: processor time, wall time, memory.")] = None,
    made: Annotated[str | None, typer.Option(help="JSON of settings, inputs and outputs, for the record.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show what an error comes from, with tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """UniGRPO: reinforcement of models that reason in text before they paint, and the study of it."""
    if version:
        from importlib.metadata import version as installed

        print(f"unigrpo {installed('unigrpo')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
    elif record is not None:
        if record.exists() and record.suffix != ".jsonl":
            raise UserError(f"--record {record}: is there already, expected a new file or one that ends in .jsonl")
        about = None if made is None else study.standing.begun(record, **parse_json(made, "--made"))
        context.with_resource(study.provenance.recorded(record, context.invoked_subcommand, about))


def call(words: list[str]) -> int:
    """Run ``unigrpo <words>`` and return its exit code. Raises UserError for bad input, of the command line too."""
    try:
        return typer.main.get_command(app).main(words, "unigrpo", standalone_mode=False) or 0
    except typer.TyperException as error:
        verb = error.ctx.command_path if getattr(error, "ctx", None) else "unigrpo"
        near = ", ".join(getattr(error, "possibilities", None) or ())
        message = f"{error.message}. Did you mean {near}?" if near else error.format_message()
        raise UserError(f"{message.rstrip('.')}; see {verb} --help") from None


def main() -> None:
    """The process: ends with the exit code of the words that it was started with, or in one line."""

    def run() -> None:
        raise SystemExit(call(sys.argv[1:]))

    in_one_line(run)


if __name__ == "__main__":
    main()
