"""All tables and figures of the paper, by number."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    """Return a table or figure by its number, or raise LabError with those there are.

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


def rows(table: Table, text: str) -> list[str]:
    """Return the rows that a text names, in the table's order, or raise LabError with the rows there are.

    The text has names with commas between them. A name is a label or the words that it begins with, in capitals or not;
    part of a word will do where no other label begins so.

    Example:
        >>> rows(find("table-3"), "CIFAR-10, imagenet, 2")
        ['CIFAR-10, 128', 'CIFAR-10, 16384', 'ImageNet, 256']
    """
    return _chosen(table, text, "row", "--only", table.rows)


def columns(table: Table, text: str) -> list[str]:
    """Return the columns that a text names, as ``rows``.

    Example:
        >>> columns(find("table-7"), "alto, without a, bias correction")
        ['ALTO', 'without a, bias correction']
    """
    return _chosen(table, text, "column", "--columns", table.columns)


def _chosen(table: Table, text: str, kind: str, option: str, labels: Sequence[str]) -> list[str]:
    words = [word for word in (" ".join(part.split()) for part in text.split(",")) if word] or [text]
    names: set[str] = set()
    while words:
        # Labels have commas of their own, so the longest name that is one counts.
        matches = [_matches(labels, ", ".join(words[:end])) for end in range(1, len(words) + 1)]
        end = max((number for number, match in enumerate(matches, 1) if match), default=0)
        if not end:
            count = sum(label.lower().startswith(words[0].lower()) for label in labels)
            which = f"the beginning of {count} {kind}s" if count else f"no {kind}"
            raise LabError(f"{option} {words[0]!r} is {which} of {table.number}; choose from: {'; '.join(labels)}")
        names.update(matches[end - 1])
        del words[:end]
    return [label for label in labels if label in names]


def _matches(labels: Sequence[str], name: str) -> list[str]:
    matches = [label for label in labels if label.lower().startswith(name.lower())]
    exact = [label for label in matches if label.lower() == name.lower()]
    whole = [label for label in matches if not label[len(name) :][:1].isalnum()]
    return exact or whole or matches * (len(matches) == 1)
