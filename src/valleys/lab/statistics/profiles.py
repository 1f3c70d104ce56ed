"""Performance profiles over several tasks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Profile", "performance_profiles"]


@dataclass(frozen=True)
class Profile:
    """The share of tasks on which an optimizer is within a factor of the fastest: a step function.

    Args:
        taus: where it steps, rising from 1.
        shares: its value from each step on.
        area: its mean over factors from 1 to ``tau_max``, linear in the factor; 1 is best.
        tau_max: end of the area; the steps go on beyond it.
    """

    taus: tuple[float, ...]
    shares: tuple[float, ...]
    area: float
    tau_max: float

    def at(self, tau: float) -> float:
        """Return the share of tasks within the factor ``tau``: 0 below 1."""
        step = bisect.bisect_right(self.taus, tau)
        return self.shares[step - 1] if step else 0.0


def performance_profiles(times: Mapping[str, Mapping[str, float]], *, tau_max: float = 4.0) -> dict[str, Profile]:
    r"""Compute the performance profiles of optimizers over tasks.

    .. math::
        r_{p,s} = t_{p,s} / \min_{s'} t_{p,s'},\quad
        \rho_s(\tau) = |\{p : r_{p,s} \le \tau\}| / n,\quad
        A_s = \frac{1}{\tau_{\max} - 1} \int_1^{\tau_{\max}} \rho_s(\tau)\, d\tau

    Optimizers that tie for the fastest all count at factor 1. A missed target is within no factor. A task that
    everyone missed still counts among the n, so it lowers every profile alike and moves none past another. The area
    is linear in the factor and exact, up to 4 by default, as in AlgoPerf; times between 1 and 4 of the
    fastest decide it. A profile depends on who else takes part: adding a fast optimizer may change the order of two
    others (Gould and Scott 2016), so read profiles as a picture, and pairs by :func:`~.compare_times`.

    Args:
        times: by task and optimizer, such as medians over seeds; infinite where the target was missed. The same
            optimizers on all tasks.
        tau_max: where the area ends, above 1.

    Returns:
        A profile by optimizer, in the order of the first task.

    Raises:
        ValueError: without tasks or optimizers, if an optimizer lacks a task, or if a number is out of its range.

    Example:
        >>> profiles = performance_profiles({"x": {"a": 1.0, "b": 2.0}, "y": {"a": float("inf"), "b": 5.0}})
        >>> profiles["a"].at(1), profiles["a"].area
        (0.5, 0.5)
        >>> profiles["b"].taus, profiles["b"].shares
        ((1.0, 2.0), (0.5, 1.0))

    Source:
        Dolan and More, Benchmarking optimization software with performance profiles, Mathematical Programming 91,
        2002; the area: Dahl et al., arXiv 2306.07179; the caveat: Gould and Scott, A note on performance profiles,
        ACM Transactions on Mathematical Software 43, 2016.
    """
    if not 1 < tau_max < math.inf:
        raise ValueError(f"tau_max must be above 1 and finite, not {tau_max}")
    names = list(next(iter(times.values()), {}))
    if not names:
        raise ValueError("a profile needs at least one task and one optimizer")
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for task, row in times.items():
        if row.keys() != ratios.keys():
            raise ValueError(f"task {task!r} has other optimizers than the first: {sorted(row.keys() ^ ratios.keys())}")
        if not all(time > 0 for time in row.values()):
            raise ValueError(f"task {task!r}: times must be positive numbers, infinite for a missed target")
        best = min(row.values())
        for name, time in row.items():
            ratios[name].append(time / best if math.isfinite(time) else math.inf)
    return {name: _profile(values, tau_max) for name, values in ratios.items()}


def _profile(ratios: list[float], tau_max: float) -> Profile:
    taus = tuple(sorted({1.0, *filter(math.isfinite, ratios)}))
    shares = tuple(sum(ratio <= tau for ratio in ratios) / len(ratios) for tau in taus)
    # Each task adds the stretch from its ratio to the end, which is the integral of its step.
    stretches = math.fsum(max(tau_max - ratio, 0.0) for ratio in ratios)
    return Profile(taus, shares, stretches / len(ratios) / (tau_max - 1), tau_max)
