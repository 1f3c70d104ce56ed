"""The lab: whether an optimizer helps on a task, by equal tuning budgets, fresh seeds and intervals."""

from __future__ import annotations

from valleys.lab.compare import Comparison, compare
from valleys.lab.errors import LabError
from valleys.lab.loop import Loop, Running
from valleys.lab.optimizers import OptimizerSpec, Plan, Range
from valleys.lab.record import Record
from valleys.lab.schedules import Schedule
from valleys.lab.task import Split, Stream, Task

__all__ = [
    "Comparison",
    "LabError",
    "Loop",
    "OptimizerSpec",
    "Plan",
    "Range",
    "Record",
    "Running",
    "Schedule",
    "Split",
    "Stream",
    "Task",
    "compare",
]
