"""The lab: whether an optimizer helps on a task, by equal tuning budgets, fresh seeds and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from valleys._lazy import lazy_names

if TYPE_CHECKING:
    from valleys.lab.attribution.attribute import Attribution, attribute
    from valleys.lab.attribution.config import AttributionConfig
    from valleys.lab.comparison import Comparison, compare
    from valleys.lab.config import ComparisonConfig
    from valleys.lab.errors import LabError
    from valleys.lab.optimizers.recipes import Recipe
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

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "attribution.attribute": "Attribution attribute",
            "attribution.config": "AttributionConfig",
            "comparison": "Comparison compare",
            "config": "ComparisonConfig",
            "errors": "LabError",
            "optimizers.recipes": "Recipe",
            "optimizers.spec": "OptimizerSpec Plan Range",
            "problem.loop": "Loop Running",
            "problem.schedules": "Schedule",
            "problem.task": "Split Stream Task",
            "record": "Record",
        },
    )
