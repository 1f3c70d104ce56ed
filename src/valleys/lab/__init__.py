"""The lab: whether an optimizer helps on a task, by equal tuning budgets, fresh seeds and intervals."""

from __future__ import annotations

from valleys.lab.attribution import Attribution, AttributionConfig, Recipe, attribute
from valleys.lab.compare import Comparison, compare
from valleys.lab.config import ComparisonConfig
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.loop import Loop, Running
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Split, Stream, Task
from valleys.lab.record import Record

__all__ = [
    "Attribution",
    "AttributionConfig",
    "Comparison",
    "ComparisonConfig",
    "LabError",
    "Loop",
    "OptimizerSpec",
    "Plan",
    "Range",
    "Recipe",
    "Record",
    "Running",
    "Schedule",
    "Split",
    "Stream",
    "Task",
    "attribute",
    "compare",
]
