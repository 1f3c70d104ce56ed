"""Read the paper's tables and figures from ``data``: a YAML file for each, ``shared.yaml`` for what several use.

A file has the fields of ``Table``, with ``columns`` and ``rows`` in place of its cells. A cell's entries are those of
``cell`` (for all), of its column, of its row (``values`` and ``lr`` may have one number per column) and of its column
in the row's ``cells``, the later over the earlier: fields of ``Cell`` and arguments of ``methods.method``. A row may
end in the ``ratio`` of two of its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any, TypeVar, get_args

import yaml

from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import Schedule
from valleys.paper.tables.methods import method
from valleys.paper.tables.model import Cell, Measure, Method, Setting, Table

T = TypeVar("T")
Entries = dict[str, Any]
Settings = Mapping[str, Setting]
Cells = dict[tuple[str, str], Cell]

_SHARED = "shared.yaml"
_CELL = {field.name for field in fields(Cell)} - {"row", "column", "value", "setting", "method", "against"}
_SIGNS = {"+": 1.0, "-": -1.0}


@cache
def load_tables() -> tuple[Table, ...]:
    """Read all tables and figures, in the order of their files' names."""
    folder = files("valleys.paper.tables").joinpath("data")
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")}
    shared = texts.pop(_SHARED)
    return tuple(parse_table(name, texts[name], shared) for name in sorted(texts))


def parse_table(file: str, text: str, shared: str = "{}") -> Table:
    """Read one table from YAML; a ValueError names file and entry.

    ``shared`` has ``settings`` and ``notes`` by name, which a table's note takes as ``$name``.
    """
    common = read_yaml(_SHARED, shared)
    settings: dict[str, Setting] = {}
    for name, entry in common.get("settings", {}).items():
        settings[name] = _setting(f"{_SHARED}: settings: {name!r}", entry, {})
    entries = read_yaml(file, text)
    missing = [key for key in ("columns", "rows") if not entries.get(key)]
    if missing:
        raise ValueError(f"{file}: {' and '.join(missing)} missing")
    columns, every = entries.pop("columns"), entries.pop("cell", {})
    columns = {name: {**every, **(columns[name] if isinstance(columns, dict) else {})} for name in columns}
    cells: Cells = {}
    for label, row in entries.pop("rows").items():
        _add_row(f"{file}: row {label!r}", label, row, columns, settings, cells)
    contrasts = [(first, second) for first, rivals in entries.pop("contrasts", {}).items() for second in rivals]
    try:
        notes = [Template(note).substitute(common.get("notes", {})) for note in entries.pop("notes", [])]
    except KeyError as error:
        raise ValueError(f"{file}: notes: {_SHARED} has no note {error}") from error
    lists = {"contrasts": contrasts, "notes": notes, "aliases": entries.pop("aliases", []), "cells": cells.values()}
    return make(file, Table, **entries, **{name: tuple(entry) for name, entry in lists.items()})


def _add_row(
    where: str, label: str, row: Entries, columns: Mapping[str, Entries], settings: Settings, cells: Cells
) -> None:
    if not isinstance(label, str) or not isinstance(row, dict):
        raise ValueError(f"{where}: the label must be text (in quotes if it is a number) and the row a mapping")
    values = _by_column(f"{where}: values", row.pop("values", None), columns)
    rates = _by_column(f"{where}: lr", row.pop("lr"), columns) if "lr" in row else {}
    changes = _by_column(f"{where}: cells", row.pop("cells", {}), columns)
    ratio = row.pop("ratio", None)
    for column, value in values.items():
        rate = {"lr": rates[column]} if column in rates else {}
        entries = {**columns[column], **row, **rate, **changes.get(column, {})}
        cells[label, column] = _cell(f"{where}: {column!r}", label, column, value, entries, settings, cells)
    if ratio is not None:
        make(f"{where}: ratio", _add_ratio, cells=cells, label=label, **ratio)


def _add_ratio(cells: Cells, label: str, column: str, of: tuple[str, str], measure: Any) -> None:
    above, below = (cells[label, name] for name in of)
    assert above.value is not None
    assert below.value is not None
    assert below.method is not None
    value, against = above.value / below.value, (below.setting, below.method)
    cells[label, column] = replace(above, column=column, value=value, measure=measure, against=against)


def _cell(where: str, label: str, column: str, value: Any, entries: Entries, settings: Settings, cells: Cells) -> Cell:
    setting = _setting(where, entries.pop("setting"), settings) if "setting" in entries else None
    against = entries.pop("against", None)
    if isinstance(against, str):
        against = cells[against, column].runs()[0]
    elif against is not None:
        against = None, _method(f"{where}: against", against)
    own = {name: entries.pop(name) for name in sorted(_CELL & set(entries))}
    if own.get("measure", "test") not in get_args(Measure):
        raise ValueError(f"{where}: measure {own['measure']!r}; choose one of {', '.join(get_args(Measure))}")
    optimizer = None
    if own.get("measure") == "sign":
        if entries:
            raise ValueError(f"{where}: a sign has no {', '.join(entries)}")
        value = _SIGNS.get(value, value)
    else:
        batch_size = None if setting is None else setting.batch_size
        optimizer = _method(where, {"optimizer": column, "name": column, "batch_size": batch_size, **entries})
    if value is not None:
        _check_number(f"{where}: value", value)
    return make(
        where, Cell, row=label, column=column, value=value, setting=setting, method=optimizer, against=against, **own
    )


def _method(where: str, entries: Entries) -> Method:
    _check_number(f"{where}: lr", entries.get("lr"))
    return make(where, method, **{name: _tuple(entry) for name, entry in entries.items()})


def _setting(where: str, entry: Any, settings: Settings) -> Setting:
    if isinstance(entry, str):
        if entry not in settings:
            raise ValueError(f"{where}: {_SHARED} has no setting {entry!r}")
        return settings[entry]
    where = f"{where}: setting"
    schedule = dict(entry.get("schedule") or {})
    if "warm_up_epochs" in schedule:
        schedule["warm_up"] = schedule.pop("warm_up_epochs") / entry["epochs"]
    return make(where, Setting, **{**entry, "schedule": make(where, Schedule, **schedule) if schedule else None})


def _by_column(where: str, entry: Any, columns: Mapping[str, Entries]) -> Entries:
    """Give each column its entry: a mapping names columns, a list has one entry for each, all else holds for all."""
    if isinstance(entry, dict):
        unknown = [name for name in entry if name not in columns]
        if unknown:
            raise ValueError(f"{where}: no column {unknown[0]!r}; there are {', '.join(columns)}")
        return entry
    if not isinstance(entry, list):
        return dict.fromkeys(columns, entry)
    if len(entry) != len(columns):
        raise ValueError(f"{where}: {len(entry)} entries for {len(columns)} columns")
    return dict(zip(columns, entry, strict=True))


def make(where: str, build: Callable[..., T], /, **entries: Any) -> T:
    """Build, and name the place if an entry is unknown, missing or refused."""
    try:
        return build(**entries)
    except (KeyError, LabError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_number(where: str, entry: Any) -> None:
    if isinstance(entry, bool) or not isinstance(entry, (int, float)):
        raise ValueError(f"{where}: {entry!r} is not a number (YAML needs 0.0001 for 1e-4)")


def _tuple(entry: Any) -> Any:
    return tuple(entry) if isinstance(entry, list) else entry


def read_yaml(file: str, text: str) -> Entries:
    """Read a mapping from YAML, in which no key stands twice; ``file`` names it in messages."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        node = loader.get_single_node()
        _refuse_duplicates(node)
        entries = loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{file}: no mapping at the top")
    return entries


def _refuse_duplicates(node: Any) -> None:
    """Refuse a key that stands twice in one mapping, of which YAML takes the last."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise ValueError(f"a key of {', '.join(keys)} stands twice")
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            _refuse_duplicates(child[1] if isinstance(child, tuple) else child)
