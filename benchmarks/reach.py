"""Bounds on a step, judged on the medians of one run."""

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
    "states": (
        Bound("ALTO / AdamW fused", r"ALTO \w+", "AdamW fused", 1.75),
        Bound("ALTO, bfloat16 states / AdamW fused", r"ALTO \w+, bfloat16 states", "AdamW fused", 1.35),
        Bound("the same to nearest", r"ALTO \w+, bfloat16 states, nearest", "AdamW fused", 1.20),
        Bound("ALTO, 8-bit states / AdamW fused", r"ALTO \w+, 8-bit states", "AdamW fused", 1.20, aim=1.05),
        Bound("the same to nearest", r"ALTO \w+, 8-bit states, nearest", "AdamW fused", 1.20, aim=1.05),
        Bound("Lamb / AdamW fused", r"Lamb \w+", "AdamW fused", 1.45),
        Bound("adapt(AdamW fused) / AdamW fused", r"adapt\(AdamW fused\)", "AdamW fused", 1.45),
        Bound("the same, 8-bit buffer", r"adapt\(AdamW fused\), 8-bit states", "AdamW fused", 1.20),
    ),
    "cuda": (
        Bound("ALTO (best), bandwidth / copy", _ALTO, COPY, 0.8, bandwidth=True),
        Bound("Lamb (best), bandwidth / copy", _LAMB, COPY, 0.8, bandwidth=True),
        Bound("ALTO (best) / AdamW fused", _ALTO, "AdamW fused", 1.9),
        Bound("ALTO (best) / authors' ALTO", _ALTO, _AUTHORS, 0.2),
    ),
}


def judge(timings: Sequence[Timing], kind: str = "cpu") -> list[Verdict]:
    """Every bound of a kind of run against one.

    Args:
        timings: what :func:`timing.interleave` returned.
        kind: ``cpu``, ``cuda``, or ``states`` for compressed ones on a CPU.

    Returns:
        One verdict per bound.
    """
    return [_judge(bound, timings) for bound in BOUNDS[kind]]


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
