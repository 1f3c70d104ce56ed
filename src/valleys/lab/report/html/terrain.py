"""The figures of the landscape between the minima: a surface to turn, barriers, spectra, sharpness.

``drawn`` is what ``landscape.json`` holds, see :func:`valleys.lab.flatness.drawing.drawing`; ``index`` is a number by
optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from valleys.lab.report.html import plots
from valleys.lab.report.html.plots import Figure, text
from valleys.lab.report.table import number

Drawn = Mapping[str, Any]


def figures(drawn: Drawn, index: Mapping[str, int]) -> dict[str, Figure]:
    """Return all of them by name."""
    return {
        "surface": _surface(drawn, index),
        "barriers": _barriers(drawn),
        "spectra": _spectra(drawn, index),
        "sharpness": _sharpness(drawn, index),
    }


def _surface(drawn: Drawn, index: Mapping[str, int]) -> Figure:
    """Draw the loss over the plane as a surface with a mark at each minimum; a logarithmic height where it is wide."""
    plane = drawn["plane"]
    losses = [loss for row in plane["loss"] for loss in row if loss is not None]
    log = min(losses) > 0 and max(losses) > 100 * min(losses)
    data: list[dict[str, Any]] = [
        {
            "type": "surface",
            "x": plane["x"],
            "y": plane["y"],
            "z": plane["loss"],
            "colorscale": "Cividis",
            "opacity": 0.92,
            "showscale": False,
            "contours": {"z": {"show": True, "usecolormap": True, "width": 1}},
            "hovertemplate": "loss %{z:.4g}<extra></extra>",
        }
    ]
    for minimum in drawn["minima"]:
        name, style = minimum["optimizer"], plots.look(index[minimum["optimizer"]])
        away = (
            f", {number(minimum['distance'], 3)} off the plane" if minimum["distance"] > 1e-3 * plane["x"][-1] else ""
        )
        data.append(
            {
                "type": "scatter3d",
                "mode": "markers",
                "name": text(name),
                "x": [minimum["x"]],
                "y": [minimum["y"]],
                "z": [minimum["plane_loss"]],
                "marker": {"color": style["color"], "size": 6, "line": {"color": "#ffffff", "width": 1}},
                "hovertemplate": text(f"{name}: loss {number(minimum['training_loss'])}{away}") + "<extra></extra>",
            }
        )
    titles = {"x": f"towards {plane['spanned_by'][1]}", "y": f"towards {plane['spanned_by'][2]}", "z": "training loss"}
    axes = {f"{key}axis": {"title": {"text": text(title)}, "gridcolor": "#dfe3e8"} for key, title in titles.items()}
    axes["zaxis"]["type"] = "log" if log else "linear"
    names = [
        {
            **{key: minimum[key] for key in ("x", "y")},
            "z": math.log10(minimum["plane_loss"]) if log else minimum["plane_loss"],
            **{"text": text(minimum["optimizer"]), "showarrow": False, "yshift": 16, "font": {"color": plots.INK}},
            "bgcolor": "#ffffff",
        }
        for minimum in drawn["minima"]
        if minimum["plane_loss"] is not None
    ]
    scene = {**axes, "annotations": names, "aspectmode": "manual", "aspectratio": {"x": 1.2, "y": 1.2, "z": 0.7}}
    layout = {"height": 560, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "scene": scene, "showlegend": False}
    return {"data": data, "layout": layout, "controls": []}


def _barriers(drawn: Drawn) -> Figure:
    """Draw the loss on the straight line between each pair of minima, with buttons for training and validation."""
    pairs = drawn["barriers"]
    data = []
    for position, pair in enumerate(pairs):
        name = f"{pair['first']} to {pair['second']}: barrier {number(pair['training']['barrier'], 3)}"
        trace = plots.line(name, position, pair["t"], pair["training"]["losses"], hovertemplate="%{y:.4g} at %{x:.2f}")
        data.append({**trace, "mode": "lines"})
    choices: list[plots.Choice] = []
    for split in ("training", "validation"):
        losses = [pair[split]["losses"] for pair in pairs]
        names = [
            text(f"{pair['first']} to {pair['second']}: barrier {number(pair[split]['barrier'], 3)}") for pair in pairs
        ]
        choices.append((split, {"y": losses, "name": names}, {"yaxis.title.text": f"{split} loss"}))
    every = [loss for pair in pairs for loss in pair["training"]["losses"] if loss is not None]
    log = min(every) > 0 and max(every) > 100 * min(every)
    controls = [plots.control("split", choices)]
    x = plots.axis("from the first minimum (0) to the second (1)")
    return plots.figure(data, x=x, y=plots.axis("training loss", log), controls=controls)


def _spectra(drawn: Drawn, index: Mapping[str, int]) -> Figure:
    """Draw the spectral density of the Hessian at each minimum, on a logarithmic scale."""
    data = []
    for entry in drawn["spectra"]:
        name = entry["optimizer"]
        floor = 1e-6 * max(value for value in entry["density"] if value is not None)
        density: list[Any] = [None if value is None or value < floor else value for value in entry["density"]]
        label = f"{name}: from {number(entry['smallest'], 2)} to {number(entry['largest'], 3)}"
        trace = plots.line(label, index[name], entry["eigenvalues"], density, hovertemplate="%{y:.3g} at %{x:.4g}")
        data.append({**trace, "mode": "lines"})
    return plots.figure(
        data, x=plots.axis("eigenvalue of the Hessian of the training loss"), y=plots.axis("spectral density", True)
    )


def _sharpness(drawn: Drawn, index: Mapping[str, int]) -> Figure:
    """Draw how far the loss rises in a ball about each minimum, with buttons for the kind of ball."""
    entries = drawn["sharpness"]
    data = [
        plots.line(
            entry["optimizer"],
            index[entry["optimizer"]],
            entry["l2"]["radii"],
            entry["l2"]["rises"],
            hovertemplate="%{y:.4g} within %{x:.3g}",
        )
        for entry in entries
    ]
    choices: list[plots.Choice] = [
        (
            label,
            {"x": [entry[kind]["radii"] for entry in entries], "y": [entry[kind]["rises"] for entry in entries]},
            {"xaxis.title.text": f"radius of the ball ({label})"},
        )
        for label, kind in (("l2", "l2"), ("relative to each weight", "adaptive"))
    ]
    controls = [plots.control("ball", choices)]
    y = plots.axis("largest rise of the training loss", True)
    return plots.figure(data, x=plots.axis("radius of the ball (l2)", True), y=y, controls=controls)
