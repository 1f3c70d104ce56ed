"""The lab's description of a task that is not loaded yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from valleys.lab.problem.task import Problem

__all__ = ["STANDARD", "Entry"]

STANDARD = "standard"
"""The preset of a task that has no other."""


@dataclass(frozen=True)
class Entry:
    """One line of ``valleys tasks``.

    Args:
        what: the problem, the model and the metric.
        data: where the data comes from.
        load: ``(data_dir, preset) -> problem``, which imports everything heavy.
        presets: the presets, the default first: ``paper`` has the paper's model, data and schedule, ``smoke``
            a smaller problem of the same kind, minutes on two cores.
        needs: what must be installed or at hand beside the extra ``lab``; empty: nothing.
        reads_folder: whether it reads data from a folder that the user names.
    """

    what: str
    data: str
    load: Callable[[Path | None, str], Problem]
    presets: tuple[str, ...] = (STANDARD,)
    needs: str = ""
    reads_folder: bool = False
