"""Bad input, as every command reports it."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOWN = 1000  # characters of either end of a message that a value makes long


class UserError(Exception):
    """Bad input. The message, all that a command prints, names the file, the key or line, and what was expected. It is
    one line: characters that no line shows are written as escapes."""

    def __init__(self, message: object):
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message))
        super().__init__(text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}")


class RewardFailed(UserError):
    """A reward gave no score, in several tries; nothing was learned from what it was asked about."""


class Collapse(Exception):
    """Training cannot go on: something that it computed is not finite. The message says what."""


@contextmanager
def error_prefix(where: object) -> Iterator[None]:
    """A UserError of the block begins with ``where``: the file or the key that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@contextmanager
def reading(where: object, expected: str) -> Iterator[None]:
    """The boundary of a reader: whatever a parser or a library raises in the block is a UserError that begins with
    ``where``, the file or the line, and says what was ``expected``. Its cause stays for ``--debug``."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        said = "too many levels of nesting" if isinstance(error, RecursionError) else str(error)
        said = " ".join((getattr(error, "strerror", None) or said).split()) or type(error).__name__
        raise UserError(f"{where}: cannot be read ({said[:300]}), expected {expected}") from error


def in_one_line(main: Callable[[], None]) -> None:
    """Call ``main``; bad input, or what the system refuses (a read-only folder, a full disk), ends the process with its
    message on stderr and exit code 2, and after ``--debug`` with its causes. Other errors keep their traceback."""
    try:
        main()
    except (UserError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
