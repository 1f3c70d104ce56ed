"""The charts of a comparison, and those over several; ``index`` is a number by optimizer."""

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

__all__ = ["Panel"]


@dataclass(frozen=True)
class Panel:
    """The chart of one optimizer and its number."""

    name: str
    index: int
    picture: Markup


def results(document: Document, index: dict[str, int]) -> Markup:
    """Draw the test metric of each run, with mean and interval, best optimizer first."""
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
    """Draw the top eigenvalue of each run, with the mean; None if nothing was measured."""
    flat = document.get("flatness")
    if not flat or "top_eigenvalue" not in flat["measures"]:
        return None
    rows = []
    for row in flat["rows"]:
        values = [run["top_eigenvalue"] for run in flat["runs"][row["optimizer"]]]
        center, half = row["means"]["top_eigenvalue"]
        rows.append(strips.Row(row["optimizer"], index[row["optimizer"]], values, center, half))
    places = [value for row in rows for value in strips.extent(row)]
    name = flat["measures"]["top_eigenvalue"]
    log = min(places) > 0 and max(places) > 10 * min(places)
    return strips.strip(rows, title=f"{name} by optimizer", x_title=name, lost="diverged", log=log)


def curves(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """Draw the validation metric against steps and against seconds."""
    configuration = document["configuration"]
    bands = {name: band(sound(finals(document, name))) for name in optimizers(document)}
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


def times(document: Document, index: dict[str, int]) -> tuple[Markup, Markup]:
    """Draw steps and seconds to the target, run by run; what missed it is counted at infinity."""

    def chart(key: str, x_title: str) -> Markup:
        rows = []
        for row in document["table"]:
            reached_at = reached(finals(document, row["optimizer"]), key)
            finite = [value for value in reached_at if math.isfinite(value)]
            center = median(reached_at) if reached_at else None
            rows.append(
                strips.Row(
                    row["optimizer"],
                    index[row["optimizer"]],
                    finite,
                    center if center is not None and math.isfinite(center) else None,
                    lost=len(reached_at) - len(finite),
                )
            )
        return strips.strip(rows, title=f"{x_title} by optimizer", x_title=x_title, lost="missed ∞")

    return chart("steps_to_target", "steps to the target"), chart("seconds_to_target", "seconds to the target")


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
    """Draw every trial, an optimizer to a panel, all with the same axis upwards."""
    configuration = document["configuration"]
    by_name = {name: trials(document, name) for name in optimizers(document)}
    ends = [run["validation"] for runs in by_name.values() for run in runs if run["validation"] is not None]
    extent = [*ends, configuration["target"]]
    panels = []
    for name, runs in by_name.items():
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
                    strips.Axis(key, (space[key]["low"], space[key]["high"]), bool(space[key]["log"]))
                    if key
                    else strips.Axis("trial"),
                    strips.Axis(f"validation {configuration['metric']}", extent, logarithmic(document, extent)),
                    maximize=configuration["maximize"],
                    target=configuration["target"],
                ),
            )
        )
    return panels


def progress(document: Document, index: dict[str, int]) -> Markup:
    """Draw the best validation metric after each trial."""
    configuration = document["configuration"]
    better = max if configuration["maximize"] else min
    lines = []
    for name in optimizers(document):
        xs: list[float] = []
        ys: list[float] = []
        for number, run in enumerate(trials(document, name), 1):
            value = run["validation"]
            if value is not None or ys:
                xs.append(number)
                ys.append(better(entry for entry in (value, ys[-1] if ys else None) if entry is not None))
        lines.append(charts.Line(name, index[name], xs, ys))
    return charts.lines(
        lines,
        title="best validation metric against number of trials",
        x_title="trials",
        y_title=f"best validation {configuration['metric']} so far",
        target=configuration["target"],
        log_y=logarithmic(document, [configuration["target"], *(y for line in lines for y in line.ys)]),
        stairs=True,
    )


def across(documents: Sequence[Document], group: Sequence[int], index: dict[str, int]) -> Markup:
    """Draw the test metric against the batch size, over the comparisons in ``group``, which are of one task."""
    chosen = [documents[number] for number in group]
    task = chosen[0]["configuration"]["task"]
    metric = f"test {chosen[0]['configuration']['metric']}"
    dots: dict[str, dict[int, tuple[float, float | None]]] = {}
    for slot, document in enumerate(chosen):
        for row in document["table"]:
            if row["test"] is not None:
                dots.setdefault(row["optimizer"], {})[slot] = (row["test"][0], row["test"][1])
    return charts.slots(
        [charts.Dots(name, index[name], dots[name]) for name in sorted(dots, key=index.__getitem__)],
        [label.removeprefix(f"{task} at batch ") for label in labels(chosen)],
        title=f"{task}: {metric} against batch size",
        x_title="batch size",
        y_title=metric,
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
