"""Charts as SVG text. Pure functions: numbers and names in, a picture out; the style sheet has the colours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from valleys.lab.report.html import svg
from valleys.lab.report.html.scales import Scale, number, scale
from valleys.lab.report.html.svg import BOTTOM, RIGHT, TOP

__all__ = ["Dots", "Line", "lines", "slots"]

_WIDTH, _HEIGHT, _WIDE = 460.0, 300.0, 720.0
_POINTS = 240  # places along a line beyond which the eye sees no more of them


@dataclass(frozen=True)
class Line:
    """One optimizer's line.

    Args:
        name, index: the optimizer, and its number, which chooses colour and dashes.
        xs, ys: finite numbers, xs rising.
        lows, highs: of the band around it; empty without one.
    """

    name: str
    index: int
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclass(frozen=True)
class Dots:
    """One optimizer's estimates by the slot's number: mean, and the limits of its interval, None without one."""

    name: str
    index: int
    estimates: dict[int, tuple[float, float | None, float | None]]


def lines(
    series: Sequence[Line],
    *,
    title: str,
    x_title: str,
    y_title: str,
    target: float | None = None,
    log_x: bool = False,
    log_y: bool = False,
    stairs: bool = False,
) -> Markup:
    """Draw lines with bands; those without points are left out.

    All numbers on a logarithmic axis are positive. ``title`` is for readers who do not see the picture; ``target`` is
    where a line across is drawn; with ``stairs`` a value holds until the next.
    """
    drawn = [thin(entry) for entry in series if entry.xs]
    ends = "; ".join(f"{e.name}: {number(e.ys[-1])} at {number(e.xs[-1])}" for e in drawn)
    root = svg.image(_WIDTH, _HEIGHT, title, f"{x_title} across, {y_title} upwards. {ends or 'nothing to show'}.")
    if not drawn:
        svg.message(root, _WIDTH, _HEIGHT, "no run to show")
        return svg.element(root)
    heights = [y for e in drawn for y in (*e.ys, *e.lows, *e.highs)] + ([] if target is None else [target])
    y = scale(heights, _HEIGHT - BOTTOM, TOP, log=log_y)
    x = _across([v for e in drawn for v in e.xs], y, log_x)
    svg.axes(root, x, y, x_title, y_title)
    if target is not None:
        svg.line(root, x.start, y(target), x.end, y(target), "target")
    for entry in drawn:
        if entry.lows:
            group = svg.series(root, entry.name, entry.index)
            upper = [(x(a), y(b)) for a, b in zip(entry.xs, entry.highs, strict=True)]
            lower = [(x(a), y(b)) for a, b in zip(entry.xs, entry.lows, strict=True)]
            svg.path(group, svg.polyline([*upper, *reversed(lower)]) + "Z", "band")
    for entry in drawn:
        points = [(x(a), y(b)) for a, b in zip(entry.xs, entry.ys, strict=True)]
        group = svg.series(root, entry.name, entry.index)
        svg.path(group, svg.polyline(_stairs(points) if stairs else points), f"line d{entry.index % svg.DASHES}")
        svg.marker(group, *points[-1], entry.index)
    return svg.element(root)


def slots(
    series: Sequence[Dots], labels: Sequence[str], *, title: str, x_title: str, y_title: str, log_y: bool = False
) -> Markup:
    """Draw estimates with intervals, the optimizers side by side in each slot.

    All numbers on a logarithmic axis are positive. Slots have labels from left to right; what follows a comma stands on
    a second line. ``title`` is for readers who do not see the picture.
    """
    description = "; ".join(
        f"{entry.name}: "
        + ", ".join(f"{number(mean)} at {labels[slot]}" for slot, (mean, *_) in entry.estimates.items())
        for entry in series
    )
    parts = [label.split(", ", 1) for label in labels]
    room = max(14.0 * len(series) + 24, svg.text_width(part for both in parts for part in both))
    width, bottom = max(_WIDE, 60 + len(labels) * room), _HEIGHT - BOTTOM - 16
    root = svg.image(width, _HEIGHT, title, f"{x_title} across, {y_title} upwards. {description}.", "chart wide")
    root.set("width", svg.place(width))
    heights = [v for entry in series for limits in entry.estimates.values() for v in limits if v is not None]
    if not heights:
        svg.message(root, width, _HEIGHT, "no run to show")
        return svg.element(root)
    y = scale(heights, bottom, TOP, log=log_y)
    left = svg.left(y)
    x = Scale(0, len(labels), left, width - RIGHT, False, ())
    svg.axes(root, x, y, "", y_title)
    svg.text(root, x.end, _HEIGHT - 8, x_title, "title", "end")
    for slot, both in enumerate(parts):
        for below, part in enumerate(both):
            svg.text(root, x(slot + 0.5), bottom + 18 + 15 * below, part, anchor="middle")
        if slot:
            svg.line(root, x(slot), y.start, x(slot), y.start + 6, "axis")
    step = min(16.0, 0.8 * (x(1) - x(0)) / len(series))
    for number_, entry in enumerate(series):
        shift = step * (number_ - (len(series) - 1) / 2)
        group = svg.series(root, entry.name, entry.index)
        for slot, (mean, low, high) in sorted(entry.estimates.items()):
            middle = x(slot + 0.5) + shift
            if low is not None and high is not None:
                svg.line(group, middle, y(low), middle, y(high), "interval")
            svg.marker(group, middle, y(mean), entry.index, 5)
    return svg.element(root)


def thin(entry: Line, limit: int = _POINTS) -> Line:
    """Return a line with at most three points to each of ``limit`` stretches that looks the same.

    Of each stretch the last point is kept, and the lowest and the highest; the band keeps its outermost limits.

    Example:
        >>> spiky = Line("a", 0, list(range(1000)), [float(x == 501) for x in range(1000)])
        >>> thinned = thin(spiky, 10)
        >>> len(thinned.xs), 501 in thinned.xs, thinned.xs[-1]
        (21, True, 999)
    """
    n = len(entry.xs)
    if n <= limit:
        return entry
    kept: list[int] = []
    lows, highs = list(entry.lows), list(entry.highs)
    for k in range(limit):
        stretch = range(k * n // limit, (k + 1) * n // limit)
        ends = {min(stretch, key=entry.ys.__getitem__), max(stretch, key=entry.ys.__getitem__), stretch[-1]}
        if k == 0:
            ends.add(0)
        kept += sorted(ends)
        if entry.lows:
            low, high = min(entry.lows[i] for i in stretch), max(entry.highs[i] for i in stretch)
            for i in ends:
                lows[i], highs[i] = low, high
    return Line(
        entry.name,
        entry.index,
        [entry.xs[i] for i in kept],
        [entry.ys[i] for i in kept],
        [lows[i] for i in kept] if entry.lows else (),
        [highs[i] for i in kept] if entry.highs else (),
    )


def _across(values: Sequence[float], y: Scale, log: bool) -> Scale:
    return scale(values, svg.left(y), _WIDTH - RIGHT, log=log)


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    corners = [(after[0], before[1]) for before, after in itertools.pairwise(points)]
    return [place for pair in zip(points, [*corners, points[-1]], strict=True) for place in pair]
