"""Results of the paper: a number, and the experiment behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from valleys.lab.problem.schedules import Schedule

Measure = Literal[
    "test", "seconds", "step ms", "epochs", "time ratio", "step ratio", "epoch ratio", "memory", "walk", "sign",
    "top_eigenvalue", "drift",
]  # fmt: skip
"""A number is the final test metric, the training seconds or the epochs to a level, the milliseconds of a step, one of
these as a ratio, GPU memory above another method in percent, where a walk ends, the sign of a quantity in a stage of
Table 1, or a measure of the finished runs' flatness."""

FLAT: tuple[Measure, ...] = ("top_eigenvalue", "drift")
"""Measures that ``valleys landscape`` makes."""

COMPARABLE: tuple[Measure, ...] = ("test", "time ratio", "step ratio", "epoch ratio", "memory", "sign")
"""Measures whose difference to the paper's number means something on another machine."""


@dataclass(frozen=True)
class Method:
    """An optimizer with all its hyperparameters."""

    name: str  # the optimizer's name in the paper, which is also the column's unless the table has several of one
    kind: str  # key of ``valleys.paper.tables.methods.MAKERS``
    options: tuple[tuple[str, object], ...]  # name and value of what the constructor gets
    ours: str = ""  # what of this the paper does not state, and so our choice; empty: nothing

    def describe(self) -> str:
        """Return the hyperparameters in words.

        Example:
            >>> Method("Adam", "adam", (("lr", 0.01), ("betas", (0.9, 0.999)))).describe()
            'lr=0.01, betas=(0.9, 0.999)'
        """
        return ", ".join(f"{name}={_short(value)}" for name, value in self.options)


@dataclass(frozen=True)
class Setting:
    """A task at a batch size."""

    task: str  # name of a task of the lab
    # The paper's, examples per step; None: the task's own (full batch, PPO's minibatch, a function).
    batch_size: int | None
    # The paper's training examples, from which a smaller problem's batch size follows; None: a smaller problem keeps
    # its own batch size.
    examples: int | None = None
    epochs: int | None = None  # of preset ``paper`` (and of a task without presets); None: the task's own
    smoke_epochs: int | None = None  # of a task without presets when ``smoke`` is asked for; None: as ``epochs``
    schedule: Schedule | None = None  # of preset ``paper``; None: the task's own
    clip: float | None = None  # the gradient's largest norm; None: no clipping
    gpu: bool = False  # True if its preset ``paper`` is hopeless without one
    folder: str = ""  # the data's folder inside the data folder, where that holds several data sets
    ours: str = ""  # what of this the paper does not state; empty: nothing


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one curve of a figure."""

    row: str  # with the column unique in the table
    column: str
    value: float | None  # the paper's number; None: there is none, only a curve
    # The problem; None: no training repeats it, and ``blank`` says why unless ``measure`` is memory or sign.
    setting: Setting | None = None
    method: Method | None = None
    measure: Measure = "test"  # what of the runs it is
    level: float | None = None  # the validation metric whose first crossing is timed; None: the task's target
    against: tuple[Setting | None, Method] | None = None  # what a ratio or a percentage divides by
    blank: str = ""  # why there is nothing of ours, whatever data and hardware there are
    says: str = ""  # what a figure shows, in words

    def runs(self) -> tuple[tuple[Setting, Method], ...]:
        """The experiments that the number comes from."""
        both = ((self.setting, self.method), self.against or (None, None))
        return tuple((setting, method) for setting, method in both if setting is not None and method is not None)


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper."""

    number: str  # what the command line calls it, such as ``table-3``
    title: str  # what it shows
    unit: str  # of its numbers
    cells: tuple[Cell, ...]  # the numbers, row by row
    aliases: tuple[str, ...] = ()  # other numbers of the paper with the same content
    contrasts: tuple[tuple[str, str], ...] = ()  # pairs of columns whose order, in each row, is what the paper claims
    notes: tuple[str, ...] = ()  # what a reader should know; "ours" marks what the paper does not state
    needs: str = "nothing"  # data and hardware, in words
    decimals: int = 2  # of its numbers

    @property
    def rows(self) -> list[str]:
        """Its rows, from top to bottom."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """Its columns, from left to right."""
        return list(dict.fromkeys(cell.column for cell in self.cells))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
