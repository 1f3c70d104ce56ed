"""The runs that a comparison asks for, and all that comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from valleys.lab.optimizers.spec import stem
from valleys.lab.record import Record

if TYPE_CHECKING:
    from valleys.lab.optimizers.spec import Range

Phase = Literal["tuning", "final"]
"""Purpose of a run: choosing hyperparameters, or the result."""


@dataclass(frozen=True, order=True)
class Key:
    """Identity of a run within its optimizer and phase."""

    round: int  # counted from 0
    point: int  # number of the hyperparameters in the round's tuning sequence
    seed: int  # of the training


@dataclass(frozen=True)
class Job:
    """One run that a comparison asks for."""

    optimizer: str  # its name
    phase: Phase
    key: Key
    hyperparameters: Mapping[str, float] = field(compare=False)
    space: Mapping[str, Range] = field(compare=False)

    @property
    def stem(self) -> str:
        """A file name for the run, whatever characters the optimizer's name has."""
        return stem(f"{self.optimizer}-{self.phase}-{self.key.round}-{self.key.point}-{self.key.seed}")


@dataclass(frozen=True)
class Results:
    """Everything a store holds about a comparison; all that a report is made of."""

    configuration: Mapping[str, Any]  # task, batch size, rounds and so on
    environments: Sequence[Mapping[str, Any]]  # the environments it ran in, oldest first
    spaces: Mapping[str, Mapping[str, Range]]  # range of each hyperparameter, by optimizer
    tuning: Mapping[str, Mapping[Key, Record]]  # finished tuning runs, by optimizer
    final: Mapping[str, Mapping[Key, Record]]  # finished runs with fresh seeds, by optimizer
    planned: Sequence[tuple[str, str]] = ()  # the pairs to be judged; empty: none was planned
    plans: int = 1  # how many different lists of pairs have been asked for
    request: Mapping[str, Any] = field(default_factory=dict)  # not part of what it is: where the data lay, the command
    # What ``valleys landscape`` measured of the final runs, by optimizer.
    flatness: Mapping[str, Mapping[Key, Mapping[str, Any]]] = field(default_factory=dict)
