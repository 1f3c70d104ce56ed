"""The verdict of a comparison and its parts."""

from __future__ import annotations

from dataclasses import dataclass

from valleys.lab.statistics.effect import Detectable
from valleys.lab.statistics.intervals import Interval
from valleys.lab.statistics.paired import Difference

__all__ = ["Rival", "Verdict"]


@dataclass(frozen=True)
class Rival:
    """The leader's standing against one other optimizer.

    Args:
        name: the other optimizer.
        difference: by how much the leader is better (positive), whichever way the metric points; None if no
            seed was finished by both.
        p: p value of the paired t test after Holm's correction over all pairs of optimizers; None below two pairs.
        beaten: whether the leader is better and ``p`` is below the level.
        effect: Hedges' g of the paired differences, positive where the leader is better; None below three pairs.
        wilcoxon_p: the same as ``p`` of Wilcoxon's signed rank test; it decides nothing. None below two pairs.
        detectable: the smallest difference that so many seeds would have found with 80 % power at the strictest of
            Holm's thresholds; None below two pairs and where the differences are all alike.
    """

    name: str
    difference: Difference | None
    p: float | None
    beaten: bool
    effect: Interval | None = None
    wilcoxon_p: float | None = None
    detectable: Detectable | None = None


@dataclass(frozen=True)
class Verdict:
    """The best optimizer, and its lead.

    Args:
        leader: the best optimizer; None if no run finished.
        rivals: all others, best first.
        sentence: the same in words.
    """

    leader: str | None
    rivals: tuple[Rival, ...]
    sentence: str
