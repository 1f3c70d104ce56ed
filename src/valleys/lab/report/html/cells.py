"""Cells and tables of a page: a cell has its text and, where that is a number, the value it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valleys.lab.report.html.scales import number
from valleys.lab.statistics import format_mean

__all__ = ["Cell", "Table"]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: what is shown.
        value: what a numeric column is sorted by, infinity included; None sorts last.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """One table; the first cell of a row is its heading.

    Args:
        caption, titles: of the table and of its columns.
        numeric: which columns are numbers.
        rows: the cells.
        index: number of the optimizer that a row is about; empty if rows are about something else.
        sortable: whether the order of the rows is the reader's to choose.
    """

    caption: str
    titles: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[Cell]]
    index: Sequence[int] = field(default=())
    sortable: bool = True


def about_optimizers(
    caption: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]], index: dict[str, int], text: int = 0
) -> Table:
    """Make a table about optimizers, which the first cells name.

    All columns are numbers but the first and the last ``text`` ones.
    """
    numeric = [0 < k < len(titles) - text for k in range(len(titles))]
    return Table(caption, titles, numeric, rows, [index[row[0].text] for row in rows])


def numeral(value: float | None, digits: int = 4) -> Cell:
    """Make a cell with a number of so many significant digits."""
    return Cell(number(value, digits), value)


def duration(value: float | None, runs: int, digits: int = 6) -> Cell:
    """Make a cell with the median of a time to the target: None is infinite where there are runs."""
    time = math.inf if value is None and runs else value
    return Cell(number(time, digits), time)


def mean(estimate: Sequence[Any] | None) -> Cell:
    """Make a cell with a mean and the half width of its interval, sorted by the mean."""
    return Cell("-") if estimate is None else Cell(format_mean(estimate[0], estimate[1]), estimate[0])


def interval(limits: Mapping[str, Any] | None) -> Cell:
    """Make a cell with an ``estimate`` between ``low`` and ``high``, sorted by the estimate."""
    if limits is None:
        return Cell("-")
    low, high = number(limits["low"], 2), number(limits["high"], 2)
    return Cell(f"{number(limits['estimate'], 2)} ({low} to {high})", limits["estimate"])


def scaled(value: float | None, factor: float) -> float | None:
    """Return a number in another unit."""
    return None if value is None else value * factor


def hyperparameters(values: Mapping[str, float] | None) -> str:
    """Return chosen values in words; None if every trial diverged."""
    if values is None:
        return "all trials diverged"
    words = {name: value if isinstance(value, str) else number(value, 3) for name, value in values.items()}
    return ", ".join(f"{name}={word}" for name, word in words.items()) or "none"
