"""A trainer whose test metric is a known function of a recipe's settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lab_fakes
from valleys.lab import Attribution, attribute
from valleys.lab.problem.task import Task
from valleys.lab.record import Record

Settings = Mapping[str, Any]
Response = Callable[[Settings, int], float | None]
"""Test metric by settings and seed; None where the run diverges."""

Call = dict[str, Any]

PNG = b"\x89PNG\r\n\x1a\n"

FIXED = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}


def responding(patch: pytest.MonkeyPatch, response: Response) -> list[Call]:
    """Replace the trainer; return the list of the runs that it will be asked for."""
    calls: list[Call] = []

    def train(task: Any, spec: Any, values: Mapping[str, float], config: Any, *, seed: int, **options: Any) -> Record:
        calls.append({"optimizer": spec.name, "values": dict(values), "seed": seed, "settings": spec.settings})
        test = response(spec.settings, seed)
        lost = test is None
        return lab_fakes.record(
            optimizer=spec.name,
            hyperparameters=dict(values),
            seed=seed,
            test=test,
            validation=None if lost else 50.0,
            diverged=lost,
            batch_size=config.batch_size,
        )

    patch.setattr("valleys.lab.run.trainer.train", train)
    return calls


def luck(seed: int) -> float:
    """Return the part of the metric that all recipes of a round share."""
    return (seed * 7919) % 13 / 10


def task(maximize: bool = True) -> Task:
    """A task with so many test examples that one is hardly worth anything."""
    return replace(lab_fakes.task(maximize=maximize), test=lab_fakes.split(100_000))


def run(out: Path, first: Any = "lamb-paper", last: Any = "alto-authors", **changes: Any) -> Attribution:
    arguments: dict[str, Any] = {
        "task": task(),
        "first": first,
        "last": last,
        "batch_size": 16,
        "rounds": 2,
        "fixed": FIXED,
        "progress": False,
        "out": out,
        **changes,
    }
    return attribute(arguments.pop("task"), **arguments)


Whole = tuple[Attribution, list[Call]]

OWN = """
recipes:
  null-e: {like: lamb, E: [0.0, 0.9]}
  second: {like: lamb, clip: 1.0}
  e-alone: {like: lamb-paper, E: [0.0, 0.9]}
  memory: {alpha: 0.5, beta: 0.9, beta3: 0.999}
  none: {alpha: 0.0, beta: 0.1, beta3: 0.999}
  six: {like: alto-authors, bias_correction: false, eps: 1e-5}
  sgd: {optimizer: torch.optim.SGD, momentum: 0.9, space: {lr: [0.01, 1]}}
  heavy: {like: sgd, nesterov: true}
  narrow: {like: lamb, space: {lr: [0.01, 0.1]}}
"""


def explores(settings: Settings) -> bool:
    return settings.get("E", "off") != "off" or bool(settings.get("alpha"))


def known(settings: Settings, seed: int) -> float:
    """beta3 +2, norms and biases 0, clip -1, E +3 and another 4 with clipping."""
    e, clipped = explores(settings), settings.get("clip") is not None
    return 80.0 + luck(seed) + 2 * int(settings["beta3"] == 0.99) - clipped + 3 * e + 4 * (e and clipped)


EFFECTS = {"beta3": 2.0, "norms_and_biases": 0.0, "clip": 1.0, "E": 5.0}


def effects(result: Attribution) -> dict[str, float | None]:
    return {part.name: part.mean for part in result.decomposition.effects}


def document(result: Attribution) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content: dict[str, Any] = json.loads(result.paths["json"].read_text(), parse_constant=refuse)
    return content
