"""SIGTERM and SIGUSR1, by which a scheduler announces the end: the run is kept, given back, and the process leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Interrupted", "interruptible", "polled", "requested"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """The process was asked to leave; uncaught, its exit code is 143, as after SIGTERM."""

    def __init__(self) -> None:
        super().__init__(143)


@dataclass
class _State:
    requested: bool = False
    polled: int = 0


_state = _State()


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``Interrupted`` when the scheduler asks, or leave it to work that polls.

    Handlers that the program has set are left alone, and so is a thread other than the main one, which can set none.
    """
    main = threading.current_thread() is threading.main_thread()
    own = [number for number in _SIGNALS if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in own:
        _state.requested = False
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def polled() -> Iterator[None]:
    """Announce work that asks ``requested`` itself, where it can stop without loss."""
    _state.polled += 1
    try:
        yield
    finally:
        _state.polled -= 1


def requested() -> bool:
    """Return whether a signal came."""
    return _state.requested


def _handle(number: int, frame: FrameType | None) -> None:
    _state.requested = True
    if not _state.polled:
        raise Interrupted
