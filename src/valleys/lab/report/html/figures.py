"""The charts of a comparison, and those over several; ``index`` is a number by optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from valleys.lab.report.html import charts, strips
from valleys.lab.report.html.reading import (
    Document,
    band,
    finals,
    labels,
    logarithmic,
    optimizers,
    sound,
    times,
    trials,
)
from valleys.lab.statistics import performance_profiles

__all__ = ["Panel"]


@dataclass(frozen=True)
class Panel:
    """The chart of one optimizer and its number."""

    name: str
    index: int
    picture: Markup


def results(document: Document, index: dict[str, int]) -> Markup:
    """Draw the test metric of each unit, with mean and interval, best optimizer first."""
    rows = []
    for row in document["table"]:
        name = row["optimizer"]
        values = [value for value in document["outcomes"][name]["test"].values() if value is not None]
        rows.append(strips.Row(name, index[name], values, *_limits(row["test"]), row["lost"]))
    metric = f"test {document['configuration']['metric']}"
    places = [value for row in rows for value in strips.extent(row)]
    return strips.strip(
        rows, title=f"{metric} by optimizer", x_title=metric, lost="lost", log=logarithmic(document, places)
    )


def flatness(document: Document, index: dict[str, int]) -> Markup | None:
    """Draw the top eigenvalue of each run, with the mean; None if nothing was measured."""
    flat = document.get("flatness")
    if not flat or "top_eigenvalue" not in flat["measures"]:
        return None
    rows = [
        strips.Row(
            row["optimizer"],
            index[row["optimizer"]],
            [run["top_eigenvalue"] for run in flat["runs"][row["optimizer"]]],
            *_limits(row["means"]["top_eigenvalue"]),
        )
        for row in flat["rows"]
    ]
    places = [value for row in rows for value in strips.extent(row)]
    name = flat["measures"]["top_eigenvalue"]
    log = min(places) > 0 and max(places) > 10 * min(places)
    return strips.strip(rows, title=f"{name} by optimizer", x_title=name, lost="", log=log)


def curves(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """Draw the validation metric against steps and against seconds."""
    configuration = document["configuration"]
    bands = {name: band(document, sound(finals(document, name))) for name in optimizers(document)}
    metric, target = f"validation {configuration['metric']}", configuration["target"]
    values = [target, *(value for curve in bands.values() for value in (*curve.lows, *curve.highs))]

    def chart(x_title: str, xs: Callable[[Any], Sequence[float]]) -> Markup:
        return charts.lines(
            [
                charts.Line(name, index[name], xs(curve), curve.means, curve.lows, curve.highs)
                for name, curve in bands.items()
            ],
            title=f"{metric} against {x_title}",
            x_title=x_title,
            y_title=metric,
            target=target,
            log_y=logarithmic(document, values),
        )

    return chart("optimizer steps", lambda curve: curve.steps), chart("training seconds", lambda curve: curve.seconds)


def target(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """Draw steps and seconds to the target, unit by unit; what missed it is counted at infinity."""

    def chart(key: str) -> Markup:
        rows = []
        for row in document["table"]:
            name = row["optimizer"]
            values = times(document, name, key)
            finite = [value for value in values if math.isfinite(value)]
            rows.append(strips.Row(name, index[name], finite, row[key], lost=len(values) - len(finite)))
        title = f"{key} to the target"
        return strips.strip(rows, title=f"{title} by optimizer", x_title=title, lost="missed ∞")

    return chart("steps"), chart("seconds")


def step_times(document: Document, index: dict[str, int]) -> Markup:
    """Draw the milliseconds of a training step, run by run."""
    rows = []
    for row in document["table"]:
        values = [1e3 * run["step_seconds"] for run in finals(document, row["optimizer"])]
        center = None if row["step_seconds"] is None else 1e3 * row["step_seconds"]
        rows.append(strips.Row(row["optimizer"], index[row["optimizer"]], values, center))
    title = "milliseconds per training step"
    return strips.strip(rows, title=f"{title} by optimizer", x_title=title, lost="")


def sensitivity(document: Document, index: dict[str, int]) -> list[Panel]:
    """Draw every trial of all rounds, an optimizer to a panel, all with the same axis upwards."""
    configuration = document["configuration"]
    by_name = {name: trials(document, name) for name in optimizers(document)}
    ends = [run["validation"] for runs in by_name.values() for run in runs if run["validation"] is not None]
    extent = [*ends, configuration["target"]]
    upwards = strips.Axis(f"validation {configuration['metric']}", extent, logarithmic(document, extent))
    panels = []
    for name, runs in by_name.items():
        space = document["spaces"][name]
        key = next((key for key in ("lr", *space) if key in space), None)
        picture = strips.panel(
            name,
            index[name],
            [
                strips.Trial(run["hyperparameters"][key] if key else run["trial"], run["validation"], run["selected"])
                for run in runs
            ],
            strips.Axis("trial") if key is None else _across(key, space[key]),
            upwards,
            maximize=configuration["maximize"],
            target=configuration["target"],
        )
        panels.append(Panel(name, index[name], picture))
    return panels


def _across(key: str, ranges: Mapping[str, Any]) -> strips.Axis:
    """Return the axis of a hyperparameter; values of 0 have no place on a logarithmic one."""
    return strips.Axis(key, (ranges["low"], ranges["high"]), ranges["scale"] == "log" and not ranges["zero"])


def budget(document: Document, index: dict[str, int]) -> Markup:
    """Draw the test metric to expect of so many trials, with its interval over rounds."""
    metric = f"expected test {document['configuration']['metric']}"
    lines = []
    for name, points in document["budget"].items():
        limits = [[point[key] for point in points] for key in ("low", "high")]
        lows, highs = limits if None not in limits[0] + limits[1] else ((), ())
        trials_, means = ([point[key] for point in points] for key in ("trials", "mean"))
        lines.append(charts.Line(name, index[name], trials_, means, lows, highs))
    return charts.lines(
        lines,
        title=f"{metric} against number of trials",
        x_title="trials",
        y_title=metric,
        log_y=logarithmic(document, [y for line in lines for y in (*line.ys, *line.lows, *line.highs)]),
    )


def across(documents: Sequence[Document], group: Sequence[int], index: dict[str, int]) -> Markup:
    """Draw the test metric against the batch size, over the comparisons in ``group``, which are of one task."""
    chosen = [documents[number] for number in group]
    task = chosen[0]["configuration"]["task"]
    metric = f"test {chosen[0]['configuration']['metric']}"
    dots: dict[str, dict[int, tuple[float, float | None, float | None]]] = {}
    for slot, document in enumerate(chosen):
        for row in document["table"]:
            if row["test"] is not None:
                dots.setdefault(row["optimizer"], {})[slot] = _limits(row["test"])
    heights = [value for slots in dots.values() for limits in slots.values() for value in limits if value is not None]
    return charts.slots(
        [charts.Dots(name, index[name], dots[name]) for name in sorted(dots, key=index.__getitem__)],
        [label.removeprefix(f"{task} at batch ") for label in labels(chosen)],
        title=f"{task}: {metric} against batch size",
        x_title="batch size",
        y_title=metric,
        log_y=logarithmic(chosen[0], heights),
    )


def profile(documents: Sequence[Document], index: dict[str, int]) -> tuple[Markup, dict[str, float]] | None:
    """Draw performance profiles of the steps to the target, and return the area under each optimizer's.

    None unless two or more comparisons share two or more optimizers.
    """
    shared = [name for name in index if all(name in optimizers(document) for document in documents)]
    if len(documents) < 2 or len(shared) < 2:
        return None
    steps = {
        label: {row["optimizer"]: row["steps"] or math.inf for row in document["table"] if row["optimizer"] in shared}
        for label, document in zip(labels(documents), documents, strict=True)
    }
    # In one order everywhere: the profiles come in that of the first.
    profiles = performance_profiles({label: {name: row[name] for name in shared} for label, row in steps.items()})
    end = max([2.0, *(tau for curve in profiles.values() for tau in curve.taus)]) * 1.1
    lines = [
        charts.Line(name, index[name], [*curve.taus, end], [*curve.shares, curve.shares[-1]])
        for name, curve in profiles.items()
    ]
    picture = charts.lines(
        lines,
        title="performance profiles of steps to the target",
        x_title="steps, as a multiple of the fewest",
        y_title="share of comparisons",
        log_x=True,
        stairs=True,
    )
    return picture, {name: curve.area for name, curve in profiles.items()}


def _limits(interval: Mapping[str, Any] | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if interval is None else (interval["estimate"], interval["low"], interval["high"])
