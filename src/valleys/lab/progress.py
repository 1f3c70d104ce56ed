"""A progress bar on stderr for a person who waits; nothing for a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Follow = Callable[[int, int], None]
"""Told the steps made and the steps to make."""

Watch = Callable[[str, int], Follow]
"""Told the label of each run as it starts and how many are finished, it gives what follows the run's steps."""


@contextmanager
def watch(title: str, runs: int, show: bool | None = None) -> Iterator[Watch]:
    """Show a progress bar over runs; yield a function to call with each run's label and the number of finished runs."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda label, finished: lambda step, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, force_terminal=show)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        overall = bars.add_task(title, total=runs)
        current = bars.add_task("", total=None)

        def start(label: str, finished: int) -> Follow:
            bars.update(overall, completed=finished)
            bars.reset(current, description=label, total=None)
            return lambda step, total: bars.update(current, completed=step, total=total)

        yield start
