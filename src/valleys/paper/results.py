"""Turn finished runs into a cell of a table: our number, its interval and its difference to the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from valleys.lab.record import Record
from valleys.lab.statistics import Difference, mean_interval, paired_difference
from valleys.paper.tables.model import COMPARABLE, FLAT, Cell, Setting, Table
from valleys.paper.walks.endpoints import Walk


@dataclass(frozen=True)
class Ran:
    """The runs of one setting."""

    problem: str = ""  # what was trained, in words; empty: nothing
    same: bool = False  # True for the paper's problem, False for a smaller one of the same kind
    epochs: int = 1  # of a run
    maximize: bool = True
    target: float = math.nan  # the metric whose first crossing is timed where a cell does not name a level
    records: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)  # runs by the method's name
    blanks: Mapping[str, str] = field(default_factory=dict)  # why a method has none, by its name
    walks: Mapping[str, tuple[Walk, ...]] = field(default_factory=dict)  # where a figure's runs ended, by method
    # Flatness of the runs by seed, by the method's name.
    flat: Mapping[str, Mapping[int, Mapping[str, float]]] = field(default_factory=dict)
    unmeasured: str = ""  # why there are none although there are runs
    blank: str = ""  # why no method has any


@dataclass(frozen=True)
class Outcome:
    """Our number beside the paper's."""

    cell: Cell  # the paper's
    values: Mapping[int, float]  # ours by seed; runs that diverged are not in it
    runs: int  # how many were made
    mean: float | None  # of the values; None: the cell is blank
    half_width: float | None  # of the mean's 95 % interval by Student's t; None below two values
    difference: float | None  # ours minus the paper's; None where there is none or where it would mean nothing
    low: float | None  # of the difference's 95 % interval, the paper's number taken as exact; None as ``half_width``
    high: float | None
    blank: str  # why there is no number of ours; empty where there is one
    same: bool  # True for the paper's problem
    walks: tuple[Walk, ...] = ()  # where a figure's runs ended


@dataclass(frozen=True)
class Contrast:
    """The order of two columns in a row."""

    row: str
    first: str
    second: str
    paper: float | None  # the paper's first minus second; None without numbers
    ours: Difference | None  # ours, paired by seed; None without runs of both
    # ``as in the paper``, ``opposite``, ``undecided`` where the interval holds 0 or there is none, or empty where one
    # side is missing.
    sign: str


@dataclass(frozen=True)
class Reproduction:
    """A table or figure, repeated as far as it goes."""

    table: Table  # the paper's
    preset: str  # ``paper``, ``smoke``, or a share such as ``tenth``
    seeds: int  # runs per cell
    epochs: int | None  # of every run; None: the preset's
    outcomes: tuple[Outcome, ...]  # the selected cells in the table's order
    contrasts: tuple[Contrast, ...]  # the selected cells' orders
    problems: Mapping[str, str]  # what was trained, by row
    paths: Mapping[str, Path]  # files written: ``markdown``, ``json``
    reports: tuple[Path, ...]  # the folder of each comparison behind it


def outcome(cell: Cell, ran: Mapping[Setting, Ran]) -> Outcome:
    r"""Return our number for a cell, or a blank with the reason if anything that it needs is missing.

    .. math:: \bar x - p \pm t_{n-1,\,0.975}\; s / \sqrt n

    with the paper's number p taken as exact: its spread is not known.
    """
    reasons = (ran[setting].blank or ran[setting].blanks.get(method.name) for setting, method in cell.runs())
    missing = cell.blank or next(filter(None, reasons), "")
    if cell.setting is None or cell.method is None or missing:
        return blank(cell, missing)
    base = ran[cell.setting]
    records = base.records[cell.method.name]
    walks = tuple(base.walks.get(cell.method.name, ()))
    values, failed = _measured(cell, base, records)
    if cell.against is not None and cell.against[0] is not None:
        below, also = _measured(cell, ran[cell.against[0]], ran[cell.against[0]].records[cell.against[1].name])
        failed = failed or also
        values = {seed: value / below[seed] for seed, value in values.items() if below.get(seed)}
    if failed or not values:
        empty = blank(cell, failed or f"all {len(records)} runs diverged", len(records))
        return replace(empty, same=base.same, walks=walks)
    return beside(cell, values, len(records), base.same, walks)


def blank(cell: Cell, reason: str, runs: int = 0) -> Outcome:
    """Return a cell without a number of ours, of which some runs may have been made all the same."""
    return Outcome(cell, {}, runs, None, None, None, None, None, reason, False)


def beside(cell: Cell, values: Mapping[int, float], runs: int, same: bool, walks: tuple[Walk, ...] = ()) -> Outcome:
    """Return a cell with a number of ours, from at least one value by seed."""
    mean, half_width = mean_interval(list(values.values()))
    if cell.value is None or cell.measure not in COMPARABLE:
        return Outcome(cell, values, runs, mean, half_width, None, None, None, "", same, walks)
    difference = mean - cell.value
    low, high = (None, None) if half_width is None else (difference - half_width, difference + half_width)
    return Outcome(cell, values, runs, mean, half_width, difference, low, high, "", same, walks)


def contrasts(table: Table, outcomes: Sequence[Outcome]) -> tuple[Contrast, ...]:
    """Return the orders that a table claims beside ours: of columns that are metrics or measures of flatness."""
    orders: list[Contrast] = []
    by_place = {(o.cell.row, o.cell.column): o for o in outcomes if o.cell.measure in ("test", *FLAT)}
    for row in dict.fromkeys(o.cell.row for o in outcomes):
        for first, second in table.contrasts:
            a, b = by_place.get((row, first)), by_place.get((row, second))
            if a is None or b is None:
                continue
            values = a.cell.value, b.cell.value
            paper = values[0] - values[1] if values[0] is not None and values[1] is not None else None
            difference = paired_difference(a.values, b.values)
            orders.append(Contrast(row, first, second, paper, difference, _sign(paper, difference)))
    return tuple(orders)


def _sign(paper: float | None, ours: Difference | None) -> str:
    if paper is None or ours is None:
        return ""
    if ours.half_width is None or abs(ours.mean) <= ours.half_width:
        return "undecided"
    return "as in the paper" if ours.mean * paper > 0 else "opposite"


def _measured(cell: Cell, ran: Ran, records: Sequence[Record]) -> tuple[dict[int, float], str]:
    """Return the measure by seed, and the reason if there is none although runs finished."""
    if cell.measure in FLAT:
        flat = ran.flat.get(records[0].optimizer, {})
        return {seed: values[cell.measure] for seed, values in flat.items()}, ran.unmeasured
    if cell.measure in ("test", "walk"):
        metrics = {r.seed: r.test for r in records if not r.diverged}
        return {seed: value for seed, value in metrics.items() if value is not None and math.isfinite(value)}, ""
    if cell.measure in ("step ms", "step ratio"):
        return {r.seed: 1000 * r.step_seconds for r in records if not r.diverged}, ""
    level = ran.target if cell.level is None else cell.level
    seconds = cell.measure in ("seconds", "time ratio")
    values = {}
    for record in records:
        better = (e for e in record.curve if (e.validation >= level if ran.maximize else e.validation <= level))
        first = next(better, None)
        if first is not None:
            values[record.seed] = first.seconds if seconds else first.step * ran.epochs / record.steps
    late = len(records) - len(values)
    # A run that misses the level takes longer than any that meets it: a mean without it would be too short.
    reason = f"{late} of {len(records)} runs of batch {records[0].batch_size} never came to {level:g}" if late else ""
    return values, reason
