"""The picture of a comparison: validation metric against steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valleys.lab.atomic_write import write_picture
from valleys.lab.report.html.reading import band, finals, logarithmic, optimizers, sound
from valleys.palette import literal, look, new_figure, plain


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw mean and range over the runs with the selected values on fresh seeds, and the target.

    The order of the document's search spaces chooses the colours.
    """
    figure = new_figure((8, 5))
    axes = figure.add_subplot()
    configuration = document["configuration"]
    names = optimizers(document)
    values: list[float] = [configuration["target"]]
    count = 0
    for row in document["table"]:
        name = row["optimizer"]
        index = names.index(name)  # not the rank: an optimizer keeps its colour from report to report
        runs = sound(finals(document, name))
        curve = band(document, runs)
        label = f"{name} ({row['lost']} of {row['units']} lost)" if row["lost"] else name
        style = look(index)
        axes.plot(curve.steps, curve.means, label=literal(label), linewidth=2, **{**style, "marker": ""})
        axes.fill_between(curve.steps, curve.lows, curve.highs, color=style["color"], alpha=0.18, linewidth=0)
        values += curve.lows + curve.highs
        count = max(count, len(runs))
    axes.axhline(configuration["target"], color="#555555", linewidth=1, label="target")
    if logarithmic(document, values):
        axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(literal(f"validation {configuration['metric']}"))
    spread = f"mean and range of {count} runs" if count > 1 else "one run"
    axes.set_title(literal(f"{configuration['task']} at batch {configuration['batch_size']}: {spread}"))
    plain(axes)
    axes.legend(frameon=False)
    write_picture(path, figure)
