"""Record of one run: plain numbers and strings that go through JSON unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Evaluation", "Record"]


@dataclass(frozen=True)
class Evaluation:
    """The validation metric at one moment of a run.

    Args:
        step: optimizer steps made so far.
        seconds: training time so far, evaluation left out.
        train_loss: mean training loss since the evaluation before.
        validation: validation metric.
    """

    step: int
    seconds: float
    train_loss: float
    validation: float


@dataclass(frozen=True)
class Record:
    """One finished run.

    Args:
        optimizer: the optimizer's name in the comparison.
        hyperparameters: what it was built with.
        seed: the run's seed: initialisation, order of the data, dropout.
        batch_size: examples per optimizer step.
        steps: optimizer steps made.
        diverged: whether loss or metric stopped being finite; the run ends there.
        curve: evaluations in order.
        validation: the last validation metric; None if the run diverged.
        test: the test metric; None unless it was asked for and the run did not diverge.
        steps_to_target: first evaluated step at which the target was met; None if never.
        seconds_to_target: training seconds at that step; None if never.
        step_seconds: seconds of a training step: all its forward and backward passes, and the update; median over
            blocks of ten steps of their mean, since some optimizers do most of their work every tenth step.
        optimizer_seconds: the same of ``optimizer.step`` alone, without the gradients that it asks for.
        state_bytes: bytes of the tensors the optimizer keeps, parameters left out.
        parameter_bytes: bytes of the parameters.
        examples: training examples whose gradient was computed: steps x batch size x gradients per step.
        ended: when the run ended, in seconds since 1970; None: unknown.
    """

    optimizer: str
    hyperparameters: dict[str, Any]
    seed: int
    batch_size: int
    steps: int
    diverged: bool
    curve: list[Evaluation] = field(default_factory=list)
    validation: float | None = None
    test: float | None = None
    steps_to_target: int | None = None
    seconds_to_target: float | None = None
    step_seconds: float = 0.0
    optimizer_seconds: float = 0.0
    state_bytes: int = 0
    parameter_bytes: int = 0
    examples: int = 0
    ended: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a dictionary that ``json.dumps`` accepts."""
        # A thousand evaluations, which ``asdict`` would copy piece by piece, take a tenth of the time.
        curve = [dict(vars(evaluation)) for evaluation in self.curve]
        return {**vars(self), "hyperparameters": dict(self.hyperparameters), "curve": curve}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """The record that ``to_json`` gave ``data``."""
        return cls(**{**data, "curve": [Evaluation(**evaluation) for evaluation in data["curve"]]})
