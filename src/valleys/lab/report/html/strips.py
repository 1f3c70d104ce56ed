"""Charts with an optimizer to a row or a panel: every run of it is a mark."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from valleys.lab.report.html import svg
from valleys.lab.report.html.scales import Scale, number, scale, words
from valleys.lab.report.html.svg import BOTTOM, RIGHT, TOP

__all__ = ["Axis", "Row", "Trial", "panel", "strip"]

_WIDTH, _STEP = 460.0, 30.0
_NAME = 18  # letters of a name that fit beside a row


@dataclass(frozen=True)
class Row:
    """One optimizer's row in a strip.

    Args:
        name, index: the optimizer and its number.
        values: one per unit or run, finite.
        center: mean or median; None without one.
        low, high: limits of its interval; None without one.
        lost: runs that have no place on the axis.
    """

    name: str
    index: int
    values: Sequence[float]
    center: float | None = None
    low: float | None = None
    high: float | None = None
    lost: int = 0


@dataclass(frozen=True)
class Trial:
    """One tuning run: hyperparameter, outcome (None if it diverged), and whether it is the chosen one."""

    x: float
    y: float | None
    chosen: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis of a panel: its title, numbers that it has to hold, and whether it is logarithmic."""

    title: str
    values: Sequence[float] = ()
    log: bool = False


def strip(rows: Sequence[Row], *, title: str, x_title: str, lost: str, log: bool = False) -> Markup:
    """Draw a row per optimizer: a dot per run, the mean or median as a mark, its interval as a line.

    ``title`` is for readers who do not see the picture; ``lost`` heads the column that counts the runs without a place,
    which is there if there are any.
    """
    height = TOP + _STEP * len(rows) + BOTTOM
    description = "; ".join(
        f"{row.name}: {number(row.center)} over {len(row.values)} runs" + f", {row.lost} {lost}" * bool(row.lost)
        for row in rows
    )
    root = svg.image(_WIDTH, height, title, f"{x_title} across. {description}.")
    names = [svg.clipped(row.name, _NAME) for row in rows]
    left = svg.text_width(names) + 12
    right = _WIDTH - (86 if any(row.lost for row in rows) else RIGHT)
    places = [value for row in rows for value in extent(row)]
    x = scale(places or [0.0], left, right, log=log and bool(places), count=4)
    bottom = height - BOTTOM
    if places:
        for tick, label in zip(x.ticks, words(x.ticks), strict=True):
            svg.line(root, x(tick), TOP - 8, x(tick), bottom, "grid")
            svg.text(root, x(tick), bottom + 18, label, anchor="middle")
        svg.text(root, right, bottom + 37, x_title, "title", "end")
    if any(row.lost for row in rows):
        svg.text(root, _WIDTH, TOP - 14, lost, "label", "end")
    for number_, (row, name) in enumerate(zip(rows, names, strict=True)):
        _strip_row(root, row, name, x, TOP + _STEP * number_ + 12, left, right)
    return svg.element(root)


def panel(
    name: str,
    index: int,
    trials: Sequence[Trial],
    x: Axis,
    y: Axis,
    *,
    maximize: bool,
    target: float | None = None,
) -> Markup:
    """Draw every trial of one optimizer: the outcome over the hyperparameter.

    The axis across holds the trials as well; the same numbers upwards in all panels make them comparable.
    Diverged trials lie at the worse edge, by ``maximize``; ``target`` is where a line across is drawn.
    """
    width, height, edge = 250.0, 200.0, 22.0
    diverged = sum(trial.y is None for trial in trials)
    counts = f"{len(trials)} trials, {diverged} diverged"
    root = svg.image(width, height, f"{name}: {y.title} against {x.title}", f"{counts}.", "chart small")
    bottom, top = height - BOTTOM - edge * maximize, TOP + edge * (not maximize)
    up = scale(y.values or [0.0], bottom, top, log=y.log and bool(y.values), count=4)
    left = max(svg.left(up), 40.0)
    values = [*(trial.x for trial in trials), *x.values]
    across = scale(values or [1.0], left, width - RIGHT, log=x.log, count=3)
    frame = Scale(up.low, up.high, height - BOTTOM, TOP, up.log, ())
    svg.axes(root, across, frame, x.title, y.title)
    ticks = up.ticks if y.values else ()
    for tick, label in zip(ticks, words(ticks), strict=True):
        svg.line(root, across.start, up(tick), across.end, up(tick), "grid")
        svg.text(root, across.start - 7, up(tick) + 4, label, anchor="end")
    worst = height - BOTTOM - edge / 2 if maximize else TOP + edge / 2
    if target is not None and y.values:
        svg.line(root, across.start, up(target), across.end, up(target), "target")
    if diverged:
        start, end = svg.place(across.start), svg.place(across.end)
        svg.path(root, f"M{start} {svg.place(worst - 9)}H{end}v18H{start}Z", "edge")
        svg.text(root, across.start - 7, worst + 4, "div.", anchor="end")
    group = svg.series(root, name, index)
    for trial in trials:
        if trial.y is None:
            cross = f"M{svg.place(across(trial.x) - 4)} {svg.place(worst - 4)}l8 8m0 -8l-8 8"
            svg.path(group, cross, "cross")
        else:
            svg.marker(group, across(trial.x), up(trial.y), index)
            if trial.chosen:
                svg.marker(group, across(trial.x), up(trial.y), 0, 8, "ring")
    return svg.element(root)


def extent(row: Row) -> list[float]:
    """Return what an axis has to hold of a row: its values, and the ends of its interval.

    Example:
        >>> extent(Row("sgd", 0, [1.0, 3.0], 2.0, 0.5, 3.5))
        [1.0, 3.0, 2.0, 0.5, 3.5]
    """
    return [*row.values, *(value for value in (row.center, row.low, row.high) if value is not None)]


def _strip_row(root: ET.Element, row: Row, name: str, x: Scale, y: float, left: float, right: float) -> None:
    svg.text(root, left - 12, y + 4, name, "label name", "end")
    group = svg.series(root, row.name, row.index)
    if row.center is not None:
        if row.low is not None and row.high is not None:
            svg.line(group, x(row.low), y, x(row.high), y, "interval")
        svg.marker(group, x(row.center), y, row.index, 5.5)
    seen: dict[int, int] = {}
    for value in row.values:
        column = round(x(value) / 3)
        # Runs that share a place are piled up, so that each is seen.
        seen[column] = seen.get(column, 0) + 1
        svg.marker(group, x(value), y - 9 - 4.5 * ((seen[column] - 1) % 3), 0, 2.2, "run")
    if row.lost:
        svg.text(root, _WIDTH - 8, y + 4, str(row.lost), "label name", "end")
    elif not row.values:
        svg.text(root, (left + right) / 2, y + 4, "no finished run", "label", "middle")
