"""A task and a trainer that cost nothing, for the tests of what surrounds training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.task import Problem, Split, Task
from valleys.lab.record import Evaluation, Record
from valleys.lab.run import trainer
from valleys.lab.run.config import RunConfig

STEPS = (5, 10, 15, 20)


def split(examples: int) -> Split:
    return Split(torch.zeros(examples, 2), torch.zeros(examples, 1))


def task(name: str = "fake", examples: int = 32, maximize: bool = True) -> Task:
    return Task(
        name=name,
        train=split(examples),
        validation=split(8),
        test=split(8),
        build_model=lambda: nn.Linear(2, 1),
        loss=nn.functional.mse_loss,
        metric=nn.functional.mse_loss,
        metric_name="accuracy %" if maximize else "loss",
        maximize=maximize,
        target=90.0 if maximize else 1.0,
        epochs=2,
    )


def points() -> Task:
    """A task that trains in no time."""

    def made(count: int, seed: int) -> Split:
        x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        return Split(x, x.sum(1, keepdim=True))

    return replace(task("points", maximize=False), train=made(24, 0), validation=made(8, 1), test=made(8, 2))


def load(name: str, data_dir: object = None, preset: str | None = None) -> Task:
    """In place of ``tasks.load``: large enough for any batch size of the tests."""
    return task(name, examples=20000)


def resolve(name: str, batch_size: int = 1024) -> FakeSpec:
    """In place of ``optimizers.resolve``."""
    return spec(name)


@dataclass(frozen=True)
class FakeSpec(OptimizerSpec):
    """An optimizer that ``train`` finds best at ``lr == best``."""

    best: float = 1e-2


def spec(name: str = "sgd", best: float = 1e-2, **space: Range) -> FakeSpec:
    return FakeSpec(name, sgd, space or {"lr": Range(1e-4, 1.0)}, best=best)


def sgd(model: nn.Module, hyperparameters: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=hyperparameters.get("lr", 0.1))


def train_really(
    problem: Problem,
    spec: OptimizerSpec,
    values: Mapping[str, float],
    *,
    seed: int = 0,
    test: bool = False,
    **options: Any,
) -> Record:
    """The real trainer, with settings and hooks by name."""
    settings = {entry.name for entry in fields(RunConfig)}
    config = RunConfig(**{name: value for name, value in options.items() if name in settings})
    hooks = trainer.Hooks(**{name: value for name, value in options.items() if name not in settings})
    return trainer.train(problem, spec, values, config, seed=seed, test=test, hooks=hooks)


def train(
    task: Task,
    spec: OptimizerSpec,
    hyperparameters: Mapping[str, float],
    config: RunConfig,
    *,
    seed: int,
    test: bool = False,
    hooks: trainer.Hooks | None = None,
) -> Record:
    """Better the nearer lr is to the optimizer's best; three decades above it the run diverges."""
    assert isinstance(spec, FakeSpec)
    decades = math.log10(hyperparameters["lr"] / spec.best)
    diverged = decades > 1.5
    final = 95 - 5 * decades**2 + ((seed * 7919) % 13) / 10
    curve = [Evaluation(step, step / 10, 1 / step, final - 40 / step) for step in STEPS]
    if diverged:
        curve = [*curve[:1], Evaluation(10, 1.0, math.nan, math.inf)]
    assert config.batch_size is not None
    if hooks is not None and hooks.progress is not None:
        hooks.progress(STEPS[-1], STEPS[-1])
    met = [evaluation for evaluation in curve if task.reached(evaluation.validation) and not diverged]
    return Record(
        optimizer=spec.name,
        hyperparameters=dict(hyperparameters),
        seed=seed,
        batch_size=config.batch_size,
        steps=curve[-1].step,
        diverged=diverged,
        curve=curve,
        validation=None if diverged else curve[-1].validation,
        test=curve[-1].validation - 1 if test and not diverged else None,
        steps_to_target=met[0].step if met else None,
        seconds_to_target=met[0].seconds if met else None,
        step_seconds=0.01,
        optimizer_seconds=0.001,
        state_bytes=2400,
        parameter_bytes=1200,
    )


def record(**changes: Any) -> Record:
    """A finished run with some fields changed."""
    fields: dict[str, Any] = {
        "optimizer": "sgd",
        "hyperparameters": {"lr": 0.1},
        "seed": 0,
        "batch_size": 16,
        "steps": 20,
        "diverged": False,
        "curve": [Evaluation(10, 1.0, 0.5, 80.0), Evaluation(20, 2.0, 0.25, 91.0)],
        "validation": 91.0,
        "test": None,
        "steps_to_target": 20,
        "seconds_to_target": 2.0,
        "step_seconds": 0.1,
        "optimizer_seconds": 0.01,
        "state_bytes": 2400,
        "parameter_bytes": 1200,
    }
    return Record(**{**fields, **changes})
