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
    """An optimizer with all its hyperparameters.

    Args:
        name: the optimizer's name in the paper, which is also the column's unless the table has several of one.
        kind: key of ``valleys.paper.tables.methods.MAKERS``.
        options: name and value of what the constructor gets.
        ours: what of this the paper does not state, and so our choice; empty: nothing.
    """

    name: str
    kind: str
    options: tuple[tuple[str, object], ...]
    ours: str = ""

    def describe(self) -> str:
        """Return the hyperparameters in words.

        Example:
            >>> Method("Adam", "adam", (("lr", 0.01), ("betas", (0.9, 0.999)))).describe()
            'lr=0.01, betas=(0.9, 0.999)'
        """
        return ", ".join(f"{name}={_short(value)}" for name, value in self.options)


@dataclass(frozen=True)
class Setting:
    """A task at a batch size.

    Args:
        task: name of a task of the lab.
        batch_size: the paper's, examples per step; None: the task's own (full batch, PPO's minibatch, a function).
        examples: the paper's training examples, from which a smaller problem's batch size follows; None: a smaller
            problem keeps its own batch size.
        epochs: of preset ``paper`` (and of a task without presets); None: the task's own.
        smoke_epochs: of a task without presets when ``smoke`` is asked for; None: as ``epochs``.
        schedule: of preset ``paper``; None: the task's own.
        clip: the gradient's largest norm; None: no clipping.
        gpu: True if its preset ``paper`` is hopeless without one.
        folder: the data's folder inside the data folder, where that holds several data sets.
        ours: what of this the paper does not state; empty: nothing.
    """

    task: str
    batch_size: int | None
    examples: int | None = None
    epochs: int | None = None
    smoke_epochs: int | None = None
    schedule: Schedule | None = None
    clip: float | None = None
    gpu: bool = False
    folder: str = ""
    ours: str = ""


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one curve of a figure.

    Args:
        row, column: where it stands; together unique in the table.
        value: the paper's number; None: there is none, only a curve.
        setting: the problem; None: no training repeats it, and ``blank`` says why unless ``measure`` is memory or sign.
        method: the optimizer.
        measure: what of the runs it is.
        level: the validation metric whose first crossing is timed; None: the task's target.
        against: what a ratio or a percentage divides by.
        blank: why there is nothing of ours, whatever data and hardware there are.
        says: what a figure shows, in words.
    """

    row: str
    column: str
    value: float | None
    setting: Setting | None = None
    method: Method | None = None
    measure: Measure = "test"
    level: float | None = None
    against: tuple[Setting | None, Method] | None = None
    blank: str = ""
    says: str = ""

    def runs(self) -> tuple[tuple[Setting, Method], ...]:
        """The experiments that the number comes from."""
        both = ((self.setting, self.method), self.against or (None, None))
        return tuple((setting, method) for setting, method in both if setting is not None and method is not None)


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    Args:
        number: what the command line calls it, such as ``table-3``.
        title: what it shows.
        unit: of its numbers.
        cells: the numbers, row by row.
        aliases: other numbers of the paper with the same content.
        contrasts: pairs of columns whose order, in each row, is what the paper claims.
        notes: what a reader should know; "ours" marks what the paper does not state.
        needs: data and hardware, in words.
        decimals: of its numbers.
    """

    number: str
    title: str
    unit: str
    cells: tuple[Cell, ...]
    aliases: tuple[str, ...] = ()
    contrasts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    needs: str = "nothing"
    decimals: int = 2

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
