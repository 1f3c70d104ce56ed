"""Intervals, paired differences, times to a target, and the sentence that says who won.

One idea per module: :mod:`~.intervals`, :mod:`~.ranks`, :mod:`~.paired`, :mod:`~.multiple`, :mod:`~.effect`,
:mod:`~.power`, :mod:`~.censored`, :mod:`~.profiles`, :mod:`~.verdicts`.
"""

from __future__ import annotations

from valleys.lab.statistics.censored import TimeComparison, compare_times, median_interval, reached_share
from valleys.lab.statistics.effect import hedges_g
from valleys.lab.statistics.intervals import Interval, bootstrap_interval, mean_interval, median
from valleys.lab.statistics.multiple import holm
from valleys.lab.statistics.outcome import Rival, Verdict
from valleys.lab.statistics.paired import Difference, paired_difference
from valleys.lab.statistics.power import Detectable, detectable_difference, paired_power, seeds_needed
from valleys.lab.statistics.profiles import Profile, performance_profiles
from valleys.lab.statistics.ranks import sign_p, signed_rank_p
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
    "bootstrap_interval",
    "compare_times",
    "detectable_difference",
    "format_mean",
    "hedges_g",
    "holm",
    "judge",
    "mean_interval",
    "median",
    "median_interval",
    "paired_difference",
    "paired_power",
    "performance_profiles",
    "reached_share",
    "seeds_needed",
    "sign_p",
    "signed_rank_p",
    "verdict",
]
