"""A first learning rate for ALTO, from the number of updates and the optimizer that it replaces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from valleys.hyperparameters import suggest
from valleys.lab.errors import LabError, shortened

__all__ = ["BASES", "StartingRate", "starting_rate"]

BASES = {"adam": "Adam", "adamw": "AdamW", "lamb": "LAMB"}
"""Optimizers that ALTO replaces, and how they are written."""

_COEFFICIENT, _FACTOR = 0.35, 4.0  # benchmarks/results/learning-rate, which a test compares with them
_LARGEST = 10**12
_MEASURED = (40, 7680)  # updates of the shortest and of the longest of those comparisons


@dataclass(frozen=True)
class StartingRate:
    """A first learning rate for ALTO, and the range to search.

    Args:
        base: name of the optimizer that ALTO replaces, of ``BASES``.
        base_lr: its learning rate.
        steps: updates of the whole run.
        batch_size: examples per update.
        lr: the first learning rate.
    """

    base: str
    base_lr: float
    steps: int
    batch_size: int
    lr: float

    @property
    def low(self) -> float:
        """Lower end of the range to search, on a logarithmic scale."""
        return self.lr / _FACTOR

    @property
    def high(self) -> float:
        """Upper end of the range to search, on a logarithmic scale."""
        return self.lr * _FACTOR

    @property
    def line(self) -> str:
        """Python that makes the optimizer for a ``model``."""
        return f"valleys.ALTO(valleys.param_groups(model), lr={self.lr:.2g}, {_arguments(self.batch_size)})"

    def __str__(self) -> str:
        name, left = BASES[self.base], f"{self.base_lr:.2g}"
        by_steps = _COEFFICIENT / math.sqrt(self.steps)
        lines = [
            f"ALTO in place of {name} at lr {left}: {self.steps:,} updates at batch size {self.batch_size:,}",
            f"start: lr {self.lr:.2g}; search from {self.low:.2g} to {self.high:.2g} on a logarithmic scale",
            f"  optimizer = {self.line}",
            "with a schedule that ends near 0, such as a cosine after a short warm-up",
        ]
        if self.base == "lamb":
            ratio = self.base_lr / by_steps
            lines.append("ALTO's step is as long as LAMB's at the same rate, so LAMB's tuned rate is the start")
            if not 1 / _FACTOR <= ratio <= _FACTOR:
                lines.append(
                    f"but {left} is {_times(ratio)} the rate that {self.steps:,} updates usually need, {by_steps:.2g}: "
                    "search there, too, unless it was tuned for this number of updates"
                )
        else:
            lines += [
                f"that is {_COEFFICIENT:g} / sqrt(updates): a step of ALTO changes each layer by lr of its own length, "
                f"so {name}'s rate does not carry over; {left} would be {_times(self.base_lr / self.lr)} the start",
                f"to keep {name} and its rate: valleys.adapt(optimizer, {_arguments(self.batch_size)})",
            ]
        low, high = _MEASURED
        if not low <= self.steps <= high:
            lines.append(
                f"{self.steps:,} updates are outside the {low} to {high:,} of the comparisons that this rule is from"
            )
        return "\n".join(lines)


def starting_rate(base: str, lr: float, steps: int, batch_size: int) -> StartingRate:
    r"""Give a first learning rate for ALTO in place of another optimizer.

    .. math:: \eta = 0.35 / \sqrt{N}

    for N updates in place of Adam or AdamW; in place of LAMB its own rate. The tuned rates of LAMB and ALTO in the
    lab's comparisons followed it, and AdamW's tuned rate did not improve the prediction. The exponent is that of You et
    al. 2019, who scale LAMB's rate with the root of the batch at a fixed number of examples.

    Args:
        base: the optimizer that ALTO replaces: adam, adamw or lamb.
        lr: its tuned learning rate, > 0.
        steps: updates of the whole run, at least 1.
        batch_size: examples per update, at least 1; sets alpha and beta by the paper's rule.

    Returns:
        The rate, its range and a line of Python; ``print`` shows them.

    Raises:
        LabError: an unknown optimizer, or a value out of range.

    Example:
        >>> rate = starting_rate("adamw", 3e-4, steps=1200, batch_size=4096)
        >>> print(rate.line)
        valleys.ALTO(valleys.param_groups(model), lr=0.01, alpha=-5, beta=0.99)

    Source:
        Ours: ``benchmarks/results/learning-rate``.
    """
    if base not in BASES:
        raise LabError(f"optimizer {shortened(base)}: choose {', '.join(BASES)}; ALTO's rate is known beside these")
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf:
        raise LabError(f"lr {shortened(lr)}: choose the number above 0 that {BASES[base]} was tuned to")
    for name, value in (("steps", steps), ("batch size", batch_size)):
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise LabError(f"{name} {shortened(value)}: choose a whole number from 1 to {_LARGEST:g}")
    rate = lr if base == "lamb" else _COEFFICIENT / math.sqrt(steps)
    return StartingRate(base, lr, steps, batch_size, rate)


def _arguments(batch_size: int) -> str:
    """Write E's arguments by the paper's rule."""
    return ", ".join(f"{name}={value:g}" for name, value in suggest(batch_size).items())


def _times(ratio: float) -> str:
    """Say how many times as large something is."""
    return f"{ratio:.2g} times" if ratio >= 1 else f"1/{1 / ratio:.2g} of"
