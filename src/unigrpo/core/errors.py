"""Bad input, as every command reports it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The message, all that a command prints, names the file, the key or line, and what was expected."""


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
        raise UserError(f"{where}: {error}") from None


def in_one_line(main: Callable[[], None]) -> None:
    """Call ``main``; bad input, or what the system refuses (a read-only folder, a full disk), ends the process with its
    message alone on stderr and exit code 2. Other errors keep their traceback."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
