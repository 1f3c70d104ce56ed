"""The one exception for a user's mistake."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ["LabError", "unknown"]


class LabError(Exception):
    """Bad input: the command line prints its text as one line and exits with code 2.

    The text names the argument, its value, what is allowed, and the remedy. Line breaks in it, such as those of another
    library's message, become spaces.
    """

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split("\n")))


def unknown(kind: str, name: str, choices: Sequence[str], remedy: str = "") -> LabError:
    """The error for a name that is none of the choices.

    Args:
        kind: what the name should have named.
        name: what the user wrote.
        choices: the names there are.
        remedy: what else would be allowed, the end of the message.

    Returns:
        The exception, for the caller to raise.

    Example:
        >>> print(unknown("task", "sin", ["digits", "sine"]))
        unknown task 'sin'; did you mean sine? Choices: digits, sine
    """
    near = difflib.get_close_matches(name.lower(), choices, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return LabError(f"unknown {kind} {name!r}{hint} Choices: {', '.join(choices)}{remedy}")
