"""Values that a page and the picture need from the documents that ``report.to_json`` makes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Document"]

Document = Mapping[str, Any]
"""A comparison's ``report.json``."""

# Settings in which two comparisons of one task at one batch size may differ, the most important first.
_SETTINGS = ("variant", "epochs", "schedule", "precision", "micro_batch", "device", "rounds", "trials", "seeds")


@dataclass(frozen=True)
class Band:
    """Mean and range of the validation metric, and mean training seconds, at the steps where all runs have it.

    The mean is geometric where the metric's scale is logarithmic.
    """

    steps: list[int]
    seconds: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def optimizers(document: Document) -> list[str]:
    """Return the optimizers in the order they were named, which is that of the picture's colours."""
    return list(document["spaces"])


def indices(documents: Sequence[Document]) -> dict[str, int]:
    """Number the optimizers in the order of appearance, the same on the whole page.

    Example:
        >>> indices([{"spaces": {"sgd": {}, "lamb": {}}}, {"spaces": {"lamb": {}, "alto": {}}}])
        {'sgd': 0, 'lamb': 1, 'alto': 2}
    """
    names = dict.fromkeys(name for document in documents for name in optimizers(document))
    return {name: number for number, name in enumerate(names)}


def labels(documents: Sequence[Document]) -> list[str]:
    """Return a heading for each comparison, no two alike: task and batch size, then what differs, then a number.

    Example:
        >>> a = {"configuration": {"task": "t", "batch_size": 8, "epochs": 1}}
        >>> b = {"configuration": {"task": "t", "batch_size": 8, "epochs": 9}}
        >>> labels([a, b])
        ['t at batch 8, epochs 1', 't at batch 8, epochs 9']
        >>> labels([a, a])
        ['t at batch 8', 't at batch 8 (2)']
    """
    plain = [f"{d['configuration']['task']} at batch {d['configuration']['batch_size']}" for d in documents]
    headings: list[str] = []
    for document, label in zip(documents, plain, strict=True):
        alike = [other["configuration"] for other, text in zip(documents, plain, strict=True) if text == label]
        differing = [key for key in _SETTINGS if any(one.get(key) != alike[0].get(key) for one in alike)]
        settings = [f"{key.replace('_', ' ')} {document['configuration'].get(key)}" for key in differing[:2]]
        full = ", ".join([label, *settings])
        before = sum(other == full or other.startswith(f"{full} (") for other in headings)
        headings.append(f"{full} ({before + 1})" if before else full)
    return headings


def same_task(documents: Sequence[Document]) -> list[list[int]]:
    """Group comparisons that can stand in one chart: same task, variant and metric, each group by rising batch size.

    Groups have two comparisons or more, as positions among the documents.
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
    """Return the tuning runs of an optimizer, each with the number of its round."""
    return [
        {**run, "round": entry["round"]}
        for entry in document["rounds"]
        for run in entry["runs"]
        if (run["optimizer"], run["phase"]) == (name, "tuning")
    ]


def finals(document: Document, name: str) -> list[Mapping[str, Any]]:
    """Return the runs of an optimizer on fresh seeds that count: those with the selected values."""
    return [
        run
        for entry in document["rounds"]
        for run in entry["runs"]
        if (run["optimizer"], run["phase"]) == (name, "final") and run["selected"]
    ]


def sound(runs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the runs that did not diverge."""
    return [run for run in runs if not run["diverged"]]


def unit(document: Document) -> str:
    """Return the unit of all statistics: "round" or, with one round, "seed"."""
    return "round" if document["configuration"]["rounds"] > 1 else "seed"


def times(document: Document, name: str, key: str) -> list[float]:
    """Return the steps or seconds (``key``) to the target of each unit, infinite where it was missed.

    Example:
        >>> times({"outcomes": {"sgd": {"steps": {"1": 3, "2": None}}}}, "sgd", "steps")
        [3, inf]
    """
    return [math.inf if value is None else value for value in document["outcomes"][name][key].values()]


def band(document: Document, runs: Sequence[Mapping[str, Any]]) -> Band:
    """Return mean and range over the runs, wherever all of them have a finite metric; empty without runs."""
    by_step: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        for entry in run["curve"]:
            if entry["validation"] is not None:
                by_step.setdefault(entry["step"], []).append((entry["seconds"], entry["validation"]))
    shared = sorted((step, entries) for step, entries in by_step.items() if len(entries) == len(runs))
    values = [[value for _, value in entries] for _, entries in shared]
    return Band(
        [step for step, _ in shared],
        [statistics.fmean(seconds for seconds, _ in entries) for _, entries in shared],
        [_mean(document, entry) for entry in values],
        [min(entry) for entry in values],
        [max(entry) for entry in values],
    )


def logarithmic(document: Document, values: Sequence[float]) -> bool:
    """Return True if values are drawn on a logarithmic axis: the metric's scale is one, and they have logarithms."""
    return bool(values) and document["configuration"]["scale"] == "log" and min(values) > 0


def _mean(document: Document, values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if logarithmic(document, values) else statistics.fmean(values)
