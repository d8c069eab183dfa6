"""Bad input, as every command reports it."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message names the file, the key (or line, or sample) and what was expected.

    Command lines catch it, print the message alone to stderr and exit with code 2.
    """


class Collapse(Exception):
    """Training cannot go on: something that it computed is not finite. The message says what."""
