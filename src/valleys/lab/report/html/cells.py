"""What tables are made of: a cell is what it says and, where that is a number, what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valleys.lab.report.html.scales import number
from valleys.lab.statistics import format_mean

__all__ = ["Cell", "Table", "about_optimizers", "duration", "hyperparameters", "interval", "mean", "numeral", "scaled"]


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
        caption: what it holds.
        titles: of the columns.
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
    """A table about optimizers: numbers in all columns but the first and the last ones.

    Args:
        caption: what it holds.
        titles: of the columns.
        rows: the cells; the first of each row is the optimizer.
        index: numbers of the optimizers.
        text: how many columns at the end are no numbers.

    Returns:
        The table.
    """
    numeric = [0 < k < len(titles) - text for k in range(len(titles))]
    return Table(caption, titles, numeric, rows, [index[row[0].text] for row in rows])


def numeral(value: float | None, digits: int = 4) -> Cell:
    """A cell with a number.

    Args:
        value: the number; None where there is none.
        digits: significant ones.

    Returns:
        The cell.
    """
    return Cell(number(value, digits), value)


def duration(value: float | None, runs: int, digits: int = 6) -> Cell:
    """A cell with the median of a time to the target.

    Args:
        value: the time; None where it is infinite, or there are no runs.
        runs: how many there are.
        digits: significant ones.

    Returns:
        The cell.
    """
    found = math.inf if value is None and runs else value
    return Cell(number(found, digits), found)


def mean(found: Sequence[Any] | None) -> Cell:
    """A cell with a mean and its interval, sorted by the mean.

    Args:
        found: mean and half width (None without an interval); None where there is no mean.

    Returns:
        The cell.
    """
    return Cell("-") if found is None else Cell(format_mean(found[0], found[1]), found[0])


def interval(found: Mapping[str, Any] | None) -> Cell:
    """A cell with an estimate between limits, sorted by the estimate.

    Args:
        found: ``estimate``, ``low`` and ``high``; None where there is none.

    Returns:
        The cell.
    """
    if found is None:
        return Cell("-")
    low, high = number(found["low"], 2), number(found["high"], 2)
    return Cell(f"{number(found['estimate'], 2)} ({low} to {high})", found["estimate"])


def scaled(value: float | None, factor: float) -> float | None:
    """A number in another unit.

    Args:
        value: the number; None where there is none.
        factor: how many of the new unit make one of the old.

    Returns:
        The number; None where there was none.
    """
    return None if value is None else value * factor


def hyperparameters(values: Mapping[str, float] | None) -> str:
    """Chosen values in words.

    Args:
        values: by name; None if every trial diverged.

    Returns:
        The words.
    """
    if values is None:
        return "all trials diverged"
    words = {name: value if isinstance(value, str) else number(value, 3) for name, value in values.items()}
    return ", ".join(f"{name}={word}" for name, word in words.items()) or "none"
