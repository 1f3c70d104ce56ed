"""The one configuration of a comparison: the command line, the identity of its runs and the report derive from it."""

from __future__ import annotations

import itertools
import os
import shlex
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve as registry
from valleys.lab.optimizers.spec import OptimizerSpec, stem
from valleys.lab.problem.resolution import resolution
from valleys.lab.problem.schedules import KINDS, Schedule
from valleys.lab.problem.task import Problem, Task
from valleys.lab.run.config import RunConfig, check_device
from valleys.lab.search.candidates import MOST
from valleys.lab.settings import documented, option
from valleys.lab.tasks import from_file

__all__ = ["ComparisonConfig"]

DEVICES = ("auto", "cpu", "cuda")

LAYOUT = 2
"""Version of what a store keeps; another one is refused."""


@documented
@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(RunConfig):
    """Settings of a comparison.

    Raises:
        LabError: a value out of its range, an optimizer named twice, or none.

    Example:
        >>> ComparisonConfig(optimizers=("lamb", "alto"), batch_size=1024, trials=0)
        Traceback (most recent call last):
        ...
        valleys.lab.errors.LabError: trials must be a number from 1 to 5000, not 0
    """

    optimizers: Sequence[str | OptimizerSpec] = option(
        ("sgd", "adamw", "lamb", "alto"), "Names or module:callable, by commas; in Python, OptimizerSpec too."
    )
    rounds: int = option(5, "Rounds: tuning and fresh seeds, all of it again.", identity=True, growing=True, shown=True)
    trials: int = option(8, "Tuning trials per optimizer and round.", identity=True, growing=True, shown=True)
    seeds: int = option(1, "Fresh seeds per optimizer and round.", identity=True, growing=True, shown=True)
    pairs: Sequence[str] = option((), "Planned pairs beside adapted and base: A:B, by commas; fix them beforehand.")
    copies: int = option(1, "Copies of each optimizer, with seeds of their own: an A/A test of the lab itself.")
    preset: str | None = option(None, "paper or smoke, for tasks that have them; default: the task's first.")
    schedule: Schedule | str | None = option(None, f"Learning rate: {', '.join(KINDS)}.", cli=str | None)
    data_dir: Path | str | None = option(None, "Folder of the task's data.", flag="--data", cli=Path | None)
    storage: str | None = option(
        None, "Optuna storage URL, the same for all workers; default: SQLite in --out.", secret=True
    )
    name: str | None = option(None, "The comparison's name in --storage; default: --out's.")
    log: Sequence[str] = option((), "Follow the runs by tensorboard, mlflow, wandb; by commas.")
    keep_weights: bool = option(False, "Keep the final models in --out.")
    device: str = option("auto", "auto, cpu or cuda.", identity=True, shown=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*GROWING, "copies"):
            if not 1 <= getattr(self, name) <= MOST:
                raise LabError(f"{name} must be a number from 1 to {MOST}, not {getattr(self, name)}")
        if self.device not in DEVICES:
            raise LabError(f"unknown device {self.device!r}; known: {', '.join(DEVICES)}")
        if not self.names:
            raise LabError("there is no optimizer to compare; name at least one")
        stems = [stem(name) for name in self.names]
        repeated = sorted({name for name in self.names if stems.count(stem(name)) > 1})
        if repeated:
            raise LabError(f"optimizers named more than once: {', '.join(repeated)}; --copies compares one with itself")
        self.planned  # noqa: B018 - a pair of unknown names is refused at once

    @property
    def names(self) -> list[str]:
        """The names of what is compared, of the optimizers, or of their copies, which are numbered."""
        if self.copies == 1:
            return self.originals
        return [f"{name}-{k}" for name in self.originals for k in range(1, self.copies + 1)]

    @property
    def originals(self) -> list[str]:
        """The optimizers' names."""
        return [entry if isinstance(entry, str) else entry.name for entry in self.optimizers]

    @property
    def planned(self) -> list[tuple[str, str]]:
        """The pairs of ``pairs``: the first is said to be better or not than the second."""
        return [_pair(text, self.names) for text in self.pairs]

    def problem(self, task: str | Problem) -> Problem:
        """Load a task with this data folder, preset and schedule."""
        problem = from_file.resolve(task, self.data_dir, self.preset)
        if not isinstance(task, str):  # that of a file has been checked
            from_file.check(problem)
        if self.schedule is None:
            return problem
        if not isinstance(problem, Task):
            raise LabError(
                f"{problem.name} has a training loop of its own, and so its own schedule: leave schedule out"
            )
        schedule = self.schedule if isinstance(self.schedule, Schedule) else Schedule(self.schedule)  # type: ignore[arg-type]
        return replace(problem, schedule=schedule)

    def specs(self) -> list[OptimizerSpec]:
        """Resolve the optimizers; their search spaces depend on the batch size, which must be known."""
        assert self.batch_size is not None
        specs = [registry.resolve(o, self.batch_size) if isinstance(o, str) else o for o in self.optimizers]
        if self.copies == 1:
            return specs
        copied = [spec for spec in specs for _ in range(self.copies)]
        return [
            replace(spec, name=name, base=None, salt=zlib.crc32(name.encode()) >> 1)  # torch's generators read 32 bits
            for spec, name in zip(copied, self.names, strict=True)
        ]

    def on_this_machine(self) -> ComparisonConfig:
        """Resolve the device: CUDA where there is one, unless ``accelerate launch --cpu`` says no."""
        refused = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() and not refused else "cpu"
        check_device(device)
        return replace(self, device=device)

    def identity(self, problem: Problem) -> dict[str, Any]:
        """Return plain numbers and strings: two comparisons with other ones are not the same.

        The settings must have been resolved.
        """
        settings = {entry.name: getattr(self, entry.name) for entry in fields(self) if "identity" in entry.metadata}
        task = problem if isinstance(problem, Task) else None
        return {
            "layout": LAYOUT,
            "task": problem.name,
            "variant": problem.variant,
            "metric": problem.metric_name,
            "maximize": problem.maximize,
            "target": problem.target,
            "scale": problem.metric_scale,
            "resolution": resolution(problem),
            "schedule": "its own" if task is None else task.schedule.describe(),
            "data": [] if task is None else [len(task.train), len(task.validation), len(task.test)],
            **settings,
            "micro_batch": self.batch_size if task is None else self.micro_batch,
        }

    def command(self, task: str | Problem, out: Path) -> str:
        """Return what repeats the comparison, in a shell or in Python; a storage's password stays out of it."""
        if not isinstance(task, str) or any(not isinstance(entry, str) for entry in self.optimizers):
            arguments = [task if isinstance(task, str) else task.name, f"optimizers=[{', '.join(self.originals)}]"]
            options = [f"{name}={value!r}" for name, value in self.options(out, ("optimizers",)).items()]
            return f"valleys.lab.compare({', '.join(arguments + options)})"
        return shlex.join(
            ["valleys", "compare", task, "--optimizers", ",".join(self.originals), *self.flags(out, ("optimizers",))]
        )

    def options(self, out: Path, without: Collection[str]) -> dict[str, Any]:
        """Return the settings to repeat, by name: those that are always shown, and those that are no default."""
        options = {
            entry.name: "URL" if entry.name == "storage" else _printable(getattr(self, entry.name))
            for entry in fields(self)
            if entry.name not in without and ("shown" in entry.metadata or getattr(self, entry.name) != entry.default)
        }
        return {**options, "out": str(out)}

    def flags(self, out: Path, without: Collection[str]) -> list[str]:
        """Return the same as options of the command line."""
        flags = {entry.name: entry.metadata.get("flag") for entry in fields(self)}
        words = []
        for name, value in self.options(out, without).items():
            option = flags.get(name) or f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
        return words


def _pair(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the two names of ``A:B``, either of which may hold a colon itself."""
    for first, second in itertools.permutations(names, 2):
        if text == f"{first}:{second}":
            return first, second
    raise LabError(f"the pair {text!r} names no two optimizers of this comparison; write A:B with {', '.join(names)}")


def _printable(value: Any) -> Any:
    """Return a setting as the command line has it."""
    if isinstance(value, (list, tuple)):
        return ",".join(value)
    return str(value) if isinstance(value, (Path, Schedule)) else value


GROWING = tuple(entry.name for entry in fields(ComparisonConfig) if "growing" in entry.metadata)
"""Settings with which the same comparison may be asked for again at a larger value: finished runs stay valid."""
