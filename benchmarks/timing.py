"""Interleaved rounds: each times every contender once, in a new order, so that a noisy minute hits all alike."""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rivals import Contender, reason
from running import Running
from stage import Stage

__all__ = ["COPY", "IN_PLACE", "Timing", "interleave", "launched", "launches", "quartiles", "seconds"]

COPY, IN_PLACE = "copy", "update in place"
"""Limits of the memory: ``y.copy_(x)`` and ``x.neg_()`` on large tensors."""


@dataclass(frozen=True)
class Timing:
    """Measurements of a contender.

    Args:
        name: the contender's, :data:`COPY` or :data:`IN_PLACE`.
        package: its distribution.
        traffic: least bytes per parameter and step.
        seconds: one entry per round; empty if it did not run.
        first: seconds of its construction and first step, which may include a compilation.
        launches: kernels launched per step, on CUDA.
        failure: why it did not run; None if it did.
    """

    name: str
    package: str
    traffic: float
    seconds: tuple[float, ...] = ()
    first: float | None = None
    launches: int | None = None
    failure: str | None = None

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The middle half of the rounds lies between these."""
        return quartiles(self.seconds)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile; of a single value that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


@dataclass
class _Entry:
    contender: Contender
    running: Running | None = None
    first: float | None = None
    launches: int | None = None
    failure: str | None = None


def seconds(function: Callable[[], object], device: str) -> float:
    """Return the time of a call in seconds, on CUDA until the device has finished.

    Args:
        function: what to time.
        device: ``cpu`` or ``cuda``.
    """
    if device == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda.synchronize()
        events[0].record()
        function()
        events[1].record()
        torch.cuda.synchronize()
        return float(events[0].elapsed_time(events[1])) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def launches(action: Callable[[], object]) -> int:
    """Kernels, copies and fills that a call starts on a CUDA device.

    Args:
        action: what to call.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        action()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return launched(json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"])


def launched(events: Sequence[Mapping[str, Any]]) -> int:
    """The number of a trace's events that are a device's work: its annotations and its host's calls are none.

    Example:
        >>> launched([{"cat": "kernel"}, {"cat": "gpu_memcpy"}, {"cat": "gpu_user_annotation"}, {"cat": "cpu_op"}])
        2
    """
    return sum(event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") for event in events)


def interleave(
    contenders: Sequence[Contender], stage: Stage, rounds: int, seed: int = 0, profiled: bool = True
) -> list[Timing]:
    """Times contenders on one stage.

    Each makes two untimed steps first, the first of which must move all its parameters. Before a timed step the
    gradients are served anew and a large copy empties the caches. A contender that raises, moves nothing or miscounts
    is reported with the reason and without a time.

    Args:
        contenders: who takes part.
        stage: parameters and gradients.
        rounds: timed steps of each.
        seed: of the order within the rounds.
        profiled: count launches, too.

    Returns:
        One entry per contender in the order given, then those of the copy and of the update in place.

    Raises:
        RuntimeError: a contender changed the gradients that all share.
    """
    limits = {COPY: (stage.copy, stage.copied), IN_PLACE: (stage.negate, stage.negated)}
    entries = {contender.name: _Entry(contender) for contender in contenders}
    times: dict[str, list[float]] = {name: [] for name in [*entries, *limits]}
    for name, entry in entries.items():
        _log(f"first steps: {name}")
        _attempt(entry, _warm_up, stage)
    order = random.Random(seed)
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            _log(f"round {number + 1} of {rounds}")
            turns = [*limits, *(name for name, entry in entries.items() if entry.running is not None)]
            order.shuffle(turns)
            for name in turns:
                if name in limits:
                    stage.copy()
                    times[name].append(seconds(limits[name][0], stage.device))
                else:
                    entry = entries[name]
                    _attempt(entry, _timed, stage, times[name])
            gc.collect()
    finally:
        gc.enable()
    for entry in entries.values():
        _attempt(entry, _check_count, rounds + 2)
        if profiled:
            _attempt(entry, _count_launches, stage)
    if not stage.intact():
        raise RuntimeError("a contender changed the gradients that all share; give it scratch=True")
    results = [
        Timing(
            name,
            entry.contender.package,
            entry.contender.traffic,
            () if entry.failure else tuple(times[name]),
            entry.first,
            entry.launches,
            entry.failure,
        )
        for name, entry in entries.items()
    ]
    return [
        *results,
        *(Timing(name, "torch", moved / stage.numel, tuple(times[name])) for name, (_, moved) in limits.items()),
    ]


def _attempt(entry: _Entry, action: Callable[..., object], *args: object) -> None:
    """Does something with a contender; what it raises is its failure and its end."""
    if entry.failure is not None:
        return
    try:
        action(entry, *args)
    except Exception as error:  # whatever a rival raises belongs in the table
        entry.failure, entry.running = reason(error), None


def _warm_up(entry: _Entry, stage: Stage) -> None:
    stage.serve(entry.contender.scratch)
    start = time.perf_counter()
    running = entry.contender.build(stage)
    before = running.sample()
    running.step()
    after = running.sample()
    entry.first = time.perf_counter() - start
    if not torch.isfinite(after).all():
        raise RuntimeError("the first step left a parameter that is not finite")
    if torch.equal(before, after):
        raise RuntimeError("the first step moved no parameter")
    entry.running = running
    stage.share(running.stores())
    _step(entry, stage)


def _step(entry: _Entry, stage: Stage) -> float:
    assert entry.running is not None
    stage.serve(entry.contender.scratch)
    return seconds(entry.running.step, stage.device)


def _timed(entry: _Entry, stage: Stage, times: list[float]) -> None:
    times.append(_step(entry, stage))


def _check_count(entry: _Entry, expected: int) -> None:
    assert entry.running is not None
    count = entry.running.count()
    if count is not None and count != expected:
        raise RuntimeError(f"counted {count} steps of {expected}")


def _count_launches(entry: _Entry, stage: Stage) -> None:
    if stage.device != "cuda":
        return
    assert entry.running is not None
    stage.serve(entry.contender.scratch)
    entry.launches = launches(entry.running.step)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
