"""What every command line shares: how bad input ends. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

from unigrpo.types import UserError


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
