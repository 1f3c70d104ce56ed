"""Flatness as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from valleys.lab.flatness.table import Flatness
from valleys.lab.statistics import format_mean
from valleys.lab.store.job import Results

__all__ = ["document", "main", "ratios"]

METHOD = (
    "Of the finished runs on fresh seeds: means with 95 % intervals of Student's t. The loss is the task's own over "
    "{examples} training examples, without augmentation, in evaluation mode. The smaller eigenvalue, trace and "
    "sharpness, the flatter; but a cross-entropy that is nearly 0 on the training examples is flat wherever it lies. A "
    "sharpness is what 20 steps of ascent found, a lower bound; adaptive measures do not change when a ReLU network is "
    "rescaled without computing anything else, the others do."
)
RATIOS = (
    "Geometric mean over the seeds of the adapted optimizer's value divided by its base's, with its 95 % interval, not "
    "corrected for the number of measures: an interval that holds 1 shows no difference."
)


def main(flatness: Flatness) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the table of means."""
    titles = ["optimizer", "runs", *flatness.measures.values()]
    return titles, [
        [row.optimizer, str(row.runs), *(format_mean(*row.means[measure]) for measure in flatness.measures)]
        for row in flatness.rows
    ]


def ratios(flatness: Flatness) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the table of what E changes."""
    titles = ["E against its base", "measure", "ratio", "95 % interval", "seeds"]
    return titles, [
        [
            f"{entry.adapted} / {entry.base}",
            flatness.measures[entry.measure],
            f"{entry.ratio:.3g}",
            "-" if entry.low is None else f"{entry.low:.3g} to {entry.high:.3g}",
            str(entry.pairs),
        ]
        for entry in flatness.contrasts
    ]


def document(flatness: Flatness | None, results: Results, chosen: Mapping[str, int | None]) -> dict[str, Any] | None:
    """Return the report's entry for programs, with every run; None if nothing was measured."""
    if flatness is None:
        return None
    return {
        "method": METHOD.format(examples=" and ".join(map(str, flatness.examples))),
        "ratios_method": RATIOS,
        **asdict(flatness),
        "runs": {
            name: [
                {"seed": key.seed, **values}
                for key, values in results.flatness[name].items()
                if key.point == chosen[name]
            ]
            for name in (row.optimizer for row in flatness.rows)
        },
    }
