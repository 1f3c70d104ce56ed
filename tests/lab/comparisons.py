"""Small comparisons by the fake trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from valleys.lab import Comparison, Record, compare

Call = dict[str, Any]


def watched(patch: pytest.MonkeyPatch) -> list[Call]:
    """Every training run asked for from now on, in order; the fake trainer does them."""
    calls: list[Call] = []

    def train(task: Any, spec: Any, hyperparameters: Any, config: Any, **options: Any) -> Record:
        calls.append({"optimizer": spec.name, "hyperparameters": dict(hyperparameters), "config": config, **options})
        return lab_fakes.train(task, spec, hyperparameters, config, **options)

    patch.setattr("valleys.lab.run.trainer.train", train)
    return calls


def run(out: Path, **changes: Any) -> Comparison:
    arguments: dict[str, Any] = {
        "task": lab_fakes.task(),
        "optimizers": [lab_fakes.spec("sgd"), lab_fakes.spec("adamw", 1e-3)],
        "batch_size": 16,
        "rounds": 2,
        "trials": 2,
        "seeds": 2,
        "progress": False,
        "out": out,
        **changes,
    }
    return compare(arguments.pop("task"), **arguments)
