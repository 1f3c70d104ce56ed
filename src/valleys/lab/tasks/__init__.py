"""The tasks that the lab knows by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from valleys.lab.errors import LabError, unknown
from valleys.lab.task import Task

__all__ = ["describe", "load", "names"]

# A module per task with ``load(data_dir)``, imported only when its task is asked for.
_DESCRIPTIONS = {
    "digits": "8x8 digits, 1,077 training images, small CNN, accuracy; data comes with scikit-learn",
    "fashion-mnist": "28x28 clothes, 54,000 training images, small CNN, accuracy; data from a folder you name, "
    "Debian's dataset-fashion-mnist or OpenML",
    "sine": "noisy sine, 32,768 training points, 3-layer MLP, squared error at a constant learning rate; "
    "data is computed",
}
_READS_A_FOLDER = ("fashion-mnist",)


def names() -> list[str]:
    """The tasks' names, sorted.

    Example:
        >>> names()
        ['digits', 'fashion-mnist', 'sine']
    """
    return sorted(_DESCRIPTIONS)


def describe(name: str) -> str:
    """What a task is and where its data comes from, in one line.

    Args:
        name: one of ``names()``.

    Returns:
        The line.

    Raises:
        LabError: there is no such task.
    """
    _check(name)
    return _DESCRIPTIONS[name]


def load(name: str, data_dir: Path | None = None) -> Task:
    """Load a task and its data into memory.

    Args:
        name: one of ``names()``.
        data_dir: folder of the data, for a task that reads files; default: where the task finds them by itself.

    Returns:
        The task. Its splits are the same on every call.

    Raises:
        LabError: there is no such task, its data is missing or damaged, or it reads no folder and one was named.

    Example:
        >>> load("sine").metric_name
        'mean squared error'
    """
    _check(name)
    if data_dir is not None and name not in _READS_A_FOLDER:
        raise LabError(
            f"the task {name} reads no files, so the data folder {str(data_dir)!r} would have no effect; leave it out"
        )
    task: Task = import_module(f"valleys.lab.tasks.{name.replace('-', '_')}").load(data_dir)
    return task


def _check(name: str) -> None:
    if name not in _DESCRIPTIONS:
        raise unknown("task", name, names())
