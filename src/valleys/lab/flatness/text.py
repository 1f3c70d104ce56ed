"""Flatness as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from valleys.lab.flatness.table import Flatness

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


def drawn(drawing: Mapping[str, Any]) -> str:
    """Return a paragraph that says what a drawing shows of which runs."""
    examples, left_out = drawing["examples"], drawing["left_out"]
    return (
        "Of the first finished run with the selected values of each optimizer (earliest round, lowest seed): "
        f"{examples['training']} training and {examples['validation']} validation examples, without augmentation, in "
        f"evaluation mode. The plane goes through {', '.join(drawing['plane']['spanned_by'])}; coordinates are "
        "distances of the weights. A minimum that does not lie in it has a hollow mark where it is nearest. A "
        "barrier is the largest loss on the straight line between two minima above the line through the losses at its "
        "ends, of 21 points; permuted hidden units alone make one. At each point batch normalisation uses "
        "statistics estimated with the weights there. Sharpness is what 10 steps of ascent reached, a lower bound."
        + f" Left out, since no final run stayed finite: {', '.join(left_out)}."
        * bool(left_out)
    )
