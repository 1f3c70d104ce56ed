"""From a store's records to the numbers of the report: what was selected, how it did, and the verdicts."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.flatness.table import Flatness, tabulate
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, tunable
from valleys.lab.record import Record
from valleys.lab.run.ranks import Layout
from valleys.lab.search import candidates
from valleys.lab.statistics import Interval, median
from valleys.lab.statistics.budget import BudgetPoint, budget_curve
from valleys.lab.statistics.cost import step_times
from valleys.lab.statistics.intervals import mean_on_scale
from valleys.lab.statistics.outcome import Metric, Outcome, Verdict
from valleys.lab.statistics.verdicts import judge, two_best
from valleys.lab.store.job import Key, Results

_DIMENSIONS, _THOROUGH = 4, 16  # hyperparameters beyond which so many trials are advised: their pairs are then crossed
_FEW = 3  # rounds below which the docs call a comparison inadequate

_Unit = Mapping[Key, Record]


@dataclass(frozen=True)
class Selection:
    """Selected values of an optimizer in one round, and their runs."""

    point: int | None  # number of the trial; None if every trial diverged
    hyperparameters: Mapping[str, float] | None
    runs: Mapping[Key, Record]  # runs with them on fresh seeds, in the order of the seeds


@dataclass(frozen=True)
class Row:
    """One line of the table. A unit is a round or, with one round, a fresh seed."""

    optimizer: str
    units: int  # complete ones
    lost: int  # units lost to divergence: every trial of the round diverged, or a run on a fresh seed did
    reached: int  # units that met the validation target
    steps: float | None  # to the target: the median over units, a missed target counting as infinite; None if infinite
    seconds: float | None  # the same
    validation: Interval | None  # mean over the units that were not lost; None without one
    test: Interval | None
    trials: int  # tuning runs
    diverged_trials: int
    step_seconds: float | None  # median over the runs on fresh seeds; None without runs
    optimizer_seconds: float | None
    state_bytes: int | None  # of the optimizer's state; None without runs
    parameter_bytes: int | None
    hyperparameters: tuple[Mapping[str, float] | None, ...]  # of each complete round; None: all trials diverged


@dataclass(frozen=True)
class Summary:
    """Selection, averages and verdicts of a comparison's records."""

    selections: Mapping[str, Mapping[int, Selection]]  # by optimizer and complete round, counted from 0
    outcomes: Mapping[str, Outcome]  # the results by unit that the verdicts rest on, by optimizer
    rows: tuple[Row, ...]  # the table, best optimizer first
    verdicts: tuple[Verdict, ...]  # one for each pair
    budget: Mapping[str, tuple[BudgetPoint, ...]]  # of each optimizer that was tuned
    notes: tuple[str, ...]
    metric: Metric
    flatness: Flatness | None = None  # what ``valleys landscape`` measured; None if nothing was

    @property
    def selected(self) -> dict[str, tuple[Mapping[str, float] | None, ...]]:
        """The selected hyperparameters of each complete round, by optimizer; None where every trial diverged."""
        return {name: tuple(s.hyperparameters for s in rounds.values()) for name, rounds in self.selections.items()}

    @property
    def records(self) -> dict[str, tuple[Record, ...]]:
        """The runs with the selected values on fresh seeds, by optimizer, in the order of rounds and seeds."""
        return {name: tuple(_records(rounds)) for name, rounds in self.selections.items()}


def summarize(results: Results, warnings: Sequence[str] = ()) -> Summary:
    """Select, average and judge; earlier warnings come first among the notes."""
    metric = _metric(results)
    selections = _selections(results)
    units = {name: _units(rounds, results.configuration) for name, rounds in selections.items()}
    timed = step_times({name: dict(enumerate(_records(rounds))) for name, rounds in selections.items()})
    outcomes = {name: _outcome(runs, metric, name in timed) for name, runs in units.items()}
    rows = [_row(name, results, selections[name], outcomes[name], metric) for name in units]
    sign = -1.0 if metric.maximize else 1.0
    rows.sort(key=lambda row: (row.lost, math.inf if row.test is None else sign * row.test.estimate))
    pairs = [pair for pair in results.planned if set(pair) <= outcomes.keys()]
    if not pairs and (best := two_best(outcomes, metric)) is not None:
        pairs = [best]
    measured = {
        name: {number: [values[key] for key in runs if key in values] for number, runs in units[name].items()}
        for name, values in results.flatness.items()
    }
    return Summary(
        selections,
        outcomes,
        tuple(rows),
        judge(pairs, outcomes, metric, unit=unit(results)),
        _budget(results, selections, metric),
        (*warnings, *_notes(results, selections, metric)),
        metric,
        tabulate(measured, pairs),
    )


def unit(results: Results) -> str:
    """Return the unit of all statistics: "round" or, with one round, "seed"."""
    return "round" if results.configuration["rounds"] > 1 else "seed"


def layouts(results: Results) -> list[Layout]:
    """Return the layout of the batch over processes and backward passes, of each session."""
    configuration = results.configuration
    return [
        Layout(configuration["batch_size"], configuration["micro_batch"], environment["ranks"])
        for environment in results.environments
    ]


def lines(specs: Iterable[OptimizerSpec], summary: Summary, batch_size: int) -> dict[str, str]:
    """Return Python that builds each optimizer with the values selected in the last round, where it is known."""
    texts = {}
    for spec in specs:
        points = [values for values in summary.selected[spec.name] if values is not None]
        steps = summary.outcomes[spec.name].horizon
        if spec.line is not None and points and steps is not None:
            texts[spec.name] = spec.line(points[-1], Plan(batch_size, steps))
    return texts


def _metric(results: Results) -> Metric:
    configuration = results.configuration
    names = ("metric", "maximize", "scale", "resolution")
    return Metric(*(configuration[name] for name in names))


def _selections(results: Results) -> dict[str, dict[int, Selection]]:
    """Return the selections of the complete rounds: those in which all optimizers have all their runs."""
    rounds = {
        number: {name: _selection(results, name, number) for name in results.spaces}
        for number in range(results.configuration["rounds"])
    }
    complete = {number: selection for number, selection in rounds.items() if None not in selection.values()}
    return {
        name: {number: selection for number, by_name in complete.items() if (selection := by_name[name]) is not None}
        for name in results.spaces
    }


def _selection(results: Results, name: str, number: int) -> Selection | None:
    """Select in one round; None while runs are missing."""
    configuration = results.configuration
    trials = {key.point: record for key, record in results.tuning[name].items() if key.round == number}
    point: int | None = candidates.FIXED
    values: Mapping[str, float] = {key: ranges.low for key, ranges in results.spaces[name].items()}
    if tunable(results.spaces[name]):
        if len(trials) < configuration["trials"]:
            return None
        point = candidates.select(trials, configuration["maximize"])
        if point is None:
            return Selection(None, None, {})
        values = trials[point].hyperparameters
    runs = {key: record for key, record in results.final[name].items() if (key.round, key.point) == (number, point)}
    if len(runs) < configuration["seeds"]:
        return None
    return Selection(point, values, dict(sorted(runs.items())))


def _records(rounds: Mapping[int, Selection]) -> Iterable[Record]:
    return itertools.chain.from_iterable(selection.runs.values() for selection in rounds.values())


def _units(rounds: Mapping[int, Selection], configuration: Mapping[str, int]) -> dict[int, _Unit]:
    """Return the runs of each unit by its number, from 1; none where every trial diverged."""
    if configuration["rounds"] > 1:
        return {number + 1: selection.runs for number, selection in rounds.items()}
    runs = [{key: record} for selection in rounds.values() for key, record in selection.runs.items()]
    lost: list[_Unit] = [{}] * (configuration["seeds"] if rounds and not runs else 0)
    return dict(enumerate(runs or lost, 1))


def _outcome(units: Mapping[int, _Unit], metric: Metric, timed: bool) -> Outcome:
    runs = {number: list(unit.values()) for number, unit in units.items()}
    every = [record for records in runs.values() for record in records]
    return Outcome(
        test={number: _mean([record.test for record in records], metric) for number, records in runs.items()},
        validation={
            number: _mean([record.validation for record in records], metric) for number, records in runs.items()
        },
        steps={number: _time([record.steps_to_target for record in records]) for number, records in runs.items()},
        seconds={number: _time([record.seconds_to_target for record in records]) for number, records in runs.items()},
        step_seconds={
            number: statistics.median(record.step_seconds for record in records)
            for number, records in runs.items()
            if records and timed
        },
        state_bytes=max((record.state_bytes for record in every), default=None),
        parameter_bytes=max((record.parameter_bytes for record in every), default=None),
        horizon=max((record.steps for record in every if not record.diverged), default=None),
    )


def _mean(values: Sequence[float | None], metric: Metric) -> float | None:
    """Return the mean over a unit's fresh seeds; None if it is lost: one diverged, or there is none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return mean_on_scale(finite, metric).estimate if finite and len(finite) == len(values) else None


def _time(times: Sequence[float | None]) -> float:
    return median([math.inf if time is None else time for time in times]) if times else math.inf


def _row(name: str, results: Results, rounds: Mapping[int, Selection], outcome: Outcome, metric: Metric) -> Row:
    trials = list(results.tuning[name].values())
    records = list(_records(rounds))
    return Row(
        optimizer=name,
        units=len(outcome.test),
        lost=sum(value is None for value in outcome.test.values()),
        reached=sum(map(math.isfinite, outcome.steps.values())),
        steps=_median(outcome.steps.values()),
        seconds=_median(outcome.seconds.values()),
        validation=_interval(outcome.validation.values(), metric),
        test=_interval(outcome.test.values(), metric),
        trials=len(trials),
        diverged_trials=sum(record.diverged for record in trials),
        step_seconds=_median(record.step_seconds for record in records),
        optimizer_seconds=_median(record.optimizer_seconds for record in records),
        state_bytes=outcome.state_bytes,
        parameter_bytes=outcome.parameter_bytes,
        hyperparameters=tuple(selection.hyperparameters for selection in rounds.values()),
    )


def _median(values: Iterable[float]) -> float | None:
    numbers = list(values)
    middle = median(numbers) if numbers else math.inf
    return middle if math.isfinite(middle) else None


def _interval(values: Iterable[float | None], metric: Metric) -> Interval | None:
    numbers = [value for value in values if value is not None]
    return mean_on_scale(numbers, metric) if numbers else None


def _budget(
    results: Results, selections: Mapping[str, Mapping[int, Selection]], metric: Metric
) -> dict[str, tuple[BudgetPoint, ...]]:
    trials = {
        name: [
            [(record.validation, record.test) for key, record in results.tuning[name].items() if key.round == number]
            for number in rounds
        ]
        for name, rounds in selections.items()
        if tunable(results.spaces[name])
    }
    tests = [
        test
        for rounds_ in trials.values()
        for round_ in rounds_
        for _, test in round_
        if test is not None and math.isfinite(test)
    ]
    worst = (min if metric.maximize else max)(tests, default=None)
    curves = {name: budget_curve(rounds_, metric, worst) for name, rounds_ in trials.items()}
    return {name: curve for name, curve in curves.items() if curve}


def _notes(results: Results, selections: Mapping[str, Mapping[int, Selection]], metric: Metric) -> list[str]:
    # Layouts in the order of their first session; one backward pass in one process goes without saying.
    notes = [str(layout) for layout in dict.fromkeys(layouts(results)) if layout.ranks * layout.accumulation_steps > 1]
    rounds, seeds = results.configuration["rounds"], results.configuration["seeds"]
    complete = len(next(iter(selections.values()), {}))
    if complete < rounds:
        notes.append(f"{complete} of {rounds} rounds are complete; the others are left out")
    notes += _edges(results, selections)
    floor = metric.resolution / 2
    if metric.scale == "log" and floor:
        records = [record for rounds_ in selections.values() for record in _records(rounds_)]
        count = sum(value is not None and value < floor for r in records for value in (r.validation, r.test))
        if count:
            notes.append(
                f"{count} values of {metric.name} are below half an example's worth and count as that ({floor:.3g}), "
                "since the scale is logarithmic"
            )
    if results.plans > 1:
        notes.append(
            f"{results.plans} different lists of pairs have been compared in this folder: a pair chosen after results "
            "were seen is not planned, and its verdict is too sure"
        )
    wide = [name for name, space in results.spaces.items() if len(space) > _DIMENSIONS]
    if wide and results.configuration["trials"] < _THOROUGH:
        notes.append(
            f"{', '.join(wide)}: {results.configuration['trials']} trials are few for more than {_DIMENSIONS} "
            f"hyperparameters; compare with {_THOROUGH} trials for all"
        )
    tuned = any(results.spaces.values())
    if rounds == 1 and tuned:
        notes.append(
            "one round: the intervals know the luck of the seeds, not that of the tuning; use at least 3 rounds to "
            "compare optimizers"
        )
    elif 1 < rounds < _FEW:
        notes.append(f"{rounds} rounds make wide intervals; use at least {_FEW}")
    if rounds == seeds == 1:
        notes.append("one run per optimizer: there are no intervals, and no difference can be significant")
    return notes


def _edges(results: Results, selections: Mapping[str, Mapping[int, Selection]]) -> list[str]:
    """Return a note for each optimizer of which values near an end of their range were selected."""
    notes = []
    for name, space in results.spaces.items():
        points = [s.hyperparameters for s in selections[name].values() if s.hyperparameters is not None]
        phrases = []
        for key, ranges in space.items():
            count = sum(bool(candidates.at_edge({key: point[key]}, {key: ranges})) for point in points)
            if count:
                phrases.append(f"{key} ({ranges.low:g} to {ranges.high:g}) in {count} of {len(points)}")
        if phrases:
            notes.append(
                f"{name}: selected at the edge of its range, so that a better value may lie outside: "
                f"{', '.join(phrases)} rounds"
            )
    return notes
