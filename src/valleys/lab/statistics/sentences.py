"""Verdicts in words."""

from __future__ import annotations

import math

from valleys.lab.statistics.formatting import about, decimals, fixed, ratios
from valleys.lab.statistics.outcome import Metric, Verdict
from valleys.lab.statistics.paired import Difference

_MOST = 1000.0  # a larger factor says nothing to a reader


def sentence(verdict: Verdict, difference: Difference | None, metric: Metric, planned: tuple[int, int]) -> str:
    """Return the verdict for a person without statistics, without a full stop.

    The difference is None without a unit that both finished; ``planned`` counts the units of each, lost ones included.
    """
    losses = _losses(verdict, planned)
    if difference is None:
        return _without_difference(verdict, planned, losses)
    parts = [_first_part(verdict, difference, metric), *losses]
    if verdict.unit == "seed":
        parts.append("one round: this holds for these tuned values, not for the optimizers")
    return "; ".join(parts)


def details(verdict: Verdict, difference: Difference | None, metric: Metric, shared: int) -> str:
    """Return a second line with what a statistician wants; ``shared`` is the number of pairs that share the level."""
    if difference is None or verdict.difference is None:
        return ""
    log = difference.scale.log
    mean = ("geometric mean of {} / {}" if log else "mean difference {} - {}").format(verdict.first, verdict.second)
    limits = [limit for limit in (verdict.low, verdict.high) if limit is not None]
    estimate, *ends = _numbers(verdict.difference, limits, log)
    parts = [count(verdict.unit, verdict.units), f"{mean} {estimate}"]
    if difference.deviation is not None:
        method = "Student's t" + " on logarithms" * log + f"; Bonferroni over {shared} pairs" * (shared > 1)
        parts[1] += f", {100 * verdict.confidence:.4g} % interval {' to '.join(ends)} ({method})"
        parts.append(f"standard deviation of the {'log ratios' if log else 'differences'} {difference.deviation:.2g}")
        parts[2] += f", taken as {difference.least:.2g}, one test example's worth" * verdict.floored
    effect, least = verdict.effect, verdict.detectable
    if effect is not None and effect.low is not None and effect.high is not None:
        parts.append(f"Hedges' g {about(effect.estimate)} ({about(effect.low)} to {about(effect.high)})")
    if least is not None and least < math.inf:
        parts.append(f"minimum detectable {'ratio' if log else 'difference'} {about(least)} at 80 % power")
    if verdict.signed_rank_p is not None:
        parts.append(f"exact signed-rank p = {verdict.signed_rank_p:.2g}, which decides nothing")
    if difference.raised:
        parts.append("values below half a test example were taken as half of one")
    if metric.scale == "log" and not log:
        parts.append("linear scale, since a value is not positive and has no logarithm")
    return "; ".join(parts)


def count(unit: str, number: int) -> str:
    """Return a number of units in words, such as ``5 rounds`` or ``1 fresh seed``."""
    return f"{number} {'round' if unit == 'round' else 'fresh seed'}{'s' * (number != 1)}"


def _every(unit: str, number: int) -> str:
    words = count(unit, number)
    return {1: f"the only {words[2:]}", 2: f"both {words[2:]}"}.get(number, f"all {words}")


def _first_part(verdict: Verdict, difference: Difference, metric: Metric) -> str:
    first, second, name = verdict.first, verdict.second, f"test {metric.name.removesuffix(' %')}"
    leader, follower, amount = _lead(verdict, metric)
    log = verdict.scale == "log"
    lead = f"{leader}'s {name} is {amount}" if log else f"{leader} ahead by {amount}" if leader else amount
    if difference.half_width is None:
        alone = verdict.unit == "seed" and sum(verdict.lost) == 0
        only = "One fresh seed" if alone else f"Only {count(verdict.unit, 1)} that both finished"
        return f"{only}: no interval; {lead}"
    if not any(difference.values):
        return f"No difference between {first} and {second}: equal {name} in {_every(verdict.unit, verdict.units)}"
    if verdict.better is not None:
        return f"{leader} is better than {follower}{f': its {name} is' if log else ' by'} {amount}"
    if verdict.coarse:
        example = f"one test example ({about(metric.resolution)}{' points' * metric.name.endswith(' %')})"
        text = f"The metric is too coarse to compare {first} and {second}: "
        if difference.within:
            return f"{text}all differences are within {example}"
        return f"{text}the spread between {count(verdict.unit, 2)[2:]} is below {example}; {lead}"
    if abs(difference.mean) > difference.half_width:
        return f"Neither {first} nor {second} is better: {lead} where both finished, but it diverged more often"
    text = f"No significant difference between {first} and {second}: {lead}"
    if verdict.detectable is None or (log and verdict.detectable > _MOST):
        return text
    least = f"{'a factor of ' * log}about {about(verdict.detectable)}"
    return f"{text}; differences above {least} would have been detected"


def _lead(verdict: Verdict, metric: Metric) -> tuple[str, str, str]:
    """Return who is better by the mean, who is not, and by how much; a linear difference that reads 0 has no leader."""
    assert verdict.difference is not None
    log = verdict.scale == "log"
    values = [verdict.difference, *(limit for limit in (verdict.low, verdict.high) if limit is not None)]
    leader, follower = verdict.first, verdict.second
    null = 1.0 if log else 0.0
    if verdict.difference != null and (verdict.difference > null) != metric.maximize:
        leader, follower = follower, leader
    if log and leader == verdict.second:
        values = [1 / value if value else math.inf for value in values]
    elif not log and verdict.difference < 0:
        values = [-value for value in values]
    estimate, *limits = _numbers(values[0], sorted(values[1:]), log)
    interval = f" ({' to '.join(limits)})" * bool(limits)
    if log:
        return leader, follower, f"{estimate} {'of' if values[0] < 1 else 'times'} {follower}'s{interval}"
    points = f"point{'s' * (estimate != '1')} of" if metric.name.endswith(" %") else "in"
    amount = f"{estimate} {points} test {metric.name.removesuffix(' %')}{interval}"
    return leader if float(estimate) else "", follower, amount


def _numbers(estimate: float, limits: list[float], log: bool) -> list[str]:
    if log:
        return ratios(estimate, limits)
    places = decimals(estimate, limits)
    return [fixed(value, places) for value in (estimate, *limits)]


def _losses(verdict: Verdict, planned: tuple[int, int]) -> list[str]:
    phrases = []
    for name, lost, total in zip((verdict.first, verdict.second), verdict.lost, planned, strict=True):
        units = _every(verdict.unit, total) if lost == total else f"{lost} of {count(verdict.unit, total)}"
        phrases += [f"{name} diverged {'in' if verdict.unit == 'round' else 'on'} {units}"] * (lost > 0)
    return phrases


def _without_difference(verdict: Verdict, planned: tuple[int, int], losses: list[str]) -> str:
    names = verdict.first, verdict.second
    left = [name for name, lost, total in zip(names, verdict.lost, planned, strict=True) if lost < total]
    if not left:
        start = f"Neither {names[0]} nor {names[1]} has a result"
    elif len(left) == 1:
        start = f"Of {names[0]} and {names[1]} only {left[0]} has a result"
    else:
        start = f"There is no {count(verdict.unit, 1)[2:]} that both {names[0]} and {names[1]} finished"
    reasons = [f"{name} has no run" for name, total in zip(names, planned, strict=True) if total == 0] + losses
    return f"{start}: {'; '.join(reasons)}" if reasons else start
