"""The picture of a comparison: validation metric against steps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valleys.lab.atomic_write import write_whole
from valleys.lab.report.html.reading import band, finals, logarithmic, optimizers, sound
from valleys.palette import COLORS, DASHES


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw mean and range over the runs with the selected values on fresh seeds, and the target.

    The order of the document's search spaces chooses the colours.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global figure, no display, and the user's own backend stays as it is.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
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
        color = COLORS[index % len(COLORS)]
        dashes = DASHES[index % len(DASHES)]
        axes.plot(curve.steps, curve.means, color=color, linestyle=dashes, linewidth=2, label=_text(label))
        axes.fill_between(curve.steps, curve.lows, curve.highs, color=color, alpha=0.18, linewidth=0)
        values += curve.lows + curve.highs
        count = max(count, len(runs))
    axes.axhline(configuration["target"], color="#555555", linewidth=1, label="target")
    if logarithmic(document, values):
        axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(_text(f"validation {configuration['metric']}"))
    spread = f"mean and range of {count} runs" if count > 1 else "one run"
    axes.set_title(_text(f"{configuration['task']} at batch {configuration['batch_size']}: {spread}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())


def _text(text: str) -> str:
    """Text that matplotlib shows as it is: dollar signs would start a formula."""
    return text.replace("$", r"\$")
