"""All tables and figures of the paper, by number."""

from __future__ import annotations

import re

from valleys.lab.errors import LabError, unknown
from valleys.paper.tables.load import load_tables
from valleys.paper.tables.model import Table


def _key(table: Table) -> tuple[bool, str, int, str]:
    kind, _, number = table.number.partition("-")
    digits = re.match(r"\d*", number)
    return kind != "table", kind, int(digits.group() or 0) if digits else 0, number


TABLES: tuple[Table, ...] = tuple(sorted(load_tables(), key=_key))
"""Tables first, then the appendix and the figures, by number."""


def find(number: str) -> Table:
    """Return a table or figure by its number.

    Raises:
        LabError: there is none; the message lists those there are.

    Example:
        >>> find("Fig. 8").number, find("table-16").number
        ('figure-8', 'table-5a')
    """
    tables = {name: table for table in TABLES for name in (table.number, *table.aliases)}
    key = re.sub(r"^fig-", "figure-", re.sub(r"[\s._-]+", "-", number.strip().lower()))
    for name in (key, f"table-{key}"):
        if name in tables:
            return tables[name]
    raise unknown("table or figure", number, list(tables), remedy="; `valleys reproduce list` says what they are")


def row(table: Table, label: str) -> str:
    """Return a row's label by a beginning of it that no other row has, in capitals or not.

    Raises:
        LabError: no row begins so, or several do; the message lists the rows.

    Example:
        >>> row(find("table-3"), "imagenet, 2")
        'ImageNet, 256'
    """
    rows = table.rows
    folded = " ".join(label.split()).lower()
    matches = [name for name in rows if name.lower() == folded]
    matches = matches or [name for name in rows if name.lower().startswith(folded)]
    if len(matches) == 1:
        return matches[0]
    which = "is no row" if not matches else f"is the beginning of {len(matches)} rows"
    raise LabError(f"--only {label!r} {which} of {table.number}; choose one of: {'; '.join(rows)}")
