"""The bounds that the issue sets on a step, judged on the medians of one run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from timing import COPY, Timing, quartiles

__all__ = ["BOUNDS", "Bound", "Verdict", "judge"]


@dataclass(frozen=True)
class Bound:
    """A bound on a ratio of two medians; each side is the fastest contender that its pattern matches.

    Args:
        text: the ratio in words.
        above: regular expression of the numerator's names, matched in full.
        below: the same for the denominator.
        limit: what the ratio must not exceed; with ``bandwidth`` what it must reach; None: shown, not demanded.
        aim: a better value that is hoped for.
        bandwidth: compare bytes per second instead of seconds.
    """

    text: str
    above: str
    below: str
    limit: float | None
    aim: float | None = None
    bandwidth: bool = False


@dataclass(frozen=True)
class Verdict:
    """A bound, judged.

    Args:
        bound: which one.
        names: numerator and denominator; None where a side did not run.
        ratio: of the medians.
        spread: quartiles of the ratio within the rounds.
        met: whether the bound holds; None without a bound or without its two sides.
        failure: why not.
    """

    bound: Bound
    names: tuple[str, str] | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    met: bool | None = None
    failure: str | None = None


_ALTO, _LAMB = r"ALTO \w+", r"Lamb \w+"
_AUTHORS = "authors' ALTO"

BOUNDS: dict[str, tuple[Bound, ...]] = {
    "cpu": (
        Bound("ALTO (best) / authors' ALTO", _ALTO, _AUTHORS, 0.25),
        Bound("ALTO (best) / pytorch_optimizer Lamb", _ALTO, "pytorch_optimizer Lamb", 0.40),
        Bound("ALTO (best) / pytorch_optimizer Lamb, foreach=False", _ALTO, "pytorch_optimizer Lamb loop", None),
        Bound("ALTO (best) / AdamW fused", _ALTO, "AdamW fused", 2.2, aim=1.7),
        Bound("ALTO foreach / authors' ALTO", "ALTO foreach", _AUTHORS, 0.5),
        Bound("Lamb (best) / AdamW fused", _LAMB, "AdamW fused", 1.9),
        Bound(
            "adapt(AdamW fused) / authors' E on the same base",
            r"adapt\(AdamW fused\)",
            r"authors' E\(AdamW fused\)",
            0.6,
        ),
        Bound("adapt(AdamW fused) / AdamW fused", r"adapt\(AdamW fused\)", "AdamW fused", 2.2),
    ),
    "cuda": (
        Bound("ALTO (best), bandwidth / copy", _ALTO, COPY, 0.8, bandwidth=True),
        Bound("Lamb (best), bandwidth / copy", _LAMB, COPY, 0.8, bandwidth=True),
        Bound("ALTO (best) / AdamW fused", _ALTO, "AdamW fused", 1.9),
        Bound("ALTO (best) / authors' ALTO", _ALTO, _AUTHORS, 0.2),
    ),
}


def judge(timings: Sequence[Timing], device: str = "cpu") -> list[Verdict]:
    """Every bound of a device against a run.

    Args:
        timings: what :func:`timing.interleave` returned.
        device: ``cpu`` or ``cuda``.

    Returns:
        One verdict per bound.
    """
    return [_judge(bound, timings) for bound in BOUNDS[device]]


def _judge(bound: Bound, timings: Sequence[Timing]) -> Verdict:
    sides: list[Timing] = []
    for pattern in (bound.above, bound.below):
        matching = [timing for timing in timings if re.fullmatch(pattern, timing.name)]
        ran = [timing for timing in matching if timing.failure is None]
        if not ran:
            failures = "; ".join(f"{timing.name}: {timing.failure}" for timing in matching)
            return Verdict(bound, failure=failures or f"nothing in this run matches {pattern}")
        sides.append(min(ran, key=lambda timing: timing.median))
    above, below = sides
    ratios = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    ratio = above.median / below.median
    if bound.bandwidth:
        share = above.traffic / below.traffic
        ratio, ratios = share / ratio, [share / value for value in ratios]
    met = None if bound.limit is None else (ratio >= bound.limit if bound.bandwidth else ratio <= bound.limit)
    return Verdict(bound, (above.name, below.name), ratio, quartiles(ratios), met)
