"""An optimizer as the lab sees it: how it is built, and what of it is tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError

__all__ = ["OptimizerSpec", "Plan", "Range"]


@dataclass(frozen=True)
class Range:
    """The values that tuning tries for one hyperparameter.

    Args:
        low: smallest value.
        high: largest value.
        log: whether their logarithms are spread evenly. Default: True.

    Raises:
        LabError: the ends are no finite numbers, in the wrong order, or not above 0 on a logarithmic range.
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        numbers = all(isinstance(end, (int, float)) and math.isfinite(end) for end in (self.low, self.high))
        if not numbers or self.low > self.high or (self.log and self.low <= 0):
            raise LabError(
                f"the range from {self.low!r} to {self.high!r} is none: both ends must be finite, low <= high"
                + (", and low > 0 since it is logarithmic" if self.log else "")
            )


@dataclass(frozen=True)
class Plan:
    """Batch size and length of the run that an optimizer is built for.

    Args:
        batch_size: examples per optimizer step.
        steps: optimizer steps of the whole run.
    """

    batch_size: int
    steps: int


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab uses it.

    Args:
        name: in tables and on the command line.
        build: makes it from a model, values of ``space``, and the plan of the run.
        space: what is tuned.
    """

    name: str
    build: Callable[[nn.Module, Mapping[str, float], Plan], Optimizer]
    space: Mapping[str, Range]
