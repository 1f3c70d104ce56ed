"""Reports of progress: a user's function, or a counter on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of evaluations made, and of those to make."""


def reporter(progress: Progress | bool | None, title: str, unit: str = "products") -> Progress:
    """Return the function to call after each evaluation; True stands for a counter, where stderr is a terminal."""
    if callable(progress):
        return progress
    if not progress or not sys.stderr.isatty():
        return lambda done, total: None

    def write(done: int, total: int) -> None:
        sys.stderr.write(f"\r{title}: {done} of {total} {unit}" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return write
