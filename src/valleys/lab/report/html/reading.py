"""What a page needs from the documents that ``report.to_json`` makes; older ones may lack a field."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Band",
    "Document",
    "band",
    "finals",
    "indices",
    "labels",
    "logarithmic",
    "optimizers",
    "reached",
    "same_task",
    "sound",
    "trials",
]

Document = Mapping[str, Any]
"""A comparison's ``report.json``."""

TELLING = ("variant", "epochs", "schedule", "precision", "micro_batch", "device", "trials", "seeds")
"""What tells two comparisons of one task at one batch size apart, the most telling first."""


@dataclass(frozen=True)
class Band:
    """Mean and range of the validation metric over runs.

    Args:
        steps: at which all runs were evaluated.
        seconds: mean training seconds at them.
        means, lows, highs: of the metric.
    """

    steps: list[int]
    seconds: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def optimizers(document: Document) -> list[str]:
    """The optimizers in the order they were named, which is that of the picture's colours.

    Args:
        document: a comparison.

    Returns:
        Their names.
    """
    return list(document["trials"])


def indices(documents: Sequence[Document]) -> dict[str, int]:
    """A number for each optimizer, the same on the whole page.

    Args:
        documents: the comparisons.

    Returns:
        Numbers by name, from 0, in the order of appearance.

    Example:
        >>> indices([{"trials": {"sgd": [], "lamb": []}}, {"trials": {"lamb": [], "alto": []}}])
        {'sgd': 0, 'lamb': 1, 'alto': 2}
    """
    names = dict.fromkeys(name for document in documents for name in optimizers(document))
    return {name: number for number, name in enumerate(names)}


def labels(documents: Sequence[Document]) -> list[str]:
    """A heading for each comparison, no two alike.

    Args:
        documents: the comparisons.

    Returns:
        Task and batch size, then whatever tells equal ones apart, then a number if nothing does.

    Example:
        >>> a = {"configuration": {"task": "t", "batch_size": 8, "epochs": 1}}
        >>> b = {"configuration": {"task": "t", "batch_size": 8, "epochs": 9}}
        >>> labels([a, b])
        ['t at batch 8, epochs 1', 't at batch 8, epochs 9']
        >>> labels([a, a])
        ['t at batch 8', 't at batch 8 (2)']
    """
    plain = [f"{d['configuration']['task']} at batch {d['configuration']['batch_size']}" for d in documents]
    found: list[str] = []
    for document, label in zip(documents, plain, strict=True):
        alike = [other["configuration"] for other, text in zip(documents, plain, strict=True) if text == label]
        differing = [key for key in TELLING if any(one.get(key) != alike[0].get(key) for one in alike)]
        said = [f"{key.replace('_', ' ')} {document['configuration'].get(key)}" for key in differing[:2]]
        full = ", ".join([label, *said])
        before = sum(other == full or other.startswith(f"{full} (") for other in found)
        found.append(f"{full} ({before + 1})" if before else full)
    return found


def same_task(documents: Sequence[Document]) -> list[list[int]]:
    """Which comparisons can stand side by side in one chart: same task, variant and metric.

    Args:
        documents: the comparisons.

    Returns:
        Groups of two or more, each by rising batch size, as positions among the documents.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, document in enumerate(documents):
        configuration = document["configuration"]
        key = (configuration["task"], configuration.get("variant"), configuration["metric"], configuration["maximize"])
        groups.setdefault(key, []).append(number)
    return [
        sorted(group, key=lambda number: documents[number]["configuration"]["batch_size"])
        for group in groups.values()
        if len(group) > 1
    ]


def trials(document: Document, name: str) -> list[Mapping[str, Any]]:
    """The tuning runs of an optimizer, by number.

    Args:
        document: a comparison.
        name: the optimizer.

    Returns:
        Its records.
    """
    return sorted(document["trials"][name], key=lambda run: run["point"])


def finals(document: Document, name: str) -> list[Mapping[str, Any]]:
    """The runs on fresh seeds that count: those of the chosen trial.

    Args:
        document: a comparison.
        name: the optimizer.

    Returns:
        Its records.
    """
    return [run for run in document["final"].get(name, []) if not run.get("superseded", False)]


def sound(runs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs that did not diverge.

    Args:
        runs: records.

    Returns:
        Those of them.
    """
    return [run for run in runs if not run["diverged"]]


def reached(runs: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    """Times to the target; a run that missed it, diverged ones included, counts as infinite.

    Args:
        runs: records.
        key: ``steps_to_target`` or ``seconds_to_target``.

    Returns:
        One time per run.

    Example:
        >>> reached([{"steps_to_target": 3}, {"steps_to_target": None}], "steps_to_target")
        [3, inf]
    """
    return [math.inf if run[key] is None else run[key] for run in runs]


def band(runs: Sequence[Mapping[str, Any]]) -> Band:
    """Mean and range over the runs, wherever all of them have a finite metric.

    Args:
        runs: records of runs that did not diverge.

    Returns:
        The band; empty without runs.
    """
    by_step: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        for entry in run["curve"]:
            if entry["validation"] is not None:
                by_step.setdefault(entry["step"], []).append((entry["seconds"], entry["validation"]))
    shared = sorted((step, seen) for step, seen in by_step.items() if len(seen) == len(runs))
    values = [[value for _, value in seen] for _, seen in shared]
    return Band(
        [step for step, _ in shared],
        [statistics.fmean(seconds for seconds, _ in seen) for _, seen in shared],
        [statistics.fmean(entry) for entry in values],
        [min(entry) for entry in values],
        [max(entry) for entry in values],
    )


def logarithmic(document: Document, values: Sequence[float]) -> bool:
    """Whether a metric is better read on a logarithmic axis: one to be minimized over more than a decade.

    Args:
        document: the comparison.
        values: what the axis has to hold.

    Returns:
        The answer, as in the report's picture.
    """
    return bool(values) and not document["configuration"]["maximize"] and 0 < min(values) < max(values) / 10
