"""A training problem that brings a training loop of its own: reinforcement learning, a trainer of another library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, finite, shortened
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, has_modes, judged
from valleys.lab.problem.task import Problem
from valleys.lab.record import Evaluation

__all__ = ["Diverged", "Loop", "Running"]


class Diverged(Exception):  # noqa: N818 - an outcome, not an error
    """The run's loss or metric stopped being finite: it ends here, and is recorded as diverged."""


@dataclass
class Running:
    """One run, as the problem's own loop sees it.

    Args:
        batch_size: examples per optimizer step.
        epochs: length of the run.
        seed: torch's generator is seeded with it; other generators are the loop's to seed.
        device: where to train.
        test: whether ``tested`` is wanted at the end.
        own_schedule: whether the optimizer sets its learning rate itself: the loop then leaves it constant.
    """

    batch_size: int
    epochs: int
    seed: int
    device: torch.device
    test: bool
    _build: Callable[[nn.Module], Optimizer]
    _progress: Callable[[int], None]
    _observe: Callable[[Evaluation], None] | None = None
    own_schedule: bool = False
    steps: int = 0
    diverged: bool = False
    made: Optimizer | None = None
    model: nn.Module | None = None
    result: float | None = None
    curve: list[Evaluation] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)
    _entered: float = 0.0
    _spent: float = 0.0
    _judged: bool = False
    _depth: int = 0

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimizer under test, for this model. Its steps are counted and timed by its own hooks.

        Args:
            model: the module whose parameters are trained.

        Returns:
            The optimizer.
        """
        optimizer = self._build(model)
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)
        if has_modes(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        self.made, self.model = optimizer, model
        self._last = time.perf_counter()
        return optimizer

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Let the model have the weights that the optimizer wants judged, such as Schedule-Free's average.

        Around everything that metrics are computed from; the model's own ``train()`` and ``eval()`` are the loop's.

        Yields:
            Nothing.
        """
        self._judged = True
        with judged(self.made):
            yield

    def evaluated(self, train_loss: float, validation: float) -> None:
        """Record an evaluation after the steps made so far.

        Args:
            train_loss: a mean since the evaluation before.
            validation: the validation metric.

        Raises:
            Diverged: one of them is not finite.
            LabError: the metric is not of the weights that the optimizer wants judged.
        """
        if self.made is not None and has_modes(self.made) and not self._judged:
            raise LabError(
                f"{type(self.made).__name__} wants other weights judged than it trains, and this loop evaluates the "
                "latter; compute metrics inside `with running.evaluation():`"
            )
        train_loss, validation = _number("evaluated", train_loss), _number("evaluated", validation)
        if not (finite(train_loss) and finite(validation)):
            raise Diverged
        self.curve.append(Evaluation(self.steps, self._spent, train_loss, validation))
        if self._observe is not None:
            self._observe(self.curve[-1])
        self._last = time.perf_counter()  # what evaluation costs is no training time

    def tested(self, metric: float) -> None:
        """Record the test metric, once, at the end.

        Args:
            metric: its value.
        """
        self.result = _number("tested", metric)

    def _before(self, *_: Any) -> None:
        if self._depth == 0:
            self._entered = time.perf_counter()
        self._depth += 1  # a step that calls its class's above is announced twice

    def _after(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth:
            return
        now = time.perf_counter()
        self.optimizer_seconds.append(now - self._entered)
        self.step_seconds.append(now - self._last)
        self._spent += now - self._last
        self._last = now
        self.steps += 1
        self._progress(self.steps)


@dataclass(frozen=True, kw_only=True)
class Loop(Problem):
    """A training problem that trains itself.

    Args:
        run: does one run: takes ``running.optimizer(model)``, calls ``running.evaluated(...)`` now and then and at the
            end, and ``running.tested(...)`` once if ``running.test``.
        steps: ``(batch_size, epochs) -> optimizer steps of a run``, for optimizers that want to know.
        examples: the largest batch there can be; None: any.
    """

    run: Callable[[Running], None]
    steps: Callable[[int, int], int]
    examples: int | None = None

    def check(self, spec: OptimizerSpec) -> None:
        """Refuse an optimizer whose steps need a gradient again, which the loop's do not give.

        Args:
            spec: the optimizer.

        Raises:
            LabError: it is one.
        """
        if spec.closure:
            raise LabError(
                f"{spec.name} computes two gradients in a step, and {self.name} has a training loop of its own that "
                f"computes one: leave {spec.name} out"
            )

    def plan(self, batch_size: int, epochs: int) -> Plan:
        """Return batch size and steps of a run.

        Args:
            batch_size: examples per step.
            epochs: length.

        Returns:
            The plan.
        """
        steps = self.steps(batch_size, epochs)
        if type(steps) is not int or steps < 1:
            raise LabError(f"the steps of {self.name} must be a whole number of at least 1, not {shortened(steps)}")
        return Plan(batch_size, steps)


def _number(method: str, value: object) -> float:
    """Return a metric as a float."""
    if isinstance(value, (bool, str, bytes)):
        raise LabError(f"running.{method}() needs numbers, not {shortened(value)}")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise LabError(f"running.{method}() needs numbers, not {shortened(value)}") from error
