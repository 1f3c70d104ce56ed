"""Table of all runs of a comparison as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

__all__ = ["COLUMNS", "to_csv"]

COLUMNS = (
    "task",
    "variant",
    "batch_size",
    "optimizer",
    "phase",
    "round",
    "trial",
    "seed",
    "selected",
    "diverged",
    "steps",
    "examples",
    "validation",
    "test",
    "steps_to_target",
    "seconds_to_target",
    "step_seconds",
    "optimizer_seconds",
    "state_bytes",
    "parameter_bytes",
    "ended",
)
"""Columns before those of the hyperparameters; docs/lab-data.md explains them."""

PREFIX = "hyperparameters."
"""Of a hyperparameter's column, as ``pandas.json_normalize`` names it: one called ``seed`` is not the run's seed."""


def to_csv(document: Mapping[str, Any]) -> str:
    """Return one row for each run, tuning trials and those that diverged included, as RFC 4180 has it.

    A cell is empty where the number is missing, or the run's optimizer has no such hyperparameter.

    Args:
        document: the comparison's ``report.json``.

    Example:
        >>> to_csv({"configuration": {"task": "digits", "variant": ""}, "rounds": []})[:32]
        'task,variant,batch_size,optimize'
    """
    task = {name: document["configuration"][name] for name in ("task", "variant")}
    runs = [{**task, "round": entry["round"], **run} for entry in document["rounds"] for run in entry["runs"]]
    names = list(dict.fromkeys(name for run in runs for name in run["hyperparameters"]))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *(PREFIX + name for name in names)])
    for run in runs:
        writer.writerow([run[name] for name in COLUMNS] + [run["hyperparameters"].get(name) for name in names])
    return text.getvalue()
