"""Tables of a report: one class, shown on a terminal, in Markdown and on a page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from valleys.lab.statistics.formatting import format_interval
from valleys.lab.statistics.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_GAP = 2  # spaces between the columns of a terminal


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    value: float | None = None  # what a numeric column is sorted by, infinity included; None sorts last


@dataclass(frozen=True)
class Table:
    """One table; the first cell of a row is its heading. The page's template renders it as HTML."""

    caption: str
    titles: Sequence[str]
    numeric: Sequence[bool]  # which columns are numbers
    rows: Sequence[Sequence[Cell]]
    index: Sequence[int] = ()  # number of the optimizer that a row is about; empty if rows are about something else
    sortable: bool = True  # whether the order of the rows is the reader's to choose

    @classmethod
    def of_text(cls, titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
        """Make a table of texts."""
        return cls(caption, titles, [False] * len(titles), [list(map(Cell, row)) for row in rows])

    def to_markdown(self) -> str:
        r"""Return the table in Markdown, without its caption; the cells are escaped.

        Example:
            >>> print(Table.of_text(["name", "value"], [["a|b", "1"]]).to_markdown())
            | name | value |
            | --- | --- |
            | a\|b | 1 |
        """
        texts = [[cell.text for cell in row] for row in self.rows]
        lines = [list(map(escape, self.titles)), ["---"] * len(self.titles), *(list(map(escape, row)) for row in texts)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_rich(self) -> RichTable:
        """Return the table for a terminal, without lines."""
        from rich.markup import escape as literal
        from rich.table import Table as RichTable

        caption = literal(self.caption) or None
        table = RichTable(title=caption, title_justify="left", box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for title in self.titles:
            table.add_column(literal(title), overflow="fold")
        for row in self.rows:
            table.add_row(*(literal(cell.text) for cell in row))
        return table

    def select(self, titles: Sequence[str], width: int) -> Table:
        """Return a table of the named columns, from the left as many as fit into ``width`` characters.

        Example:
            >>> Table.of_text(["a", "b", "c"], [["1234", "12", "1"]]).select(["a", "c", "b"], width=7).titles
            ['a', 'c']
        """
        from rich.cells import cell_len

        columns: list[int] = []
        used = -_GAP
        for column in map(list(self.titles).index, titles):
            used += _GAP + max(map(cell_len, [self.titles[column], *(row[column].text for row in self.rows)]))
            if columns and used > width:
                break
            columns.append(column)
        return replace(
            self,
            titles=[self.titles[column] for column in columns],
            numeric=[self.numeric[column] for column in columns],
            rows=[[row[column] for column in columns] for row in self.rows],
        )


def escape(text: str) -> str:
    r"""Escape Markdown's own characters; the result is one line, for tables too.

    Example:
        >>> print(escape("a|b"))
        a\|b
    """
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", " ".join(text.split()))


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
    caption: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]], index: Mapping[str, int]
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
