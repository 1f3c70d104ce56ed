"""The lab: whether an optimizer helps on a task, by equal tuning budgets, fresh seeds and intervals."""

from __future__ import annotations

from valleys.lab.compare import Comparison, compare
from valleys.lab.errors import LabError
from valleys.lab.record import Record
from valleys.lab.task import Split, Task

__all__ = ["Comparison", "LabError", "Record", "Split", "Task", "compare"]
