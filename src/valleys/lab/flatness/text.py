"""Flatness as a report shows it."""

from __future__ import annotations

from valleys.lab.flatness.table import Flatness
from valleys.lab.statistics.formatting import format_interval

__all__ = ["RATIOS", "main", "method", "ratios"]

RATIOS = (
    "Geometric mean of the first optimizer's value divided by the second's in the same round or, with one round, on "
    "the same seed, with its 95 % interval, not corrected for the number of measures: an interval that includes 1 "
    "shows no difference."
)
"""Explanation of the table of ratios."""


def method(flatness: Flatness) -> str:
    """Return a paragraph that says how the numbers came about."""
    return (
        "Of the runs with the selected values on fresh seeds: means with 95 % intervals of Student's t, over rounds "
        f"or, with one round, over seeds. The loss is the task's own over {' and '.join(map(str, flatness.examples))} "
        "training examples, without augmentation, in evaluation mode. The smaller eigenvalue, trace and sharpness, the "
        "flatter; but a cross-entropy that is nearly 0 on the training examples is flat wherever it lies. A sharpness "
        "is what 20 steps of ascent found, a lower bound; adaptive measures do not change when a ReLU network is "
        "rescaled without computing anything else, the others do."
    )


def main(flatness: Flatness) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the table of means."""
    titles = ["optimizer", "units", *flatness.measures.values()]
    return titles, [
        [row.optimizer, str(row.units), *(format_interval(row.means[measure]) for measure in flatness.measures)]
        for row in flatness.rows
    ]


def ratios(flatness: Flatness) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the table of pairs."""
    return ["pair", "measure", "ratio", "units"], [
        [
            f"{entry.first} / {entry.second}",
            flatness.measures[entry.measure],
            format_interval(entry.ratio),
            str(entry.units),
        ]
        for entry in flatness.contrasts
    ]
