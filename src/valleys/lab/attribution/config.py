"""The configuration of an attribution: a comparison's, with two recipes in place of its optimizers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from valleys.lab.config import ComparisonConfig
from valleys.lab.errors import LabError
from valleys.lab.optimizers.recipes import Recipe
from valleys.lab.problem.task import Problem
from valleys.lab.settings import documented, option

__all__ = ["AttributionConfig"]

UNUSED = ("optimizers", "pairs", "copies")
"""Settings of a comparison that an attribution makes itself."""


@documented
@dataclass(frozen=True, kw_only=True)
class AttributionConfig(ComparisonConfig):
    """Settings of an attribution.

    Raises:
        LabError: a value out of its range, or a setting that an attribution makes itself.

    Example:
        >>> AttributionConfig(fixed="lr=0.05,momentum=0.9").values
        {'lr': 0.05, 'momentum': 0.9}
    """

    first: str | Recipe = option("lamb-paper", "The recipe to begin with.", flag="--from", cli=str, shown=True)
    last: str | Recipe = option("alto", "The recipe to end with.", flag="--to", cli=str, shown=True)
    fixed: Mapping[str, float] | str = option(
        "", "Hyperparameters that are not tuned: lr=0.05,momentum=0.9, ...", flag="--set", cli=str
    )
    recipes: Path | str | None = option(None, "YAML file with recipes of your own.", cli=Path | None)

    def __post_init__(self) -> None:
        for entry in fields(self):
            if entry.name in UNUSED and getattr(self, entry.name) != entry.default:
                raise LabError(f"{entry.name}: an attribution compares the recipes between two others; leave it out")
        super().__post_init__()
        if isinstance(self.fixed, Mapping):
            object.__setattr__(self, "fixed", ",".join(f"{name}={value!r}" for name, value in self.fixed.items()))
        self.values  # noqa: B018 - what is no number is refused at once

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters that are not tuned, by name."""
        numbers: dict[str, float] = {}
        for word in filter(str.strip, str(self.fixed).split(",")):
            name, _, number = map(str.strip, word.partition("="))
            if name in numbers:
                raise LabError(f"--set names {name} twice; give it one value")
            try:
                numbers[name] = float(number if name else "")
            except ValueError as error:
                raise LabError(f"--set {word.strip()!r}: write name=number, such as lr=0.05") from error
        return numbers

    def command(self, task: str | Problem, out: Path) -> str:
        """Return what repeats the attribution, in a shell or, where the task or a recipe is an object, in Python."""
        if isinstance(task, str) and isinstance(self.first, str) and isinstance(self.last, str):
            return shlex.join(["valleys", "attribute", task, *self.flags(out, UNUSED)])
        options = [
            f"{name}={value.name if isinstance(value, Recipe) else repr(value)}"
            for name, value in self.options(out, UNUSED).items()
        ]
        name = repr(task) if isinstance(task, str) else task.name
        return f"valleys.lab.attribute({', '.join([name, *options])})"
