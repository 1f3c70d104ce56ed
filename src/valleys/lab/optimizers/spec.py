"""An optimizer as the lab sees it: how it is built, and what of it is tuned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from valleys.lab.errors import LARGEST, LabError, finite, place, reason, shortened, typed

__all__ = ["OptimizerSpec", "Plan", "Range"]

SCALES = ("log", "linear", "reverse-log")
_LONGEST = 200  # bytes of a name: names of files hold it, and 255 are the most


@dataclass(frozen=True)
class Range:
    r"""The values that tuning tries for one hyperparameter.

    .. math:: x = a (b/a)^u, \quad x = a + (b-a) u, \quad x = 1 - (1-a) \left(\frac{1-b}{1-a}\right)^u

    on a logarithmic, a linear and a reversed logarithmic scale, for u in [0, 1).

    Args:
        low: smallest value.
        high: largest value.
        scale: on which values are spread evenly: "log", "linear", or "reverse-log", the logarithm of 1 - x, for decay
            rates. Default: "log".
        zero: share of the range, at its lower end, that stands for the value 0, in [0, 1). Default: 0.

    Raises:
        LabError: ends that are no finite numbers, in the wrong order, or outside what the scale allows; an unknown
            scale; a share out of its range.

    Example:
        >>> [round(Range(0.5, 0.99, "reverse-log").value(u), 3) for u in (0.0, 0.5)]
        [0.5, 0.929]
        >>> Range(1e-4, 1.0, zero=0.125).value(0.1)
        0.0
    """

    low: float
    high: float
    scale: str = "log"
    zero: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.scale, str) or self.scale not in SCALES:
            raise LabError(f"the scale of a range must be one of {', '.join(SCALES)}, not {shortened(self.scale)}")
        numbers = all(
            isinstance(end, (int, float)) and not isinstance(end, bool) and finite(end) for end in (self.low, self.high)
        )
        log, reverse = self.scale == "log", self.scale == "reverse-log"
        if not numbers or self.low > self.high or (log and self.low < 1 / LARGEST) or (reverse and self.high >= 1):
            raise LabError(
                f"the range from {shortened(self.low)} to {shortened(self.high)} is none: both ends must be finite, "
                + f"low <= high, at most {LARGEST:g}"
                + f", and low > 0 ({1 / LARGEST:g} or more) since it is logarithmic" * log
                + ", and high < 1 since it is logarithmic in 1 - x" * reverse
            )
        typed(self, "range: ")
        if not 0 <= self.zero < 1:
            raise LabError(f"the share of zero in a range must be in [0, 1), not {self.zero!r}")

    def value(self, u: float) -> float:
        """Return the value at a place of the unit interval."""
        if u < self.zero:
            return 0.0
        share = (u - self.zero) / (1 - self.zero)
        if self.scale == "log":
            value = self.low * math.pow(self.high / self.low, share)
        elif self.scale == "linear":
            value = self.low + (self.high - self.low) * share
        else:
            value = 1 - (1 - self.low) * math.pow((1 - self.high) / (1 - self.low), share)
        return min(max(value, self.low), self.high)  # rounding must not step over an end

    def position(self, value: float) -> float:
        """Return the place of a value in the unit interval; 0.5 where the range is a single value."""
        if self.zero and value == 0:
            return self.zero / 2
        if self.low == self.high:
            return 0.5
        if self.scale == "log":
            share = math.log(value / self.low) / math.log(self.high / self.low)
        elif self.scale == "linear":
            share = (value - self.low) / (self.high - self.low)
        else:
            share = math.log((1 - value) / (1 - self.low)) / math.log((1 - self.high) / (1 - self.low))
        return self.zero + (1 - self.zero) * share

    @property
    def middle(self) -> float:
        """The value half way between the ends on the range's scale."""
        return self.value(self.zero + (1 - self.zero) / 2)

    @property
    def shape(self) -> str:
        """The scale in words, such as ``log; the lowest 0.125 of it is 0``."""
        zero = f"; the lowest {self.zero:.3g} of it is 0" * bool(self.zero)
        return {"log": "log", "linear": "linear", "reverse-log": "log of 1 - x"}[self.scale] + zero

    def __str__(self) -> str:
        """The range in words, such as ``0.0001 to 1 (log; the lowest 0.125 of it is 0)``."""
        return f"{self.low:g} to {self.high:g} ({self.shape})"


def tunable(space: Mapping[str, Range]) -> bool:
    """Return whether a search space has more than one point.

    Example:
        >>> tunable({"lr": Range(0.05, 0.05)}), tunable({"lr": Range(0.01, 0.1)})
        (False, True)
    """
    return any(ranges.low < ranges.high or ranges.zero for ranges in space.values())


@dataclass(frozen=True)
class Plan:
    """Batch size and length of the run that an optimizer is built for.

    Args:
        batch_size: examples per optimizer step.
        steps: optimizer steps of the whole run.
    """

    batch_size: int
    steps: int


if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    Build = Callable[[nn.Module, Mapping[str, float], Plan], Optimizer]
else:
    Build = Callable


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab uses it.

    Args:
        name: in tables and on the command line.
        build: makes it from a model, values of ``space``, and the plan of the run.
        space: what is tuned, and what has a fixed value: a range of that one.
        base: name of the optimizer that it adapts by E; None: it adapts none.
        closure: whether its step, called with the gradient in place, gets a closure that computes it again on the same
            examples. Default: False.
        own_schedule: whether it sets its learning rate itself over a run, so that the task's schedule is left out.
            Default: False.
        settings: what else it is made of, in JSON's types: a comparison that was begun with others is refused.
        salt: added to all seeds of its runs. Default: 0, which gives all optimizers the same seeds.
        line: Python that builds it of ``model`` with given values; None: unknown.
        about, source: what it is, and where that is written.
    """

    name: str
    build: Build
    space: Mapping[str, Range]
    base: str | None = None
    closure: bool = False
    own_schedule: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    salt: int = 0
    line: Callable[[Mapping[str, float], Plan], str] | None = None
    about: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        of = f"optimizer {shortened(self.name)}: "
        typed(self, of)
        if len(self.name.encode()) > _LONGEST or self.salt < 0:
            raise LabError(f"{of}name must have at most {_LONGEST} bytes, and salt be 0 or more")
        try:
            json.dumps(dict(self.settings), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise LabError(f"{of}settings must be of JSON's types: {error}") from error

    @contextmanager
    def blamed(self, task: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Turn whatever the optimizer raises into one line that names it, and the line of a user's code.

        Args:
            task: the name of what it trains.
            passing: exceptions that stay as they are. Default: LabError alone.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, (LabError, *passing)):
                raise
            line = place(error)
            raise LabError(
                f"{self.name} cannot train {task}: {reason(error).rstrip('.')}; leave it out, or name a "
                f"module:callable that builds it for this model{f' (it failed in {line})' * bool(line)}"
            ) from error


def stem(text: str) -> str:
    """Return a text as part of a file's name, whatever characters it has."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def has_modes(optimizer: Optimizer) -> bool:
    """Return whether an optimizer trains other weights than those it wants judged, and switches between them."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


@contextmanager
def judged(optimizer: Any) -> Iterator[None]:
    """Let the model have the weights that its optimizer wants judged; go back to those it trains afterwards.

    An optimizer without ``eval()`` and ``train()`` judges what it trains.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> with judged(torch.optim.SGD([weight])):
        ...     weight.sum().item()
        2.0
    """
    if not has_modes(optimizer):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
