"""Reproductions without training, for the tests of what surrounds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import lab_fakes
from valleys.lab import Record, Task
from valleys.paper.reproduce import reproduce
from valleys.paper.results import Outcome, Reproduction

Call = dict[str, Any]

ROW = "CIFAR-10, 128"
RESULTS = {"SGD": 90.0, "Adam": 88.0, "AdamW": 89.0, "LAMB": 95.0, "AdaBelief": 91.0, "ALTO": 92.0}
OTHER = 80.0


def train(task: Task, spec: Any, hyperparameters: Mapping[str, float], config: Any, **options: Any) -> Record:
    """One, two and three points above the optimizer's own result, by seed; Adam's second run diverges."""
    seed = options["seed"]
    diverged = spec.name == "Adam" and seed == 5001
    value = RESULTS.get(spec.name, OTHER) + seed - 4999
    return lab_fakes.record(
        optimizer=spec.name,
        hyperparameters=dict(hyperparameters),
        seed=seed,
        batch_size=config.batch_size,
        diverged=diverged,
        validation=None if diverged else value,
        test=None if diverged else value,
        step_seconds=0.25,
    )


def watched_calls(patch: pytest.MonkeyPatch) -> list[Call]:
    calls: list[Call] = []

    def watched(task: Task, spec: Any, hyperparameters: Mapping[str, float], config: Any, **options: Any) -> Record:
        settings = {"device": config.device, "batch_size": config.batch_size, "epochs": config.epochs}
        run = {"task": task, "optimizer": spec.name, "hyperparameters": dict(hyperparameters)}
        calls.append({**run, **settings, **options})
        return train(task, spec, hyperparameters, config, **options)

    patch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    patch.setattr("valleys.lab.run.trainer.train", watched)
    patch.setattr("valleys.lab.report.document.write", lambda *arguments: {})
    return calls


def run(out: Path, number: str = "table-3", only: str | None = ROW, **changes: Any) -> Reproduction:
    return reproduce(number, only=only, out=out, progress=False, **changes)


def of(reproduction: Reproduction, column: str, row: str | None = None) -> Outcome:
    (one,) = [o for o in reproduction.outcomes if o.cell.column == column and row in (None, o.cell.row)]
    return one


def no_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)
