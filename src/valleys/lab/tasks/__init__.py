"""The tasks that the lab knows by name."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from valleys.lab.errors import LabError, unknown
from valleys.lab.tasks.entry import Entry
from valleys.lab.tasks.table import ENTRIES

if TYPE_CHECKING:
    from valleys.lab.problem.task import Problem

__all__ = ["Entry", "entries", "load", "names"]

# The group of entry points by which a package adds tasks: each is a dictionary like ``table.ENTRIES``.
_GROUP = "valleys.tasks"


@cache
def entries() -> dict[str, Entry]:
    """Return all tasks, sorted by name: the lab's own, and those of packages with entry points ``valleys.tasks``.

    Raises:
        LabError: the tasks of a package cannot be imported.

    Example:
        >>> entries()["digits"].presets
        ('standard',)
    """
    table = dict(ENTRIES)
    for point in entry_points(group=_GROUP):
        try:
            table |= point.load()
        except Exception as error:
            raise LabError(
                f"the tasks of the entry point {point.name} = {point.value} cannot be imported ({error!r}); repair or "
                "uninstall the package that brings it"
            ) from error
    return dict(sorted(table.items()))


def names() -> list[str]:
    """Return the tasks' names, sorted."""
    return list(entries())


def load(name: str, data_dir: Path | None = None, preset: str | None = None) -> Problem:
    """Load a task and its data.

    Args:
        name: one of ``names()``.
        data_dir: folder of the data, for a task that reads files; default: where the task looks by itself.
        preset: ``paper``, ``smoke`` or what else the task has; default: its first.

    Returns:
        The task. Its splits are the same on every call.

    Raises:
        LabError: the task or preset does not exist, its data is missing or damaged, something is not installed, or the
            task reads no folder and one was named.

    Example:
        >>> load("sine").metric_name
        'mean squared error'
    """
    if name not in entries():
        raise unknown("task", name, names(), remedy=", or FILE.py:NAME for a task of your own")
    entry = entries()[name]
    if data_dir is not None and not entry.reads_folder:
        raise LabError(
            f"the task {name} reads no files, so the data folder {str(data_dir)!r} would have no effect; leave it out"
        )
    if preset is not None and preset not in entry.presets:
        raise unknown(f"preset of {name}", preset, entry.presets)
    return entry.load(data_dir, preset or entry.presets[0])
