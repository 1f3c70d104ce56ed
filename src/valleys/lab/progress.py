"""Progress of a comparison: a bar on stderr for a person who waits, or a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Follow = Callable[[int, int], None]
"""Called with the steps made and the steps to make."""

Watch = Callable[[str, int], Follow]
"""Called with the label of each run as it starts and how many are finished, it gives what follows the run's steps."""

Announce = Callable[[str], None]
"""Called with a line for the user."""

_LINES = 10  # lines of a log over a whole comparison


class Pace:
    """Finished runs, which never become fewer, and the time that the others will take."""

    def __init__(self, runs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.runs, self.finished = runs, 0
        self._clock, self._start, self._first = clock, clock(), -1

    def update(self, finished: int) -> None:
        """Take note of how many are finished, by whichever worker."""
        self.finished = max(self.finished, finished)
        if self._first < 0:
            self._first = finished

    def left(self) -> float | None:
        """Return the seconds to the end at the pace of this session; None before its first run is finished."""
        count = self.finished - self._first
        return (self._clock() - self._start) / count * (self.runs - self.finished) if count > 0 else None


def duration(seconds: float | None) -> str:
    """Return a time in words.

    Example:
        >>> duration(40), duration(200), duration(7000), duration(None)
        ('40 s', '3 min', '1.9 h', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def watch(title: str, runs: int, show: bool | None = None, announce: Announce | None = None) -> Iterator[Watch]:
    """Show a progress bar over runs; yield a function to call with each run's label and the number of finished runs.

    Where no bar is shown, ``announce`` gets a line after the first run and after each tenth of them.
    """
    pace = Pace(runs)
    if not (sys.stderr.isatty() if show is None else show):
        yield _lines(pace, announce)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True, force_terminal=show)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        overall = bars.add_task(title, total=runs, left="")
        current = bars.add_task("", total=None, left="")

        def start(label: str, finished: int) -> Follow:
            pace.update(finished)
            left = f"{duration(pace.left())} left" if pace.left() is not None else ""
            bars.update(overall, completed=pace.finished, left=left)
            bars.reset(current, description=label, total=None)
            return lambda step, total: bars.update(current, completed=step, total=total)

        yield start


def _lines(pace: Pace, announce: Announce | None) -> Watch:
    last = -1

    def start(label: str, finished: int) -> Follow:
        nonlocal last
        pace.update(finished)
        tenth = _LINES * pace.finished // max(pace.runs, 1)
        if announce is not None and pace.left() and tenth != last:
            announce(f"{pace.finished} of {pace.runs} runs, about {duration(pace.left())} left ({label})")
            last = tenth
        return lambda step, total: None

    return start
