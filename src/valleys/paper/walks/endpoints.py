"""Ends of the walks of Figures 1 and 8: the lab's runs over again, with an eye on the point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from valleys.lab.optimizers.spec import OptimizerSpec, Plan
from valleys.lab.problem.loop import Loop
from valleys.lab.run import trainer
from valleys.lab.run.config import RunConfig


@dataclass(frozen=True)
class Walk:
    """One walk."""

    seed: int  # of its start
    end: tuple[float, ...]  # the last point
    value: float  # the function there
    best: tuple[float, ...]  # the point at which it was lowest
    lowest: float  # the function there
    diverged: bool  # whether it ended because a value was not finite

    def describe(self) -> str:
        """Return the walk in words.

        Example:
            >>> Walk(1000, (4.0853,), 0.5521, (4.0853,), 0.5521, False).describe()
            'seed 1000: ends at (4.085), f = 0.552'
        """
        if self.diverged:
            return f"seed {self.seed}: diverged; lowest f = {self.lowest:.3g} at {_point(self.best)}"
        words = f"seed {self.seed}: ends at {_point(self.end)}, f = {self.value:.3g}"
        lower = self.lowest < self.value and f"{self.lowest:.3g}" != f"{self.value:.3g}"
        return words + (f"; lowest f = {self.lowest:.3g} at {_point(self.best)}" if lower else "")


def walk(problem: Loop, spec: OptimizerSpec, seed: int) -> Walk:
    """Repeat the lab's run with this seed on the CPU; the model is one point and returns the function's value."""
    models: list[nn.Module] = []
    lowest: list[tuple[float, tuple[float, ...]]] = [(math.inf, ())]

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        models.append(model)
        optimizer = spec.build(model, values, plan)
        optimizer.register_step_post_hook(look)
        look()
        return optimizer

    def look(*_: Any) -> None:
        with torch.no_grad():
            value = float(models[0]())
        if value < lowest[0][0]:
            lowest[0] = (value, _where(models[0]))

    watched = OptimizerSpec(spec.name, build, {})
    record = trainer.train(problem, watched, {}, RunConfig(batch_size=1), seed=seed, test=True)
    with torch.no_grad():
        value = float(models[0]())
    return Walk(seed, _where(models[0]), value, lowest[0][1], lowest[0][0], record.diverged)


def _where(model: nn.Module) -> tuple[float, ...]:
    return tuple(float(x) for parameter in model.parameters() for x in parameter.detach().flatten())


def _point(point: tuple[float, ...]) -> str:
    return f"({', '.join(f'{x:.4g}' for x in point)})"
