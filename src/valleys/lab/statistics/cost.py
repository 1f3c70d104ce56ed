"""Cost of an optimizer's step and of its way to the target beside another's: times that compare, and words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from valleys.lab.record import Record
from valleys.lab.statistics.censored import TimeComparison
from valleys.lab.statistics.intervals import mean_interval
from valleys.lab.statistics.outcome import Outcome, Verdict
from valleys.lab.statistics.sentences import count

_SLACK = 600.0  # seconds by which runs that take turns may lie apart

# A step takes about as long where its excess is at most the first, or may be 0, and is surely below the second.
_EQUAL, _SAME = 0.01, 0.05


def cost_sentence(verdict: Verdict, a: Outcome, b: Outcome) -> str:
    """Return step time, memory of the state, and time to the target, first beside second; empty if nothing is known."""
    names = verdict.first, verdict.second
    step = _step(*names, a, b)
    parts = [" and ".join(filter(None, [step, _state(*names, a, b, bool(step))]))]
    parts.append(_target(verdict, "it" if parts[0] else verdict.first))
    return "; ".join(filter(None, parts))


def _step(first: str, second: str, a: Outcome, b: Outcome) -> str:
    """Return the ratio of the step times of the same unit, which share the state of the machine.

    Its logarithms are averaged. A difference is claimed where the 95 % interval excludes none.
    """
    times = [{unit: time for unit, time in side.step_seconds.items() if 0 < time < math.inf} for side in (a, b)]
    ratios = [times[0][unit] / times[1][unit] for unit in sorted(times[0].keys() & times[1].keys())]
    if not ratios:
        return ""
    mean, half_width = mean_interval([math.log(ratio) for ratio in ratios])
    if half_width is None:
        return f"a step of {first} took {ratios[0]:.3g} times as long as {second}'s (measured once)"
    excess, low, high = (math.expm1(x) for x in (mean, mean - half_width, mean + half_width))
    if max(abs(low), abs(high)) <= _SAME and (abs(excess) <= _EQUAL or low <= 0 <= high):
        return f"a step of {first} takes about as long as {second}'s"
    if low <= 0 <= high:
        return f"a step of {first} takes as long as {second}'s within the noise ({1 + low:.3g} to {1 + high:.3g} times)"
    return f"a step of {first} takes {1 + excess:.3g} times as long as {second}'s"


def _state(first: str, second: str, a: Outcome, b: Outcome, continued: bool) -> str:
    if a.state_bytes is None or b.state_bytes is None or not (a.state_bytes or b.state_bytes):
        return ""
    if not (a.state_bytes and b.state_bytes):
        stateless, other = (second, first) if a.state_bytes else (first, second)
        return f"{stateless} keeps no state, {other} {(a.state_bytes or b.state_bytes) / 1e6:.3g} MB"
    times = f"{a.state_bytes / b.state_bytes:.3g} times ".removeprefix("1 times ")
    state, other = ("its state", "") if continued else (f"{first}'s state", f" as {second}'s")
    return f"{state} is {times}as large{other}"


def _target(verdict: Verdict, subject: str) -> str:
    steps, seconds = verdict.steps, verdict.seconds
    if steps is None:
        return ""
    units = count(verdict.unit, steps.units)
    if steps.ratio is None:
        return f"neither reaches the target in most of {units}"
    if not 0 < steps.ratio < math.inf:
        return f"{verdict.second if steps.ratio else verdict.first} alone reaches the target in most of {units}"
    where = "sooner" if steps.sooner >= steps.later else "later"
    order = f"{where} in {max(steps.sooner, steps.later)} of {units}"
    if not (steps.sooner or steps.later):
        order = f"at the same step in all {units}"
    ways = [_times(steps, "steps")]
    if seconds is not None and seconds.ratio is not None and 0 < seconds.ratio < math.inf:
        ways.append(_times(seconds, "seconds"))
    return f"{subject} reaches the target in {' and '.join(ways)} ({order})"


def _times(times: TimeComparison, what: str) -> str:
    assert times.ratio is not None
    text = f"{times.ratio:.2f}" if 0.1 <= times.ratio < 10 else f"{times.ratio:.2g}"
    if text == "1.00" and not times.bound:
        return "about " * (times.ratio != 1) + f"as many {what}"
    return f"{times.bound} {text} times the {what}".strip()


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
