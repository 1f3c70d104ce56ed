"""Intervals, paired differences, times to a target, and the verdict in a sentence.

One idea per module: :mod:`~.intervals`, :mod:`~.p_values`, :mod:`~.paired`, :mod:`~.effect`, :mod:`~.censored`,
:mod:`~.profiles`, :mod:`~.verdicts`.
"""

from __future__ import annotations

from valleys.lab.statistics.censored import TimeComparison, compare_times
from valleys.lab.statistics.effect import Detectable, detectable_difference, hedges_g
from valleys.lab.statistics.intervals import Interval, mean_interval, median
from valleys.lab.statistics.outcome import Rival, Verdict
from valleys.lab.statistics.p_values import holm, sign_p, signed_rank_p
from valleys.lab.statistics.paired import Difference, paired_difference
from valleys.lab.statistics.profiles import Profile, performance_profiles
from valleys.lab.statistics.sentences import format_mean
from valleys.lab.statistics.verdicts import judge, verdict

__all__ = [
    "Detectable",
    "Difference",
    "Interval",
    "Profile",
    "Rival",
    "TimeComparison",
    "Verdict",
    "compare_times",
    "detectable_difference",
    "format_mean",
    "hedges_g",
    "holm",
    "judge",
    "mean_interval",
    "median",
    "paired_difference",
    "performance_profiles",
    "sign_p",
    "signed_rank_p",
    "verdict",
]
