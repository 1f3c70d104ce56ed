"""Render a reproduction for people, on a terminal and in Markdown, and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valleys.lab.report.document import plain
from valleys.lab.report.table import Table as Shown
from valleys.lab.report.table import escape
from valleys.paper.results import Contrast, Outcome, Reproduction
from valleys.paper.tables.model import COMPARABLE, Cell, Table
from valleys.paper.tables.numbers import TABLES

_TITLES = ("row", "column", "paper", "ours", "ours - paper [95 %]", "remark")
_ORDER_TITLES = ("row", "order", "paper", "ours [95 %]", "sign")

_HOW = (
    "Ours: mean with its 95 % interval of Student's t over the seeds whose run did not diverge. The difference's "
    "interval takes the paper's number as exact: in tables it is a mean of 3, whose spread is not known."
)
_SMALLER = (
    "PRESET SMOKE: smaller problems than the paper's, so a difference to the paper's number is no test of the paper. "
    "What can be looked at is the order of the optimizers, below; it is no test either."
)
_SHARE = (
    "A SHARE OF THE PAPER'S PROBLEM: fewer images and as much smaller a batch, with the paper's schedule and, unless "
    "--epochs is another, its number of updates. Accuracies are lower than the paper's; what can be compared is the "
    "order of the optimizers, below."
)
_CUT = "ANOTHER LENGTH: --epochs {} for every run, so a difference to the paper's number is no test of the paper."
_MARKED = "set by us"
_ONCE = ("memory", "sign")  # measured once, without seeds


def listing() -> Shown:
    """Return the table of number and aliases, title, rows and needs of all tables and figures."""
    return Shown.of_text(
        ["number", "what it is", "rows", "needs"],
        [
            [", ".join((table.number, *table.aliases)), table.title, "; ".join(table.rows), table.needs]
            for table in TABLES
        ],
    )


def parts(reproduction: Reproduction) -> Iterator[Shown | str]:
    """Yield tables and lines of text for a terminal."""
    yield from (content for _, content in _document(reproduction))
    yield from map(str, (*reproduction.paths.values(), *(folder / "report.html" for folder in reproduction.reports)))


def to_markdown(reproduction: Reproduction) -> str:
    """Return the same as Markdown."""
    lines: list[str] = []
    for kind, content in _document(reproduction):
        if isinstance(content, Shown):
            lines.append(content.to_markdown())
        else:
            lines.append(("# " if kind == "title" else "- " if kind == "note" else "") + escape(content))
        if kind != "note":
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def to_json(reproduction: Reproduction) -> dict[str, Any]:
    """Return every number for strict JSON: null is one that is not finite, or none."""
    table = reproduction.table
    document: dict[str, Any] = plain(
        {
            "table": table.number,
            "aliases": table.aliases,
            "title": table.title,
            "unit": table.unit,
            "preset": reproduction.preset,
            "seeds": reproduction.seeds,
            "epochs": reproduction.epochs,
            "problems": reproduction.problems,
            "notes": table.notes,
            "cells": [_cell(one) for one in reproduction.outcomes],
            "orders": [asdict(one) for one in reproduction.contrasts],
            "reports": [str(folder) for folder in reproduction.reports],
        }
    )
    return document


def write(reproduction: Reproduction) -> dict[str, Path]:
    """Write ``reproduce.md`` and ``reproduce.json`` where the reproduction says; the folder exists."""
    paths = dict(reproduction.paths)
    paths["markdown"].write_text(to_markdown(reproduction), encoding="utf-8")
    text = json.dumps(to_json(reproduction), indent=1, allow_nan=False, ensure_ascii=False)
    paths["json"].write_text(text + "\n", encoding="utf-8")
    return paths


def _document(reproduction: Reproduction) -> Iterator[tuple[str, Shown | str]]:
    table = reproduction.table
    yield "title", f"{_name(table)}: {table.title} ({table.unit})"
    if any(outcome.mean is not None and not outcome.same for outcome in reproduction.outcomes):
        if reproduction.preset != "paper":
            yield "text", _SMALLER if reproduction.preset == "smoke" else _SHARE
        if reproduction.epochs is not None:
            yield "text", _CUT.format(reproduction.epochs)
    reasons = _reasons(reproduction.outcomes)
    yield "table", Shown.of_text(_TITLES, [_row(table, outcome, reasons) for outcome in reproduction.outcomes])
    if reproduction.contrasts:
        yield "table", Shown.of_text(_ORDER_TITLES, [_order(table, contrast) for contrast in reproduction.contrasts])
    for reason, number in reasons.items():
        yield "note", f"blank ({number}): {reason}"
    for outcome in reproduction.outcomes:
        for walk in outcome.walks:
            yield "note", f"{outcome.cell.row}, {outcome.cell.column}, {walk.describe()}"
    for row, problem in reproduction.problems.items():
        yield "note", f"{row}: {problem}"
    for method, where in _hyperparameters(reproduction.outcomes).items():
        yield "note", f"{where}: {method}"
    for note in (*table.notes, _HOW):
        yield "note", note


def _name(table: Table) -> str:
    names = []
    for name in (table.number, *table.aliases):
        kind, _, number = name.partition("-")
        names.append(f"{kind.capitalize()} {number if number[:1].isdigit() else number.upper()}".strip())
    return " = ".join(names)


def _reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Number the reasons for blank cells, each once: some are long, and whole tables share them."""
    reasons = dict.fromkeys(outcome.blank for outcome in outcomes if outcome.mean is None)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _row(table: Table, outcome: Outcome, reasons: Mapping[str, int]) -> list[str]:
    cell = outcome.cell
    paper = cell.says or "-" if cell.value is None else _number(cell.value, table.decimals)
    measured = "" if outcome.mean is None else _number(outcome.mean, table.decimals)
    if measured and outcome.half_width is not None:
        measured += f" ± {_number(outcome.half_width, table.decimals)}"
    if measured and cell.measure not in _ONCE:
        measured += f" ({len(outcome.values)} seed{'s' * (len(outcome.values) != 1)})"
    return [cell.row, cell.column, paper, measured, _difference(table, outcome), _remark(outcome, reasons)]


def _difference(table: Table, outcome: Outcome) -> str:
    if outcome.difference is None:
        return ""
    words = _signed(outcome.difference, table.decimals)
    if outcome.cell.measure in _ONCE:
        return words
    if outcome.low is None or outcome.high is None:
        return f"{words} [no interval: one value]"
    return f"{words} [{_signed(outcome.low, table.decimals)}, {_signed(outcome.high, table.decimals)}]"


def _remark(outcome: Outcome, reasons: Mapping[str, int]) -> str:
    if outcome.mean is None:
        return f"blank ({reasons[outcome.blank]})"
    diverged = outcome.runs - len(outcome.values)
    remarks = [f"{diverged} of {outcome.runs} runs diverged"] if diverged else []
    if outcome.cell.value is not None and outcome.cell.measure not in COMPARABLE:
        remarks.append("another machine: no difference")
    if not outcome.same:
        remarks.append("another problem")
    return "; ".join(remarks)


def _order(table: Table, contrast: Contrast) -> list[str]:
    measured = ""
    if contrast.ours is not None:
        mean, half_width = contrast.ours.mean, contrast.ours.half_width
        measured = _signed(mean, table.decimals)
        if half_width is not None:
            ends = (_signed(mean - half_width, table.decimals), _signed(mean + half_width, table.decimals))
            measured += f" [{', '.join(ends)}]"
    paper = "-" if contrast.paper is None else _signed(contrast.paper, table.decimals)
    return [contrast.row, f"{contrast.first} - {contrast.second}", paper, measured, contrast.sign]


def _hyperparameters(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return the optimizers' settings, each once, with its rows."""
    places: dict[str, list[str]] = {}
    for outcome in outcomes:
        method = outcome.cell.method
        if method is not None:
            note = f" ({_MARKED}: {method.ours})" if method.ours else ""
            places.setdefault(f"{method.name}: {method.describe()}{note}", []).append(outcome.cell.row)
    return {words: "; ".join(dict.fromkeys(rows)) for words, rows in places.items()}


def _cell(outcome: Outcome) -> dict[str, Any]:
    cell: Cell = outcome.cell
    method, setting = cell.method, cell.setting
    return {
        "row": cell.row,
        "column": cell.column,
        "measure": cell.measure,
        "paper": cell.value,
        "paper_says": cell.says,
        "ours": outcome.mean,
        "half_width": outcome.half_width,
        "difference": outcome.difference,
        "interval": None if outcome.low is None else [outcome.low, outcome.high],
        "values": outcome.values,
        "runs": outcome.runs,
        "blank": outcome.blank,
        "same_problem": outcome.same,
        "task": None if setting is None else setting.task,
        "paper_batch_size": None if setting is None else setting.batch_size,
        "setting_ours": "" if setting is None else setting.ours,
        "optimizer": None if method is None else method.name,
        "hyperparameters": None if method is None else dict(method.options),
        "hyperparameters_ours": "" if method is None else method.ours,
        "walks": [asdict(walk) for walk in outcome.walks],
    }


def _number(value: float, decimals: int) -> str:
    if value and (abs(value) < 10**-decimals or abs(value) >= 1e7):
        return f"{value:.2g}"
    if decimals > 2:  # ratios and epochs side by side
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.{decimals}f}"


def _signed(value: float, decimals: int) -> str:
    return ("" if math.copysign(1, value) < 0 else "+") + _number(value, decimals)
