"""All tables and figures of the paper, and how one is found."""

from __future__ import annotations

import re

from valleys.lab.errors import LabError, unknown
from valleys.paper.tables.cifar import CIFAR_TABLES
from valleys.paper.tables.figures import FIGURES
from valleys.paper.tables.large import LARGE_TABLES
from valleys.paper.tables.model import Table

__all__ = ["TABLES", "find", "row"]


def _key(table: Table) -> tuple[bool, str, int, str]:
    kind, _, number = table.number.partition("-")
    digits = re.match(r"\d*", number)
    return kind != "table", kind, int(digits.group() or 0) if digits else 0, number


TABLES: tuple[Table, ...] = tuple(sorted((*CIFAR_TABLES, *LARGE_TABLES, *FIGURES), key=_key))
"""Tables first, then the appendix and the figures, by number."""


def find(number: str) -> Table:
    """A table or figure by its number.

    Args:
        number: such as ``table-3``, ``Table 3``, ``3``, ``figure-8``, ``fig. 8`` or ``appendix-a``; a number that
            shares its content with another finds that.

    Returns:
        The table.

    Raises:
        LabError: there is none; the message lists those there are.

    Example:
        >>> find("Fig. 8").number, find("table-16").number
        ('figure-8', 'table-5a')
    """
    known = {name: table for table in TABLES for name in (table.number, *table.aliases)}
    wanted = re.sub(r"[\s._-]+", "-", number.strip().lower())
    wanted = re.sub(r"^fig-", "figure-", wanted)
    for name in (wanted, f"table-{wanted}"):
        if name in known:
            return known[name]
    raise unknown("table or figure", number, list(known), remedy="; `valleys reproduce list` says what they are")


def row(table: Table, wanted: str) -> str:
    """A row of a table by its label.

    Args:
        table: the table.
        wanted: the label or a beginning of it that no other row has, in capitals or not.

    Returns:
        The label.

    Raises:
        LabError: no row begins so, or several do; the message lists the rows.

    Example:
        >>> row(find("table-3"), "imagenet, 2")
        'ImageNet, 256'
    """
    rows = table.rows
    folded = " ".join(wanted.split()).lower()
    exact = [label for label in rows if label.lower() == folded]
    found = exact or [label for label in rows if label.lower().startswith(folded)]
    if len(found) == 1:
        return found[0]
    which = "is no row" if not found else f"is the beginning of {len(found)} rows"
    listed = "; ".join(rows)
    raise LabError(f"--only {wanted!r} {which} of {table.number}; choose one of: {listed}")
