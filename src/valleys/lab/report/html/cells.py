"""Cells and tables of a page: a cell has its text and, where that is a number, the value it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valleys.lab.statistics.formatting import format_interval
from valleys.lab.statistics.intervals import Interval

__all__ = ["Cell", "Table", "number"]


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


def number(value: float | None, digits: int = 4) -> str:
    """Format a number as a table shows it: a dash for None, the sign for infinity.

    Example:
        >>> number(0.123456), number(None), number(math.inf), number(3.2e-7), number(16384.0, 3)
        ('0.1235', '-', '∞', '3.2e-7', '16384')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    whole = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else _short(f"{value:.{digits}g}")


def about_optimizers(
    caption: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]], index: dict[str, int]
) -> Table:
    """Make a table about optimizers, which the first cells name; all other columns are numbers."""
    numeric = [k > 0 for k in range(len(titles))]
    return Table(caption, titles, numeric, rows, [index[row[0].text] for row in rows])


def numeral(value: float | None, digits: int = 4) -> Cell:
    """Make a cell with a number of so many significant digits."""
    return Cell(number(value, digits), value)


def duration(value: float | None, units: int, digits: int = 6) -> Cell:
    """Make a cell with the median of a time to the target: None is infinite where there are units."""
    time = math.inf if value is None and units else value
    return Cell(number(time, digits), time)


def interval(limits: Mapping[str, Any] | None) -> Cell:
    """Make a cell with an ``Interval`` as a document has it, sorted by the estimate."""
    return Cell("-") if limits is None else Cell(format_interval(Interval(**limits)), limits["estimate"])


def scaled(value: float | None, factor: float) -> float | None:
    """Return a number in another unit."""
    return None if value is None else value * factor


def hyperparameters(values: Mapping[str, float]) -> str:
    """Return values in words."""
    words = {name: value if isinstance(value, str) else number(value, 3) for name, value in values.items()}
    return ", ".join(f"{name}={word}" for name, word in words.items()) or "none"


def _short(text: str) -> str:
    """Shorten ``1e-07`` to ``1e-7``, ``1e+06`` to ``1e6``."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text
