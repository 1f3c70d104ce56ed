"""Charts with an optimizer to a row or a panel: every run of it is a mark."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from valleys.lab.report.html import svg
from valleys.lab.report.html.scales import Scale, number, scale, words
from valleys.lab.report.html.svg import BOTTOM, RIGHT, TOP

__all__ = ["Row", "Trial", "extent", "panel", "strip"]

WIDTH, STEP = 460.0, 30.0
NAME = 18
"""Letters of a name that fit beside a row."""


@dataclass(frozen=True)
class Row:
    """One optimizer's row in a strip.

    Args:
        name: the optimizer.
        index: its number.
        values: one per run, finite.
        center: mean or median; None without one.
        half_width: of its interval; None without one.
        lost: runs that have no place on the axis.
    """

    name: str
    index: int
    values: Sequence[float]
    center: float | None = None
    half_width: float | None = None
    lost: int = 0


@dataclass(frozen=True)
class Trial:
    """One tuning run.

    Args:
        x: the hyperparameter.
        y: what it led to; None if it diverged.
        chosen: whether it is the one that went on.
    """

    x: float
    y: float | None
    chosen: bool = False


def strip(
    rows: Sequence[Row], *, title: str, x_title: str, lost: str, target: float | None = None, log: bool = False
) -> Markup:
    """A row per optimizer: a dot per run, the mean or median as a mark, its interval as a line.

    Args:
        rows: the optimizers.
        title: what the picture shows, for readers who do not see it.
        x_title: of the axis.
        lost: heading of the column that counts the runs without a place; it is there if there are any.
        target: where a line across is drawn.
        log: whether the axis is logarithmic; all numbers on it are positive then.

    Returns:
        The picture.
    """
    height = TOP + STEP * len(rows) + BOTTOM
    said = "; ".join(
        f"{row.name}: {number(row.center)} over {len(row.values)} runs" + f", {row.lost} {lost}" * bool(row.lost)
        for row in rows
    )
    root = svg.image(WIDTH, height, title, f"{x_title} across. {said}.")
    names = [svg.clipped(row.name, NAME) for row in rows]
    left = svg.text_width(names) + 12
    right = WIDTH - (86 if any(row.lost for row in rows) else RIGHT)
    places = [value for row in rows for value in extent(row)]
    if target is not None and places:
        places.append(target)
    x = scale(places or [0.0], left, right, log=log and bool(places), count=4)
    bottom = height - BOTTOM
    if places:
        for tick, label in zip(x.ticks, words(x.ticks), strict=True):
            svg.line(root, x(tick), TOP - 8, x(tick), bottom, "grid")
            svg.text(root, x(tick), bottom + 18, label, anchor="middle")
        svg.text(root, right, bottom + 37, x_title, "title", "end")
        if target is not None:
            svg.line(root, x(target), TOP - 8, x(target), bottom, "target")
            svg.text(root, x(target), TOP - 14, "target", "label", "middle")
    if any(row.lost for row in rows):
        svg.text(root, WIDTH, TOP - 14, lost, "label", "end")
    for number_, (row, name) in enumerate(zip(rows, names, strict=True)):
        _strip_row(root, row, name, x, TOP + STEP * number_ + 12, left, right)
    return svg.element(root)


def panel(
    name: str,
    index: int,
    trials: Sequence[Trial],
    extent: Sequence[float],
    *,
    x_title: str,
    y_title: str,
    maximize: bool,
    log_x: bool,
    log_y: bool,
    x_range: tuple[float, float] | None = None,
    target: float | None = None,
) -> Markup:
    """Every trial of one optimizer: what came of which hyperparameter.

    Args:
        name: the optimizer.
        index: its number.
        trials: its tuning runs.
        extent: numbers that the axis upwards has to hold, so that panels can be compared; finite.
        x_title: of the axis across.
        y_title: of the axis upwards.
        maximize: whether larger is better: diverged trials lie at the worse edge.
        log_x: whether the axis across is logarithmic; all numbers on it are positive then.
        log_y: the same of the axis upwards.
        x_range: of the hyperparameter; default: that of the trials.
        target: where a line across is drawn.

    Returns:
        The picture.
    """
    width, height, edge = 250.0, 200.0, 22.0
    diverged = sum(trial.y is None for trial in trials)
    said = f"{len(trials)} trials, {diverged} diverged"
    root = svg.image(width, height, f"{name}: {y_title} against {x_title}", f"{said}.", "chart small")
    bottom, top = height - BOTTOM - edge * maximize, TOP + edge * (not maximize)
    y = scale(extent or [0.0], bottom, top, log=log_y and bool(extent), count=4)
    left = max(svg.left(y), 40.0)
    across = [trial.x for trial in trials] + list(x_range or ())
    x = scale(across or [1.0], left, width - RIGHT, log=log_x, count=3)
    frame = Scale(y.low, y.high, height - BOTTOM, TOP, y.log, ())
    svg.axes(root, x, frame, x_title, y_title)
    for tick, label in zip(y.ticks if extent else (), words(y.ticks) if extent else (), strict=True):
        svg.line(root, x.start, y(tick), x.end, y(tick), "grid")
        svg.text(root, x.start - 7, y(tick) + 4, label, anchor="end")
    worst = height - BOTTOM - edge / 2 if maximize else TOP + edge / 2
    if target is not None and extent:
        svg.line(root, x.start, y(target), x.end, y(target), "target")
    if diverged:
        svg.path(
            root, f"M{svg.place(x.start)} {svg.place(worst - 9)}H{svg.place(x.end)}v18H{svg.place(x.start)}Z", "edge"
        )
        svg.text(root, x.start - 7, worst + 4, "div.", anchor="end")
    group = svg.series(root, name, index)
    for trial in trials:
        if trial.y is None:
            cross = f"M{svg.place(x(trial.x) - 4)} {svg.place(worst - 4)}l8 8m0 -8l-8 8"
            svg.path(group, cross, "cross")
        else:
            svg.marker(group, x(trial.x), y(trial.y), index)
            if trial.chosen:
                svg.marker(group, x(trial.x), y(trial.y), 0, 8, "ring")
    return svg.element(root)


def extent(row: Row) -> list[float]:
    """What an axis has to hold of a row.

    Args:
        row: one optimizer's.

    Returns:
        Its values, and the ends of its interval.

    Example:
        >>> extent(Row("sgd", 0, [1.0, 3.0], 2.0, 1.5))
        [1.0, 3.0, 0.5, 3.5]
    """
    ends = [] if row.center is None else [row.center - (row.half_width or 0), row.center + (row.half_width or 0)]
    return [*row.values, *ends]


def _strip_row(root: ET.Element, row: Row, name: str, x: Scale, y: float, left: float, right: float) -> None:
    svg.text(root, left - 12, y + 4, name, "label name", "end")
    group = svg.series(root, row.name, row.index)
    if row.center is not None:
        if row.half_width:
            svg.line(group, x(row.center - row.half_width), y, x(row.center + row.half_width), y, "interval")
        svg.marker(group, x(row.center), y, row.index, 5.5)
    seen: dict[int, int] = {}
    for value in row.values:
        column = round(x(value) / 3)
        # Runs that share a place are piled up, so that each is seen.
        seen[column] = seen.get(column, 0) + 1
        svg.marker(group, x(value), y - 9 - 4.5 * ((seen[column] - 1) % 3), 0, 2.2, "run")
    if row.lost:
        svg.text(root, WIDTH - 8, y + 4, str(row.lost), "label name", "end")
    elif not row.values:
        svg.text(root, (left + right) / 2, y + 4, "no finished run", "label", "middle")
