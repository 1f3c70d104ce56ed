"""Verdicts on pairs of optimizers: intervals of paired differences, times to a target, and sentences.

One idea per module: :mod:`~.intervals`, :mod:`~.paired`, :mod:`~.effect`, :mod:`~.signed_rank`, :mod:`~.censored`,
:mod:`~.profiles`, :mod:`~.budget`, :mod:`~.verdicts`.
"""

from __future__ import annotations

from valleys.lab.statistics.budget import BudgetPoint, budget_curve
from valleys.lab.statistics.censored import TimeComparison, compare_times
from valleys.lab.statistics.effect import detectable_difference, hedges_g
from valleys.lab.statistics.formatting import format_mean
from valleys.lab.statistics.intervals import Interval, mean_interval, mean_on_scale, median
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.statistics.paired import Difference, paired_difference
from valleys.lab.statistics.profiles import Profile, performance_profiles
from valleys.lab.statistics.signed_rank import signed_rank_p
from valleys.lab.statistics.verdicts import judge, two_best

__all__ = [
    "BudgetPoint",
    "Difference",
    "Interval",
    "Metric",
    "Outcome",
    "Profile",
    "TimeComparison",
    "Verdict",
    "budget_curve",
    "compare_times",
    "detectable_difference",
    "format_mean",
    "hedges_g",
    "judge",
    "mean_interval",
    "mean_on_scale",
    "median",
    "paired_difference",
    "performance_profiles",
    "signed_rank_p",
    "two_best",
]
