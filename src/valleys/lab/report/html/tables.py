"""The tables of a page; ``index`` is a number by optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from valleys.lab.optimizers.spec import Range
from valleys.lab.report.html import reading
from valleys.lab.report.html.reading import Document, labels, optimizers, trials
from valleys.lab.report.table import (
    Cell,
    Table,
    about_optimizers,
    duration,
    hyperparameters,
    interval,
    number,
    numeral,
    scaled,
)

COST = (
    "Medians over the runs. The step contains forward and backward pass; the optimizer's time is its own step alone. "
    "State: what the optimizer keeps, parameters left out."
)
"""Explanation of the table of cost."""

_ROUNDING = 1e-12  # what is left of a distance that is zero


def results(document: Document, index: dict[str, int]) -> Table:
    """Make the main table, best optimizer first."""
    metric = document["configuration"]["metric"]
    titles = [f"test {metric}", f"validation {metric}", "target reached", "steps to target", "seconds to target"]
    titles = ["optimizer", *titles, f"{reading.unit(document)}s lost", "diverged trials"]
    rows = [
        [
            Cell(row["optimizer"]),
            interval(row["test"]),
            interval(row["validation"]),
            Cell(f"{row['reached']} of {row['units']}", row["reached"]),
            duration(row["steps"], row["units"]),
            duration(row["seconds"], row["units"], 3),
            Cell(f"{row['lost']} of {row['units']}", row["lost"]),
            Cell(f"{row['diverged_trials']} of {row['trials']}", row["diverged_trials"]),
        ]
        for row in document["table"]
    ]
    return about_optimizers("Results on fresh seeds", titles, rows, index)


def flatness(document: Document, index: dict[str, int]) -> list[Table]:
    """Make the tables of flatness and, where there are pairs, of its ratios; none if nothing was measured."""
    flat = document.get("flatness")
    if not flat:
        return []
    measures = flat["measures"]
    unit = f"{reading.unit(document)}s"
    rows = [
        [Cell(row["optimizer"]), numeral(row["units"]), *(interval(row["means"][measure]) for measure in measures)]
        for row in flat["rows"]
    ]
    means = about_optimizers(
        "Flatness of the finished runs on fresh seeds", ["optimizer", unit, *measures.values()], rows, index
    )
    if not flat["contrasts"]:
        return [means]
    ratios = [
        [
            Cell(f"{entry['first']} / {entry['second']}"),
            Cell(measures[entry["measure"]]),
            interval(entry["ratio"]),
            numeral(entry["units"]),
        ]
        for entry in flat["contrasts"]
    ]
    titles = ["pair", "measure", "ratio with 95 % interval", unit]
    return [means, Table("Flatness of pairs", titles, [False, False, True, True], ratios)]


def times(document: Document, index: dict[str, int]) -> Table:
    """Make the table of steps and seconds to the target, unit by unit."""
    rows = []
    for row in document["table"]:
        name = row["optimizer"]
        cells = [Cell(name), Cell(f"{row['reached']} of {row['units']}", row["reached"])]
        for key, digits in (("steps", 6), ("seconds", 3)):
            middle = duration(row[key], row["units"], digits)
            values = ", ".join(number(value, digits) for value in reading.times(document, name, key))
            cells += [middle, Cell(values or "-", middle.value)]
        rows.append(cells)
    unit = reading.unit(document)
    titles = ["target reached", "median steps", f"steps of each {unit}", "median seconds", f"seconds of each {unit}"]
    return about_optimizers("Time to the target", ["optimizer", *titles], rows, index)


def cost(document: Document, index: dict[str, int]) -> Table:
    """Make the table of time and memory."""
    rows = []
    for row in document["table"]:
        state, parameters = row["state_bytes"], row["parameter_bytes"]
        rows.append(
            [
                Cell(row["optimizer"]),
                numeral(scaled(row["step_seconds"], 1e3)),
                numeral(scaled(row["optimizer_seconds"], 1e3)),
                numeral(scaled(state, 1e-6)),
                numeral(state / parameters if state is not None and parameters else None, 3),
            ]
        )
    titles = ["optimizer", "step ms", "optimizer ms", "state MB", "state / parameters"]
    return about_optimizers("Cost of a step", titles, rows, index)


def budget(document: Document, index: dict[str, int]) -> Table:
    """Make the table of the expected test metric by number of trials: powers of two, and all of them."""
    longest = max(map(len, document["budget"].values()))
    counts = sorted({*(2**k for k in range(longest.bit_length())), longest})
    rows = []
    for name, points in document["budget"].items():
        means = {point["trials"]: point["mean"] for point in points}
        rows.append([Cell(name), *(numeral(means.get(count)) for count in counts)])
    titles = [f"{count} trial{'s' * (count > 1)}" for count in counts]
    return about_optimizers("Expected test metric by number of trials", ["optimizer", *titles], rows, index)


def minima(drawing: Mapping[str, Any]) -> Table:
    """Make the table of the minima that were drawn."""
    numbers = {
        "training loss": "training_loss",
        "validation loss": "validation_loss",
        "x": "x",
        "y": "y",
        "distance from the plane": "distance",
    }
    rows = [
        [Cell(entry["optimizer"]), *(_finite(entry[key]) for key in ("round", "seed", *numbers.values()))]
        for entry in drawing["minima"]
    ]
    return Table("The minima", ["minimum", "round", "seed", *numbers], [False] + [True] * 7, rows)


def barriers(drawing: Mapping[str, Any]) -> Table:
    """Make the table of the barriers between minima, each with the place on the line where it stands."""
    rows = []
    for entry in drawing["barriers"]:
        cells = [Cell(f"{entry['first']} to {entry['second']}"), _finite(entry["distance"])]
        for path in (entry["training"], entry["validation"]):
            cells += [_finite(path["barrier"]), _finite(path["at"]) if path["barrier"] else Cell("-")]
        rows.append(cells)
    titles = ["pair", "distance", "training barrier", "at", "validation barrier", "at"]
    return Table("Barriers on straight lines", titles, [False] + [True] * 5, rows)


def tuning(document: Document, index: dict[str, int]) -> Table:
    """Make the table of every trial, also the bad ones."""
    metric = document["configuration"]["metric"]
    rows = [
        [
            Cell(name),
            numeral(run["round"]),
            numeral(run["trial"]),
            Cell(hyperparameters(run["hyperparameters"])),
            numeral(run["validation"]),
            numeral(run["test"]),
            duration(run["steps_to_target"], 1),
            Cell("diverged" if run["diverged"] else "selected" if run["selected"] else ""),
        ]
        for name in optimizers(document)
        for run in trials(document, name)
    ]
    titles = ["optimizer", "round", "trial", "hyperparameters", f"validation {metric}", f"test {metric}"]
    table = about_optimizers("Every tuning trial", [*titles, "steps to the target", "status"], rows, index)
    return replace(table, numeric=[False, True, True, False, True, True, True, False])


def spaces(document: Document, index: dict[str, int]) -> Table:
    """Make the table of the search spaces and the selected values."""
    selected = {row["optimizer"]: row["hyperparameters"] for row in document["table"]}
    rows = [
        [
            Cell(name),
            Cell(key),
            Cell(str(Range(**ranges))),
            Cell(", ".join(number((values or {}).get(key), 3) for values in selected[name]) or "-"),
        ]
        for name, space in document["spaces"].items()
        for key, ranges in space.items()
    ]
    titles = ["optimizer", "hyperparameter", "range", "selected, round by round"]
    table = about_optimizers("Search space", titles, rows, index)
    return replace(table, numeric=[False] * len(titles))


def settings(document: Document) -> Table:
    """Make the table of the configuration."""
    configuration = dict(document["configuration"])
    better = "larger" if configuration.pop("maximize") else "smaller"
    sizes = configuration.pop("data")
    configuration.pop("layout")
    steps = sorted({one["horizon"] for one in document["outcomes"].values() if one["horizon"] is not None})
    values = {
        **configuration,
        "better": f"{better} {configuration['metric']}",
        "examples": "{} train, {} validation, {} test".format(*sizes) if sizes else "made by the task's own loop",
        "steps": ", ".join(map(str, steps)),
    }
    rows = [
        [Cell(key.replace("_", " ")), Cell(number(value, 6) if isinstance(value, float) else str(value))]
        for key, value in values.items()
        if value is not None and value != ""
    ]
    return Table("Configuration", ["setting", "value"], [False, False], rows, sortable=False)


def environments(document: Document) -> Table:
    """Make the table of the environments, a column per session."""
    sessions = document["environments"]
    alone = all(environment["ranks"] == 1 for environment in sessions)
    names = dict.fromkeys(name for environment in sessions for name in environment if not (alone and name == "ranks"))
    rows = [[Cell(name.replace("_", " ")), *(Cell(str(one.get(name, "-"))) for one in sessions)] for name in names]
    titles = ["", *([f"session {k}" for k in range(1, len(sessions) + 1)] if len(sessions) > 1 else ["value"])]
    return Table("Environment", titles, [False] * len(titles), rows, sortable=False)


def across(documents: Sequence[Document], group: Sequence[int], index: dict[str, int]) -> Table:
    """Make the table of the test metric by batch size, over the comparisons in ``group``, a column each."""
    members = [documents[number] for number in group]
    columns = [{row["optimizer"]: row["test"] for row in document["table"]} for document in members]
    names = [name for name in index if any(name in column for column in columns)]
    configuration = members[0]["configuration"]
    titles = ["optimizer", *(label.removeprefix(f"{configuration['task']} at ") for label in labels(members))]
    rows = [[Cell(name), *(interval(column.get(name)) for column in columns)] for name in names]
    return about_optimizers(f"{configuration['task']}: test {configuration['metric']}", titles, rows, index)


def areas(area: Mapping[str, float], index: dict[str, int]) -> Table:
    """Make the table of the areas under performance profiles, best first."""
    order = sorted(area, key=lambda name: -area[name])
    rows = [[Cell(name), numeral(area[name], 3)] for name in order]
    return about_optimizers(
        "Area under the profile, up to a factor of 4", ["optimizer", "area (1 is best)"], rows, index
    )


def _finite(value: float | None) -> Cell:
    """Make a cell with a number; a loss that overflowed is null in the file."""
    if value is None:
        return Cell("not finite")
    return numeral(0 if abs(value) < _ROUNDING else value, 3 if isinstance(value, float) else 12)
