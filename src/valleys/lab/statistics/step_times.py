"""Step times that can be compared: those of runs that took turns on the same machine in the same state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from valleys.lab.record import Record

__all__ = ["step_times"]

_SLACK = 600.0  # seconds by which runs that take turns may lie apart


def step_times(records: Mapping[str, Mapping[int, Record]]) -> dict[str, dict[int, float]]:
    """Return seconds per step by optimizer and unit, of the optimizers whose runs took turns.

    An optimizer that joins a comparison days later finds the machine in another state: its times say nothing beside the
    others', whatever their intervals. The largest group of optimizers whose runs lie in one stretch of time is kept.
    A run without an end may have been made at any time.

    Example:
        >>> run = dict(optimizer="a", hyperparameters={}, batch_size=1, steps=1, diverged=False, step_seconds=0.1)
        >>> old, new = (Record(seed=0, ended=ended, **run) for ended in (0.0, 1e6))
        >>> step_times({"a": {1: old}, "b": {1: old}, "late": {1: new}})
        {'a': {1: 0.1}, 'b': {1: 0.1}}
    """
    spans = sorted((*_span(list(runs.values())), name) for name, runs in records.items() if runs)
    groups: list[list[str]] = []
    end = -math.inf
    for first, last, name in spans:
        if not groups or first > end:
            groups.append([])
        groups[-1].append(name)
        end = max(end, last)
    largest = max(groups, key=len, default=[])
    return {
        name: {unit: record.step_seconds for unit, record in runs.items()}
        for name, runs in records.items()
        if name in largest
    }


def _span(runs: Sequence[Record]) -> tuple[float, float]:
    ends = [record.ended for record in runs if record.ended is not None]
    if len(ends) < len(runs):
        return -math.inf, math.inf
    return min(ends) - _SLACK, max(ends) + _SLACK
