"""Measurements that survive: each is isolated and limited in time, and on the disk as soon as it ends."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from rivals import reason

__all__ = ["RESTART", "OutOfTime", "Results", "Terminated", "on_termination", "write_json"]

RESTART = 75
"""Exit code of a process whose CUDA context an error has broken: the next one goes on behind that measurement."""

Entry = dict[str, Any]


class OutOfTime(BaseException):
    """The time for a measurement is over; no library's ``except Exception`` may swallow it."""


class Terminated(BaseException):
    """The process was asked to leave."""


def on_termination() -> None:
    """Let SIGTERM raise ``Terminated``, once: what is written after that must not be interrupted again."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, handle)


class Results:
    """The measurements of one part, in one file.

    A file that exists is continued: what is in it is not measured again, and a measurement during which the process
    before died is an error.

    Args:
        path: the file.
        head: what stands above the measurements, such as the environment.
        until: when this part's time is over, in seconds since 1970.
        mark: entries that every measurement gets.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], until: float, mark: Mapping[str, Any]) -> None:
        self.path, self.until, self._mark, self._parent = path, until, mark, os.getppid()
        fresh = {"under_way": None, "measurements": {}}
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else fresh
        self.document: Entry = {**head, **before, "status": "running", "not_started": []}
        if self.document["under_way"] is not None:
            self._add(self.document["under_way"], {"error": "the process died during this measurement"})
        self.write()

    def measure(self, key: str, function: Callable[[], Mapping[str, Any]]) -> Entry | None:
        """Call a function, whatever happens in it, and keep what it returns.

        Args:
            key: name of the measurement.
            function: returns its entries.

        Returns:
            The entries, or ``{"error": ...}``; None where there was no time to begin.

        Raises:
            SystemExit: with ``RESTART``, after an error that has broken the CUDA context.
            Terminated: the process that began this one is gone.
        """
        if key in self.entries:
            return self.entries[key]
        if os.getppid() != self._parent:
            raise Terminated
        start = time.time()
        if start >= self.until:
            self.document["not_started"].append(key)
            self.write()
            return None
        self.document["under_way"] = key
        self.write()
        try:
            with _limit(self.until - start):
                entry = dict(function())
        except OutOfTime:
            entry = {"error": "out of time: this part's share of the minutes ended during this measurement"}
        except Exception as error:  # whatever goes wrong belongs in the file, and the rest goes on
            entry = {"error": reason(error)}
        self._add(key, {**entry, "seconds_spent": round(time.time() - start, 2)})
        if "error" in entry and _is_broken():
            raise SystemExit(RESTART)
        return self.entries[key]

    @property
    def entries(self) -> dict[str, Entry]:
        """The measurements by name."""
        return self.document["measurements"]  # type: ignore[no-any-return]

    def left(self) -> float:
        """Return the seconds that this part still has."""
        return self.until - time.time()

    def close(self, status: str) -> None:
        """Write the last state."""
        self.document["status"] = status
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, self.document)

    def _add(self, key: str, entry: Entry) -> None:
        self.entries[key] = {**entry, **self._mark}
        self.document["under_way"] = None
        self.write()
        print(f"{key}: {entry.get('error', 'measured')}", flush=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file so that a reader, and whoever comes after a kill, sees the old state or the new one, whole."""
    text = json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    unfinished = path.with_name(".unfinished")  # one name, so that a kill leaves one such file at most
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; numbers that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise ``OutOfTime`` inside, once the seconds are over; in the main thread alone."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _is_broken() -> bool:
    """Return True if this process can use its CUDA device no more, as after an access to a wrong address."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
