"""What every command line shares: its parser, and how bad input ends. Imports no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from unigrpo.core.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is a UserError, one line like every other."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; see {self.prog} --help")


class Help(argparse.HelpFormatter):
    """Adds the default of every option that has one and does not tell it in words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        none = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        return action.help if none or "(default" in action.help else f"{action.help} (default %(default)s)"


def parser(module: str, does: str, **paths: str) -> Parser:
    """The parser of ``python -m <module>``; ``does`` says in a sentence what the command does, ``paths`` are options
    that name a file or folder and must be given, with their help."""
    made = Parser(prog=f"python -m {module}", description=does, formatter_class=Help)
    for name, meaning in paths.items():
        made.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=meaning)
    return made


def add_training_options(made: Parser, trackers: list[str]) -> None:
    """What both training commands can do besides training."""
    made.add_argument("--tracker", choices=trackers, help="also log to this tracker, whose package must be installed")
    made.add_argument("--dry-run", action="store_true", help="print configuration and cost (JSON), do nothing else")


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a UserError, or what the system refuses (a read-only folder, a full disk), ends the process with
    its message alone on stderr and exit code 2."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
