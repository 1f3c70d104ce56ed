"""SIGTERM and SIGUSR1, by which a scheduler announces the end: the run is kept, given back, and the process leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


CODE = 143
"""Exit code of a process that was asked to leave: that of SIGTERM."""


class Interrupted(BaseException):
    """The process was asked to leave."""


@dataclass
class _State:
    requested: bool = False
    polled: int = 0


_state = _State()


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``Interrupted`` inside when the scheduler asks, or leave it to work that polls; outside exit by ``CODE``.

    Handlers that the program has set are left alone, and so is a thread other than the main one, which can set none.
    """
    main = threading.current_thread() is threading.main_thread()
    own = [number for number in _SIGNALS if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in own:
        _state.requested = False
        signal.signal(number, _handle)
    try:
        yield
    except Interrupted as error:
        raise SystemExit(CODE) from error
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
