"""The settings of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from valleys.lab.errors import LabError, typed, unknown
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Problem, Task
from valleys.lab.settings import documented, option

__all__ = ["RunConfig"]

PRECISIONS = ("float32", "bfloat16")
"""Types of forward passes, the model's own, or bfloat16 by autocast; weights and updates stay as they are."""

Self = TypeVar("Self", bound="RunConfig")


def check_device(name: str, choices: Sequence[str] = ("cpu", "cuda")) -> None:
    """Refuse a device that is unknown, or not here.

    Raises:
        LabError: with the remedy.
    """
    if name not in choices:
        raise unknown("device", name, choices)
    if name == "cuda" and not torch.cuda.is_available():
        raise LabError("--device cuda: torch finds no CUDA device here; use auto or cpu")


@documented
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a training run. None stands for the task's own value.

    Raises:
        LabError: a value out of its range.
    """

    batch_size: int | None = option(
        None, "Examples per optimizer step, of all processes; default: the task's.", identity=True, shown=True
    )
    epochs: int | None = option(None, "Length of a run; default: the task's own.", identity=True)
    micro_batch: int | None = option(
        None, "Examples per backward pass of one process; gradients are accumulated.", identity=True
    )
    precision: str = option("float32", "Of forward passes: float32, or bfloat16 by autocast.", identity=True)
    device: str = option("cpu", "Where it runs: cpu or cuda.", identity=True, shown=True)

    def __post_init__(self) -> None:
        typed(self)
        if self.epochs is not None and self.epochs < 1:
            raise LabError(f"epochs must be at least 1, not {self.epochs}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise LabError(
                f"micro batch {self.micro_batch}: choose 1 or more; it only bounds the memory of a backward pass"
            )
        if self.precision not in PRECISIONS:
            raise LabError(f"precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")

    def resolved(self: Self, problem: Problem) -> Self:
        """Return these settings with the problem's values where there were none.

        Raises:
            LabError: no batch size, one below 1 or larger than the training data, or a setting that a problem with its
                own training loop does not have.
        """
        size = problem.batch_size if self.batch_size is None else self.batch_size
        if size is None:
            raise LabError(f"{problem.name} has no batch size of its own: name one")
        if not isinstance(problem, (Task, Loop)):
            raise LabError(f"{type(problem).__name__} {problem.name!r} is neither a Task nor a Loop")
        examples = len(problem.train) if isinstance(problem, Task) else problem.examples
        if size < 1 or (examples is not None and size > examples):
            limit = (
                f"has {examples} training examples"
                if isinstance(problem, Task)
                else f"takes batches of at most {examples}"
            )
            choices = f"1 to {examples}" if examples is not None else "1 or more"
            raise LabError(f"batch size {size}: {problem.name} {limit}; choose {choices}")
        if isinstance(problem, Loop) and (self.micro_batch is not None or self.precision != PRECISIONS[0]):
            raise LabError(f"{problem.name} has a training loop of its own: leave micro batch and precision out")
        return replace(
            self,
            batch_size=size,
            epochs=problem.epochs if self.epochs is None else self.epochs,
            micro_batch=self.micro_batch or problem.micro_batch if isinstance(problem, Task) else None,
        )
