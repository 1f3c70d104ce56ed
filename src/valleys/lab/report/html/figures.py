"""The figures of one comparison, as Plotly draws them; ``index`` is a number by optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from valleys.lab.report.html import plots
from valleys.lab.report.html.plots import Figure, text
from valleys.lab.report.html.reading import (
    Document,
    band,
    finals,
    logarithmic,
    optimizers,
    sound,
    times,
    trials,
    unit,
)
from valleys.lab.report.table import hyperparameters, number

_ROW = 46  # pixels of a row of marks


def forest(document: Document, index: Mapping[str, int]) -> Figure | None:
    """Draw the difference of each pair with its interval; None where no pair has a difference."""
    verdicts = [verdict for verdict in document["verdicts"] if verdict["difference"] is not None]
    if not verdicts:
        return None
    log = all(verdict["scale"] == "log" for verdict in verdicts)
    members = [verdict for verdict in verdicts if (verdict["scale"] == "log") == log]
    metric = f"test {document['configuration']['metric']}"
    rows = [f"{verdict['first']} {'/' if log else '-'} {verdict['second']}" for verdict in members]
    data = [
        plots.intervals(
            row,
            index[verdict["better"] or verdict["first"]],
            verdict["difference"],
            text(row),
            (verdict["low"], verdict["high"]),
            verdict["sentence"],
        )
        for row, verdict in zip(rows, members, strict=True)
    ]
    title = f"ratio of {metric}" if log else f"difference of {metric}"
    return plots.figure(
        data,
        x=plots.axis(title, log),
        y=plots.rows(rows),
        height=110 + _ROW * len(rows),
        showlegend=False,
        shapes=[plots.rule(1.0 if log else 0.0, "x")],
    )


def strip(
    rows: Sequence[
        tuple[str, int, Sequence[float], Sequence[str], float | None, tuple[float | None, float | None], str]
    ],
    title: str,
    log: bool,
) -> Figure:
    """Draw a row for each optimizer: small marks, and a large one with whiskers.

    A row is: name, number, values with their hover texts, the large mark's value, its interval, and its hover text.
    """
    data = []
    for name, number_, values, hovers, center, limits, hover in rows:
        data.append(plots.dots(name, number_, values, text(name), hovers))
        if center is not None:
            data.append(plots.intervals(name, number_, center, text(name), limits, hover))
    return plots.figure(
        data,
        x=plots.axis(title, log),
        y=plots.rows([row[0] for row in rows]),
        height=100 + _ROW * len(rows),
        showlegend=False,
    )


def results(document: Document, index: Mapping[str, int]) -> Figure:
    """Draw the test metric of each unit, with mean and interval, best optimizer first."""
    rows, places = [], []
    for row in document["table"]:
        name = row["optimizer"]
        tests = {key: value for key, value in document["outcomes"][name]["test"].items() if value is not None}
        limits = row["test"] or {"estimate": None, "low": None, "high": None}
        hovers = [f"{name}, {unit(document)} {key}: {number(value)}" for key, value in tests.items()]
        lost = f"; {row['lost']} of {row['units']} {unit(document)}s lost" * bool(row["lost"])
        ends = (limits["low"], limits["high"])
        mean = f"{name}: mean {number(limits['estimate'])}{lost}"
        rows.append((name, index[name], list(tests.values()), hovers, limits["estimate"], ends, mean))
        places += [*tests.values(), *(end for end in ends if end is not None)]
    return strip(rows, f"test {document['configuration']['metric']}", logarithmic(document, places))


def curves(document: Document, index: Mapping[str, int]) -> Figure:
    """Draw the validation metric against steps or seconds, with buttons for either and for the scale."""
    configuration = document["configuration"]
    metric = f"validation {configuration['metric']}"
    data, steps, seconds, values = [], [], [], [configuration["target"]]
    for name in optimizers(document):
        area = band(document, sound(finals(document, name)))
        number_ = index[name]
        data.append(plots.band(name, number_, area.steps, area.lows, area.highs))
        data.append(plots.line(name, number_, area.steps, area.means, hovertemplate="%{y:.5g} at %{x:.5g}"))
        steps += [[*area.steps, *reversed(area.steps)], area.steps]
        seconds += [[*area.seconds, *reversed(area.seconds)], area.seconds]
        values += [*area.lows, *area.highs]
    log = logarithmic(document, values)
    across: list[plots.Choice] = [
        ("steps", {"x": steps}, {"xaxis.title.text": "optimizer steps"}),
        ("seconds", {"x": seconds}, {"xaxis.title.text": "training seconds"}),
    ]
    upwards: list[plots.Choice] = [(kind, {}, {"yaxis.type": kind}) for kind in ("linear", "log")]
    controls = [plots.control("horizontal axis", across)]
    if min(values) > 0:
        controls.append(plots.control("vertical axis", upwards, int(log)))
    return plots.figure(
        data,
        x=plots.axis("optimizer steps"),
        y=plots.axis(metric, log),
        height=440,
        shapes=[plots.rule(configuration["target"], label="target")],
        controls=controls,
    )


def target(document: Document, index: Mapping[str, int], key: str) -> Figure:
    """Draw steps or seconds (``key``) to the target of each unit; what missed it is counted in the row's name."""
    rows = []
    for row in document["table"]:
        name = row["optimizer"]
        spent = times(document, name, key)
        finite = [value for value in spent if math.isfinite(value)]
        missed = len(spent) - len(finite)
        label = f"{name} ({missed} missed)" if missed else name
        hovers = [f"{name}: {number(value)} {key}" for value in finite]
        rows.append((label, index[name], finite, hovers, row[key], (None, None), f"{name}: median {number(row[key])}"))
    return strip(rows, f"{key} to the target", log=False)


def step_times(document: Document, index: Mapping[str, int]) -> Figure:
    """Draw the milliseconds of a training step, run by run."""
    rows = []
    for row in document["table"]:
        name = row["optimizer"]
        values = [1e3 * run["step_seconds"] for run in finals(document, name)]
        center = None if row["step_seconds"] is None else 1e3 * row["step_seconds"]
        hovers = [f"{name}: {number(value)} ms" for value in values]
        rows.append((name, index[name], values, hovers, center, (None, None), f"{name}: median {number(center)} ms"))
    return strip(rows, "milliseconds of a training step", log=False)


def flatness(document: Document, index: Mapping[str, int]) -> Figure | None:
    """Draw the top eigenvalue of each run, with the mean; None if nothing was measured."""
    flat = document.get("flatness")
    if not flat or "top_eigenvalue" not in flat["measures"]:
        return None
    rows, places = [], []
    for row in flat["rows"]:
        name = row["optimizer"]
        values = [run["top_eigenvalue"] for run in flat["runs"][name]]
        limits = row["means"]["top_eigenvalue"] or {"estimate": None, "low": None, "high": None}
        ends = (limits["low"], limits["high"])
        hovers = [f"{name}: {number(value)}" for value in values]
        rows.append(
            (name, index[name], values, hovers, limits["estimate"], ends, f"{name}: {number(limits['estimate'])}")
        )
        places += [*values, *(end for end in ends if end is not None)]
    return strip(rows, flat["measures"]["top_eigenvalue"], log=min(places) > 0 and max(places) > 10 * min(places))


def trial_figure(document: Document, index: Mapping[str, int]) -> Figure | None:
    """Draw every trial of all rounds by one hyperparameter, with a button for each; None where nothing was tuned."""
    configuration = document["configuration"]
    spaces = document["spaces"]
    names = [name for name in optimizers(document) if trials(document, name)]
    keys = list(dict.fromkeys(key for name in names for key in ("lr", *spaces[name]) if key in spaces[name]))
    if not keys:
        return None
    ends = [run["validation"] for name in names for run in trials(document, name) if run["validation"] is not None]
    worst = (min if configuration["maximize"] else max)([*ends, configuration["target"]])
    data: list[dict[str, Any]] = []
    places: dict[str, list[list[float | None]]] = {key: [] for key in keys}
    for name in names:
        runs = trials(document, name)
        style = plots.look(index[name])
        for selected in (False, True):
            points = [run for run in runs if run["selected"] == selected]
            marker = {
                "color": style["color"],
                "symbol": ["x" if run["diverged"] else style["symbol"] for run in points],
                "size": 12 if selected else 8,
                "line": {"width": 2 if selected else 0, "color": plots.INK},
            }
            label = f"{name}, selected" if selected else name
            ys = [worst if run["validation"] is None else run["validation"] for run in points]
            hovers = plots.hovering([_trial(name, run) for run in points])
            data.append(
                plots.trace("markers", label, index[name], (), ys, showlegend=not selected, marker=marker, **hovers)
            )
            for key in keys:
                least = _floor(spaces[name].get(key))
                values = [run["hyperparameters"].get(key) for run in points]
                places[key].append([None if value is None else max(value, least) for value in values])
    for trace, xs in zip(data, places[keys[0]], strict=True):
        trace["x"] = xs
    kinds = {key: _log(spaces, names, key) for key in keys}
    choices: list[plots.Choice] = [
        (key, {"x": places[key]}, {"xaxis.title.text": text(key), "xaxis.type": "log" if kinds[key] else "linear"})
        for key in keys
    ]
    ends = [*ends, configuration["target"]]
    return plots.figure(
        data,
        x=plots.axis(keys[0], kinds[keys[0]]),
        y=plots.axis(f"validation {configuration['metric']}", logarithmic(document, ends)),
        height=440,
        shapes=[plots.rule(configuration["target"], label="target")],
        controls=[plots.control("hyperparameter", choices)] if len(keys) > 1 else [],
    )


def _trial(name: str, run: Mapping[str, Any]) -> str:
    end = "diverged" if run["diverged"] else f"validation {number(run['validation'])}"
    return f"{name}, round {run['round']}, trial {run['trial']}: {hyperparameters(run['hyperparameters'])}: {end}"


def _floor(ranges: Mapping[str, Any] | None) -> float:
    """Return where a value of 0 is drawn on a logarithmic axis: half the range's lower end."""
    return ranges["low"] / 2 if ranges and ranges["scale"] == "log" else -math.inf


def _log(spaces: Mapping[str, Any], names: Sequence[str], key: str) -> bool:
    return any(spaces[name][key]["scale"] == "log" for name in names if key in spaces[name])


def budget(document: Document, index: Mapping[str, int]) -> Figure | None:
    """Draw the test metric to expect of so many trials, with its interval over rounds; None where nothing was tuned."""
    if not document["budget"]:
        return None
    metric = f"expected test {document['configuration']['metric']}"
    data, values = [], []
    for name, points in document["budget"].items():
        counts, means, lows, highs = ([point[key] for point in points] for key in ("trials", "mean", "low", "high"))
        if None not in (*lows, *highs):
            data.append(plots.band(name, index[name], counts, lows, highs))
            values += [*lows, *highs]
        data.append(plots.line(name, index[name], counts, means, hovertemplate="%{y:.5g} of %{x} trials"))
        values += means
    return plots.figure(
        data, x=plots.axis("trials", tick0=1), y=plots.axis(metric, logarithmic(document, values)), height=400
    )


def waterfall(attribution: Mapping[str, Any]) -> Figure | None:
    """Draw the way from the first recipe to the last, switch by switch; None where an effect is unknown."""
    effects = attribution["switches"]
    if attribution["start"] is None or any(effect["mean"] is None for effect in effects):
        return None
    metric, log = attribution["metric"], attribution["scale"] == "log"

    def shown(place: float) -> float:
        return math.exp(place) if log else place

    place, data = attribution["start"], []
    names = [attribution["first"], *(effect["name"] for effect in effects), attribution["last"]]
    for effect in effects:
        before, place = place, place + effect["mean"]
        better = (effect["mean"] > 0) == metric["maximize"]
        style = plots.look(0 if better else 1)
        width = effect["half_width"]
        limits = (None, None) if width is None else (shown(place - width), shown(place + width))
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "base": [shown(before)],
                "x": [shown(place) - shown(before)],
                "y": [text(effect["name"])],
                "marker": {"color": style["color"], "opacity": 1.0 if effect["significant"] else 0.35},
                "hoverinfo": "skip",
            }
        )
        hover = f"{effect['name']}: {'significant' if effect['significant'] else 'not significant'}"
        data.append(plots.intervals(effect["name"], 6, shown(place), text(effect["name"]), limits, hover))
    for name, at in ((names[0], attribution["start"]), (names[-1], place)):
        data.append(plots.intervals(name, 6, shown(at), text(name), (None, None), f"{name}: {number(shown(at))}"))
    return plots.figure(
        data,
        x=plots.axis(f"test {metric['name']}", log),
        y=plots.rows(names),
        height=110 + _ROW * len(names),
        showlegend=False,
    )
