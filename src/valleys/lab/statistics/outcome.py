"""Input of the statistics, a comparison's outcomes, and their output, the verdict on a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from valleys.lab.statistics.censored import TimeComparison
from valleys.lab.statistics.intervals import Interval

__all__ = ["Metric", "Outcome", "Verdict"]


@dataclass(frozen=True)
class Metric:
    """The test metric.

    Args:
        name: with its unit, such as "accuracy %" or "mean squared error".
        maximize: whether a larger value is better.
        scale: "linear", where a difference is a difference, or "log", where it is a ratio.
        resolution: one test example's worth; 0: continuous.
    """

    name: str
    maximize: bool
    scale: str = "linear"
    resolution: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """One optimizer's results, by unit: the number of the round or, with one round, of the fresh seed.

    Args:
        test: test metric; None where the unit is lost: every trial diverged, or a run on a fresh seed did.
        validation: validation metric of the same runs.
        steps, seconds: steps and seconds to the target, a missed target counting as infinite.
        step_seconds: median seconds of a training step.
        state_bytes, parameter_bytes: of the optimizer's state and of the parameters; None without runs.
        horizon: steps of a whole run; None without runs.
    """

    test: Mapping[int, float | None]
    validation: Mapping[int, float | None] = field(default_factory=dict)
    steps: Mapping[int, float] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    step_seconds: Mapping[int, float] = field(default_factory=dict)
    state_bytes: int | None = None
    parameter_bytes: int | None = None
    horizon: int | None = None


@dataclass(frozen=True)
class Verdict:
    """One optimizer compared with another.

    Args:
        first, second: the pair, in the order in which it was planned.
        better: the better of the two; None where no difference is significant.
        unit: "round"; "seed" where there is one round, and the verdict speaks of its tuned values alone.
        units: how many both finished.
        lost: how many each of the two lost to divergence.
        difference: mean of first minus second in the metric's unit; on a log scale the ratio of first to second. None
            where no unit was finished by both.
        low, high: limits of its interval; None with fewer than two units.
        confidence: coverage of the interval, such as 0.975 where two pairs share 5 %.
        deviation: standard deviation of the paired differences, on the scale (of logarithms, on a log scale).
        floored: whether that is below one test example's worth, which then takes its place.
        coarse: whether it is floored and the interval includes no difference: the metric cannot tell the two apart.
        effect: Hedges' g of the paired differences; None below three units, and where floored.
        detectable: the smallest difference (ratio above 1 on a log scale) that so many units detect with 80 % power.
        signed_rank_p: two-sided p value of the exact signed-rank test, lost units counting as worst; a note, it decides
            nothing.
        steps, seconds: times to the target compared; None without a shared unit.
        sentence: the verdict for a person without statistics, without a full stop.
        details: a second line with what a statistician wants, without a full stop.
        cost: what a step and the way to the target cost, first beside second, without a full stop; may be empty.
        scale: on which the two were compared; "linear" for a metric of scale "log" whose values are not all positive.
    """

    first: str
    second: str
    better: str | None
    unit: str
    units: int
    lost: tuple[int, int]
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    deviation: float | None
    floored: bool
    coarse: bool
    effect: Interval | None
    detectable: float | None
    signed_rank_p: float | None
    steps: TimeComparison | None
    seconds: TimeComparison | None
    sentence: str
    details: str
    cost: str
    scale: str = "linear"
