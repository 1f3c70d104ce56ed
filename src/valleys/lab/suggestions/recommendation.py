"""Advice for a batch size in words, from the paper's rule and a measured noise scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from valleys.hyperparameters import Suggestion
from valleys.lab.errors import LabError
from valleys.lab.run.noise_scale import CONFIDENCE, Measurement

__all__ = ["MUCH", "Recommendation", "Trial", "from_memory"]

MUCH = 10.0
"""Factor that counts as much larger; the noise scale tells orders of magnitude."""

_STRONG_C, _STRONG_MEMORY = -0.75, 0.25  # the best in a noisy quadratic model; the memory is a share of the run


@dataclass(frozen=True)
class Trial:
    """The brief run that measured, and what a whole run would be.

    Args:
        task: its name.
        optimizer: its name.
        values: its hyperparameters.
        batch_size: examples per step of the brief run.
        steps: how many it made.
        early, late: the noise scale after a quarter of them, and at the end.
        run_steps: steps of a whole run of the task at the batch size that was asked about.
        command: the comparison that settles what is best.
    """

    task: str
    optimizer: str
    values: dict[str, float]
    batch_size: int
    steps: int
    early: Measurement
    late: Measurement
    run_steps: int
    command: str


@dataclass(frozen=True)
class Recommendation:
    """Advice for a batch size.

    Args:
        batch_size: examples per step.
        rule: alpha and beta1 by the paper's rule.
        trial: what was measured; None: nothing.
    """

    batch_size: int
    rule: Suggestion
    trial: Trial | None = None

    @property
    def strong(self) -> Suggestion | None:
        """Alpha and beta1 of strong E for a whole run of the task; None without a task."""
        if self.trial is None:
            return None
        return from_memory(_STRONG_C, max(1.0, _STRONG_MEMORY * self.trial.run_steps))

    @property
    def regime(self) -> str | None:
        """``noise``, ``signal`` or ``between``, if the whole interval of the late noise scale says so; else None."""
        interval = None if self.trial is None else self.trial.late.interval
        if interval is None:
            return None
        low, high = interval
        if self.batch_size * MUCH <= low:
            return "noise"
        if self.batch_size >= high * MUCH:
            return "signal"
        return "between" if low * MUCH >= self.batch_size and high <= self.batch_size * MUCH else None

    def __str__(self) -> str:
        alpha, beta = self.rule["alpha"], self.rule["beta"]
        lines = [
            f"batch size {self.batch_size}",
            f"the paper's rule: alpha = {alpha:g}, beta1 = {beta:g}, that is c = alpha (1 - beta1) = "
            f"{alpha * (1 - beta):.3g} with a memory 1 / (1 - beta1) of {1 / (1 - beta):.3g} steps; it is empirical, a "
            "starting point and no substitute for tuning",
        ]
        if self.trial is None:
            return "\n".join(
                [*lines, "name a task (--task) to measure its noise scale and get the command that decides"]
            )
        return "\n".join([*lines, *_measured(self.trial), *_meaning(self), *_about_e(self), self.trial.command])


def from_memory(c: float, memory: float) -> Suggestion:
    r"""Alpha and beta1 of a strength and a memory.

    .. math:: \beta_1 = 1 - 1 / M, \quad \alpha = c M

    Args:
        c: alpha (1 - beta1), in (-1, 1).
        memory: M = 1 / (1 - beta1) in steps, at least 1.

    Returns:
        ``{"alpha": ..., "beta": ...}``, for ``adapt(optimizer, **from_memory(-0.5, 100))``.

    Raises:
        LabError: one of them is out of range.

    Example:
        >>> from_memory(-0.75, 100)
        {'alpha': -75.0, 'beta': 0.99}
    """
    if not (-1 < c < 1 and 1 <= memory < math.inf):
        raise LabError(f"c = {c} and memory {memory}: choose c between -1 and 1, and a memory of 1 step or more")
    return Suggestion(alpha=c * memory, beta=1 - 1 / memory)


def _measured(trial: Trial) -> list[str]:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial.values.items())
    return [
        f"noise scale of {trial.task}: early {_range(trial.early)}, late {_range(trial.late)} examples "
        f"({CONFIDENCE:.0%} intervals)",
        f"measured with {trial.optimizer} ({values}) at batch {trial.batch_size}, after {trial.steps // 4} and "
        f"{trial.steps} steps; it depends on the stage of training, the optimizer and the learning rate: read it as an "
        "order of magnitude",
    ]


def _range(measurement: Measurement) -> str:
    value = "unknown" if measurement.value is None else f"{measurement.value:.3g}"
    if measurement.interval is None:
        return value
    low, high = measurement.interval
    return f"{value} ({low:.3g} to {high:.3g})" if math.isfinite(high) else f"{value} (at least {low:.3g})"


def _meaning(advice: Recommendation) -> list[str]:
    trial, batch = advice.trial, advice.batch_size
    text = {
        "noise": f"batch {batch} is far below it: noise dominates, and a larger batch saves steps nearly in proportion",
        "signal": f"batch {batch} is far above it: diminishing returns, a smaller one needs fewer examples and hardly "
        "more steps",
        "between": f"batch {batch} is of its order: a larger batch saves steps and costs examples",
        None: f"on which side of it batch {batch} lies is not clear: measure longer (--brief-steps)",
    }[advice.regime]
    late = None if trial is None else trial.late.value
    if not late:
        return [text]
    steps, examples, more_steps, more_examples = (
        1 + late / batch,
        1 + batch / late,
        (1 + late / (2 * batch)) / (1 + late / batch),
        (1 + 2 * batch / late) / (1 + batch / late),
    )
    return [
        text,
        f"predicted from the late one: {steps:.3g} times the fewest steps, {examples:.3g} times the fewest examples; "
        f"doubling the batch: {more_steps:.2f} times the steps, {more_examples:.2f} times the examples",
    ]


def _about_e(advice: Recommendation) -> list[str]:
    assert advice.strong is not None
    assert advice.trial is not None
    alpha, beta = advice.strong["alpha"], advice.strong["beta"]
    here = {
        "noise": "as it seems to here",
        "signal": "which it does not seem to here",
        "between": "which it hardly does here",
        None: "which is not known here",
    }[advice.regime]
    return [
        f"strong E (c = {_STRONG_C:g}, a memory of {_STRONG_MEMORY:g} of the {advice.trial.run_steps} steps): alpha = "
        f"{alpha:.4g}, beta1 = {beta:.4g}; in a noisy quadratic model it halves the steps where noise dominates, {here}"
        ", and gains little near the deterministic limit; both with a constant learning rate: with a decaying one it "
        "costs up to a third more steps",
        "no run of the lab so far shows a gain from either on a real network; what settles it for yours:",
    ]
