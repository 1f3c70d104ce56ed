"""From a store's records to the numbers of the table: what was chosen, how it did, who won."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from valleys.lab.flatness.table import Flatness, tabulate
from valleys.lab.record import Record
from valleys.lab.run.ranks import Layout
from valleys.lab.search import candidates
from valleys.lab.statistics import Verdict, format_mean, mean_interval, verdict
from valleys.lab.statistics.planned_pairs import Question, questions
from valleys.lab.statistics.step_times import step_times
from valleys.lab.store.job import Key, Results


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        optimizer: its name.
        hyperparameters: the chosen values; None if every trial diverged.
        runs: runs on fresh seeds.
        reached: how many of them met the validation target.
        steps, seconds: medians to the target, a missed target counting as infinite; None if infinite.
        validation, test: mean and half width of the 95 % interval; None without a finished run.
        trials: tuning runs.
        diverged_trials, diverged_runs: how many diverged, in tuning and on fresh seeds.
        step_seconds, optimizer_seconds: medians over the runs; None without runs.
        state_bytes, parameter_bytes: of the optimizer's state and of the parameters; None without runs.
    """

    optimizer: str
    hyperparameters: Mapping[str, float] | None
    runs: int
    reached: int
    steps: float | None
    seconds: float | None
    validation: tuple[float, float | None] | None
    test: tuple[float, float | None] | None
    trials: int
    diverged_trials: int
    diverged_runs: int
    step_seconds: float | None
    optimizer_seconds: float | None
    state_bytes: int | None
    parameter_bytes: int | None


@dataclass(frozen=True)
class Summary:
    """Selection, averages and verdicts of a comparison's records.

    Args:
        chosen: number of the selected point, by optimizer; None if every trial diverged.
        selected: its hyperparameters.
        records: runs with them on fresh seeds, by optimizer, in the order of the seeds.
        rows: the table, best optimizer first.
        verdict: who won and by how much.
        planned: whether E helps, for each adapted optimizer whose base takes part.
        notes: what a reader of the table should know.
        flatness: what ``valleys landscape`` measured; None if nothing was.
    """

    chosen: Mapping[str, int | None]
    selected: Mapping[str, Mapping[str, float] | None]
    records: Mapping[str, tuple[Record, ...]]
    rows: tuple[Row, ...]
    verdict: Verdict
    planned: tuple[Question, ...]
    notes: tuple[str, ...]
    flatness: Flatness | None = None


def summarize(results: Results, warnings: Sequence[str] = ()) -> Summary:
    """Select, average and judge; earlier warnings come first among the notes."""
    configuration = results.configuration
    trials = {name: {key.point: record for key, record in runs.items()} for name, runs in results.tuning.items()}
    chosen = {
        name: candidates.select(runs, configuration["maximize"]) if results.spaces[name] else candidates.FIXED
        for name, runs in trials.items()
    }
    selected: dict[str, Mapping[str, float] | None] = {
        name: {} if not results.spaces[name] else None if point is None else trials[name][point].hyperparameters
        for name, point in chosen.items()
    }
    records = {name: _of_point(results.final[name], point) for name, point in chosen.items()}
    about: dict[str, Any] = {
        "maximize": configuration["maximize"],
        "metric": f"test {configuration['metric']}",
        "batch_size": configuration["batch_size"],
        "step_seconds": step_times(records),
    }
    outcome = verdict({name: {record.seed: record.test for record in runs} for name, runs in records.items()}, **about)
    order = [outcome.leader] if outcome.leader is not None else []
    order += [rival.name for rival in outcome.rivals]
    order += [name for name in trials if name not in order]
    planned = questions(records, **about)
    return Summary(
        chosen,
        selected,
        records,
        tuple(_row(name, selected[name], list(trials[name].values()), records[name]) for name in order),
        outcome,
        planned,
        (*warnings, *_notes(results, selected)),
        tabulate(results.flatness, chosen, [(question.adapted, question.base) for question in planned]),
    )


def layouts(results: Results) -> list[Layout]:
    """Return the layout of the batch over processes and backward passes, of each sitting."""
    configuration = results.configuration
    return [
        Layout(configuration["batch_size"], configuration["micro_batch"], seen["ranks"])
        for seen in results.environments
    ]


def cells(row: Row, metric: str) -> dict[str, str]:
    """Return a row as text, by the column's title."""
    chosen = row.hyperparameters
    return {
        "optimizer": row.optimizer,
        "hyperparameters": "all trials diverged" if chosen is None else _hyperparameters(chosen),
        "target reached": f"{row.reached}/{row.runs}",
        "steps to it": _number(row.steps, "g"),
        "seconds to it": _number(row.seconds, ".3g"),
        f"validation {metric}": "-" if row.validation is None else format_mean(*row.validation),
        f"test {metric}": "-" if row.test is None else format_mean(*row.test),
        "diverged: tuning, final": f"{row.diverged_trials}/{row.trials}, {row.diverged_runs}/{row.runs}",
        "step ms": _number(row.step_seconds, ".2f", 1e3),
        "optimizer ms": _number(row.optimizer_seconds, ".2f", 1e3),
        "state": _memory(row.state_bytes, row.parameter_bytes),
    }


def _of_point(runs: Mapping[Key, Record], point: int | None) -> tuple[Record, ...]:
    """The runs of the selected point: others were run before more trials changed the selection."""
    return tuple(record for key, record in runs.items() if key.point == point)


def _row(name: str, selected: Mapping[str, float] | None, trials: Sequence[Record], records: Sequence[Record]) -> Row:
    reached = [record for record in records if record.steps_to_target is not None]
    return Row(
        name,
        selected,
        len(records),
        len(reached),
        _median([math.inf if record.steps_to_target is None else record.steps_to_target for record in records]),
        _median([math.inf if record.seconds_to_target is None else record.seconds_to_target for record in records]),
        _interval(records, lambda record: record.validation),
        _interval(records, lambda record: record.test),
        len(trials),
        sum(record.diverged for record in trials),
        sum(record.diverged for record in records),
        _median([record.step_seconds for record in records]),
        _median([record.optimizer_seconds for record in records]),
        max((record.state_bytes for record in records), default=None),
        max((record.parameter_bytes for record in records), default=None),
    )


def _median(values: Sequence[float]) -> float | None:
    median = statistics.median(values) if values else math.inf
    return median if math.isfinite(median) else None


def _interval(records: Sequence[Record], metric: Callable[[Record], float | None]) -> tuple[float, float | None] | None:
    values = [value for record in records if (value := metric(record)) is not None and math.isfinite(value)]
    return mean_interval(values) if values else None


def _notes(results: Results, selected: Mapping[str, Mapping[str, float] | None]) -> list[str]:
    # Layouts in the order of their first sitting; one backward pass in one process goes without saying.
    notes = [str(layout) for layout in dict.fromkeys(layouts(results)) if layout.ranks * layout.accumulation_steps > 1]
    for name, values in selected.items():
        edges = [] if values is None else candidates.at_edge(values, results.spaces[name])
        if edges:
            notes.append(
                f"{name}: chosen at the edge of the search space, a better value may lie outside: {', '.join(edges)}"
            )
    if results.configuration["seeds"] == 1:
        notes.append("one seed per optimizer: there are no intervals, and no difference can be established")
    return notes


def _hyperparameters(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in values.items()) or "none"


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)


def _memory(state: int | None, parameters: int | None) -> str:
    if state is None or not parameters:
        return "-"
    return f"{state / parameters:.2f}x, {state / 1e6:.2f} MB"
