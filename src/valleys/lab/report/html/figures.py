"""The charts of a comparison, and those over several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
    reached,
    sound,
    trials,
)
from valleys.lab.statistics import median, performance_profiles

__all__ = [
    "Panel",
    "across",
    "curves",
    "flatness",
    "profile",
    "progress",
    "results",
    "sensitivity",
    "step_times",
    "times",
]


@dataclass(frozen=True)
class Panel:
    """A chart of one optimizer.

    Args:
        name: the optimizer.
        index: its number.
        picture: the chart.
    """

    name: str
    index: int
    picture: Markup


def results(document: Document, index: dict[str, int]) -> Markup:
    """The test metric of each run, with mean and interval.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The chart, best optimizer first.
    """
    rows = []
    for row in document["table"]:
        runs = finals(document, row["optimizer"])
        values = [run["test"] for run in sound(runs) if run["test"] is not None]
        center, half = row["test"] or (None, None)
        rows.append(strips.Row(row["optimizer"], index[row["optimizer"]], values, center, half, row["diverged_runs"]))
    metric = f"test {document['configuration']['metric']}"
    places = [value for row in rows for value in strips.extent(row)]
    return strips.strip(
        rows, title=f"{metric} by optimizer", x_title=metric, lost="diverged", log=logarithmic(document, places)
    )


def flatness(document: Document, index: dict[str, int]) -> Markup | None:
    """The top eigenvalue of each run, with the mean.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The chart; None if nothing was measured.
    """
    found = document.get("flatness")
    if not found or "top_eigenvalue" not in found["measures"]:
        return None
    rows = []
    for row in found["rows"]:
        values = [run["top_eigenvalue"] for run in found["runs"][row["optimizer"]]]
        center, half = row["means"]["top_eigenvalue"]
        rows.append(strips.Row(row["optimizer"], index[row["optimizer"]], values, center, half))
    places = [value for row in rows for value in strips.extent(row)]
    name = found["measures"]["top_eigenvalue"]
    log = min(places) > 0 and max(places) > 10 * min(places)
    return strips.strip(rows, title=f"{name} by optimizer", x_title=name, lost="diverged", log=log)


def curves(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """The validation metric against steps and against seconds.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The two charts.
    """
    configuration = document["configuration"]
    bands = {name: band(sound(finals(document, name))) for name in optimizers(document)}
    metric, target = f"validation {configuration['metric']}", configuration["target"]
    values = [target, *(value for held in bands.values() for value in (*held.lows, *held.highs))]

    def chart(x_title: str, xs: Callable[[Any], Sequence[float]]) -> Markup:
        return charts.lines(
            [
                charts.Line(name, index[name], xs(held), held.means, held.lows, held.highs)
                for name, held in bands.items()
            ],
            title=f"{metric} against {x_title}",
            x_title=x_title,
            y_title=metric,
            target=target,
            log_y=logarithmic(document, values),
        )

    return chart("optimizer steps", lambda held: held.steps), chart("training seconds", lambda held: held.seconds)


def times(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """Steps and seconds to the target, run by run; what missed it is counted at infinity.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The two charts.
    """

    def chart(key: str, x_title: str) -> Markup:
        rows = []
        for row in document["table"]:
            held = reached(finals(document, row["optimizer"]), key)
            finite = [value for value in held if math.isfinite(value)]
            center = median(held) if held else None
            rows.append(
                strips.Row(
                    row["optimizer"],
                    index[row["optimizer"]],
                    finite,
                    center if center is not None and math.isfinite(center) else None,
                    lost=len(held) - len(finite),
                )
            )
        return strips.strip(rows, title=f"{x_title} by optimizer", x_title=x_title, lost="missed ∞")

    return chart("steps_to_target", "steps to the target"), chart("seconds_to_target", "seconds to the target")


def step_times(document: Document, index: dict[str, int]) -> Markup:
    """Milliseconds of a training step, run by run.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The chart.
    """
    rows = []
    for row in document["table"]:
        values = [1e3 * run["step_seconds"] for run in finals(document, row["optimizer"])]
        center = None if row["step_seconds"] is None else 1e3 * row["step_seconds"]
        rows.append(strips.Row(row["optimizer"], index[row["optimizer"]], values, center))
    title = "milliseconds per training step"
    return strips.strip(rows, title=f"{title} by optimizer", x_title=title, lost="")


def sensitivity(document: Document, index: dict[str, int]) -> list[Panel]:
    """What came of every trial, an optimizer to a panel.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The panels, all with the same axis upwards.
    """
    configuration = document["configuration"]
    held = {name: trials(document, name) for name in optimizers(document)}
    ends = [run["validation"] for runs in held.values() for run in runs if run["validation"] is not None]
    extent = [*ends, configuration["target"]]
    panels = []
    for name, runs in held.items():
        space = document["spaces"].get(name, {})
        key = next((key for key in ("lr", *space) if key in space), None)
        panels.append(
            Panel(
                name,
                index[name],
                strips.panel(
                    name,
                    index[name],
                    [
                        strips.Trial(
                            run["hyperparameters"][key] if key else run["point"] + 1,
                            run["validation"],
                            run["point"] == document["chosen_trials"][name],
                        )
                        for run in runs
                    ],
                    extent,
                    x_title=key or "trial",
                    y_title=f"validation {configuration['metric']}",
                    maximize=configuration["maximize"],
                    log_x=key is not None and bool(space[key]["log"]),
                    log_y=logarithmic(document, extent),
                    x_range=(space[key]["low"], space[key]["high"]) if key else None,
                    target=configuration["target"],
                ),
            )
        )
    return panels


def progress(document: Document, index: dict[str, int]) -> Markup:
    """The best validation metric after each trial.

    Args:
        document: a comparison.
        index: numbers of the optimizers.

    Returns:
        The chart.
    """
    configuration = document["configuration"]
    better = max if configuration["maximize"] else min
    held = []
    for name in optimizers(document):
        xs: list[float] = []
        ys: list[float] = []
        for number, run in enumerate(trials(document, name), 1):
            value = run["validation"]
            if value is not None or ys:
                xs.append(number)
                ys.append(better(entry for entry in (value, ys[-1] if ys else None) if entry is not None))
        held.append(charts.Line(name, index[name], xs, ys))
    return charts.lines(
        held,
        title="best validation metric against number of trials",
        x_title="trials",
        y_title=f"best validation {configuration['metric']} so far",
        target=configuration["target"],
        log_y=logarithmic(document, [configuration["target"], *(y for line in held for y in line.ys)]),
        stairs=True,
    )


def across(documents: Sequence[Document], group: Sequence[int], index: dict[str, int]) -> Markup:
    """The test metric against the batch size, over comparisons of one task.

    Args:
        documents: all comparisons.
        group: which of them, by rising batch size.
        index: numbers of the optimizers.

    Returns:
        The chart.
    """
    held = [documents[number] for number in group]
    task = held[0]["configuration"]["task"]
    metric = f"test {held[0]['configuration']['metric']}"
    dots: dict[str, dict[int, tuple[float, float | None]]] = {}
    for slot, document in enumerate(held):
        for row in document["table"]:
            if row["test"] is not None:
                dots.setdefault(row["optimizer"], {})[slot] = (row["test"][0], row["test"][1])
    return charts.slots(
        [charts.Dots(name, index[name], dots[name]) for name in sorted(dots, key=index.__getitem__)],
        [label.removeprefix(f"{task} at batch ") for label in labels(held)],
        title=f"{task}: {metric} against batch size",
        x_title="batch size",
        y_title=metric,
    )


def profile(documents: Sequence[Document], index: dict[str, int]) -> tuple[Markup, dict[str, float]] | None:
    """On what share of the comparisons an optimizer is within a factor of the fastest, in steps to the target.

    Args:
        documents: the comparisons.
        index: numbers of the optimizers.

    Returns:
        The chart and the area under each optimizer's profile; None unless two or more comparisons share two or
        more optimizers.
    """
    shared = [name for name in index if all(name in optimizers(document) for document in documents)]
    if len(documents) < 2 or len(shared) < 2:
        return None
    steps = {
        label: {row["optimizer"]: row["steps"] or math.inf for row in document["table"] if row["optimizer"] in shared}
        for label, document in zip(labels(documents), documents, strict=True)
    }
    # In one order everywhere: the profiles come in that of the first.
    found = performance_profiles({label: {name: row[name] for name in shared} for label, row in steps.items()})
    end = max([2.0, *(tau for held in found.values() for tau in held.taus)]) * 1.1
    held = [
        charts.Line(name, index[name], [*curve.taus, end], [*curve.shares, curve.shares[-1]])
        for name, curve in found.items()
    ]
    picture = charts.lines(
        held,
        title="performance profiles of steps to the target",
        x_title="steps, as a multiple of the fewest",
        y_title="share of comparisons",
        log_x=True,
        stairs=True,
    )
    return picture, {name: curve.area for name, curve in found.items()}
