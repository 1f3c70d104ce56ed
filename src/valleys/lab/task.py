"""What a task is: data that is split once, a model, a loss, and a metric with a target fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

__all__ = ["Split", "Task"]


@dataclass(frozen=True)
class Split:
    """Examples of one split, in memory.

    Args:
        inputs: tensor whose first dimension counts the examples.
        targets: tensor with the same first dimension.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Task:
    """A training problem, complete but for the optimizer, the batch size and the seed.

    Args:
        name: what the command line calls it.
        train, validation, test: disjoint splits; selection looks at ``validation``, ``test`` is read once at the end.
        build_model: makes a freshly initialised model from torch's global generator.
        loss: ``(outputs, targets) -> scalar``, the mean over the examples.
        metric: ``(outputs, targets) -> scalar``, the mean over the examples.
        metric_name: its name in tables, with its unit.
        maximize: whether a larger metric is better.
        target: the validation metric whose first crossing is timed; chosen before looking at any result.
        epochs: the default length of one run.
        schedule: learning-rate schedule over a run.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    build_model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], Tensor]
    metric_name: str
    maximize: bool
    target: float
    epochs: int
    schedule: Literal["constant", "cosine"] = "cosine"

    def reached(self, value: float) -> bool:
        """Whether a validation metric meets the target (a NaN never does)."""
        return value >= self.target if self.maximize else value <= self.target
