"""The picture of a comparison: validation metric against steps."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from valleys.lab.atomic_write import write_whole
from valleys.lab.record import Record
from valleys.palette import COLORS, DASHES


def draw(
    configuration: Mapping[str, Any],
    records: Mapping[str, Sequence[Record]],
    order: Sequence[str],
    path: Path,
) -> None:
    """Draw mean and range over the fresh seeds, and the target; the order of ``records`` chooses the colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global figure, no display, and the user's own backend stays as it is.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn: list[float] = [configuration["target"]]
    for name in order:
        runs = records[name]
        index = list(records).index(name)  # not the rank: an optimizer keeps its colour from report to report
        finished = [record for record in runs if not record.diverged]
        label = name if len(finished) == len(runs) else f"{name} ({len(runs) - len(finished)} of {len(runs)} diverged)"
        label = label if runs else f"{name} (all trials diverged)"
        steps, means, lows, highs = band(finished)
        color = COLORS[index % len(COLORS)]
        axes.plot(steps, means, color=color, linestyle=DASHES[index % len(DASHES)], linewidth=2, label=_text(label))
        axes.fill_between(steps, lows, highs, color=color, alpha=0.18, linewidth=0)
        drawn += lows + highs
    axes.axhline(configuration["target"], color="#555555", linewidth=1, label="target")
    if not configuration["maximize"] and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(_text(f"validation {configuration['metric']}"))
    seeds = configuration["seeds"]
    spread = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    axes.set_title(_text(f"{configuration['task']} at batch {configuration['batch_size']}: {spread}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())


def band(records: Sequence[Record]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return steps, and mean, lowest and highest validation metric at each step that all runs evaluated."""
    by_step: dict[int, list[float]] = {}
    for record in records:
        for evaluation in record.curve:
            if math.isfinite(evaluation.validation):
                by_step.setdefault(evaluation.step, []).append(evaluation.validation)
    shared = sorted((step, values) for step, values in by_step.items() if len(values) == len(records))
    return (
        [step for step, _ in shared],
        [statistics.fmean(values) for _, values in shared],
        [min(values) for _, values in shared],
        [max(values) for _, values in shared],
    )


def _text(text: str) -> str:
    """Text that matplotlib shows as it is: dollar signs would start a formula."""
    return text.replace("$", r"\$")
