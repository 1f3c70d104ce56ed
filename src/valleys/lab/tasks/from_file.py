"""A user's own task, from a Python file; mistakes are reported with file and line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from valleys.lab import tasks
from valleys.lab.errors import LabError, unknown
from valleys.lab.problem.data import Batch, count, taken
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task

__all__ = ["check", "file_of", "load", "pointing", "resolve"]

_EXAMPLES = 6


def file_of(text: str) -> Path | None:
    """Return the file of ``FILE.py:NAME``; None for a task's name.

    Example:
        >>> file_of("my_task.py:task").name, file_of("digits")
        ('my_task.py', None)
    """
    path, colon, _ = text.rpartition(":")
    return Path(path) if colon and path.endswith(".py") else None


def resolve(task: str | Problem, data_dir: Path | str | None = None, preset: str | None = None) -> Problem:
    """Return a task of the lab by its name, a task from ``FILE.py:NAME``, or the task itself.

    Raises:
        LabError: what ``tasks.load`` or ``load`` raise, or a data folder or preset for a task of the user's own.

    Example:
        >>> resolve("digits").name
        'digits'
    """
    if isinstance(task, str) and file_of(task) is None:
        return tasks.load(task, None if data_dir is None else Path(data_dir), preset)
    if data_dir is not None or preset is not None:
        raise LabError(
            "a task of your own finds its data by itself and has no presets: leave data folder and preset out"
        )
    return load(task) if isinstance(task, str) else task


def load(text: str) -> Problem:
    """Load a task from ``FILE.py:NAME`` and try it on a few examples.

    NAME is a ``Task`` or a ``Loop``, or a function without arguments that returns one. The file's folder is on the
    import path, as when the file is run. The task's variant names the file and a hash of its text, so that a task that
    was changed is not mixed up with what it was.

    Raises:
        LabError: with file and line where the file has an error; also no such file or name, something that is
            no task, or a task that does not do what ``check`` asks of it.
    """
    path = file_of(text)
    name = text.rpartition(":")[2]
    if path is None or not name.isidentifier():
        raise LabError(f"task {text!r} is not of the form FILE.py:NAME, such as my_task.py:task")
    if not path.is_file():
        raise LabError(f"task {text!r}: there is no file {path}; name it as seen from this folder")
    with pointing(path):
        task = _attribute(path, name)
        if callable(task):
            task = task()
        if not isinstance(task, Problem):
            raise LabError(f"{path}: {name} is a {type(task).__name__}; it must be a valleys.lab.Task or a Loop")
        if isinstance(task, Task):
            check(task)
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return replace(task, variant=f"{task.variant} {path.name}@{mark}".strip())


def check(task: Task) -> None:
    r"""Try a task on a few examples, so that a mistake costs no tuning runs.

    .. math:: L(x_1, \dots, x_n) = \tfrac1n \sum_i L(x_i)

    Its model is built, called, and differentiated; loss and metric are compared between all the examples and their
    parts.

    Raises:
        LabError: a loss that is no scalar, not finite, without a gradient, or no mean over the examples; a metric that
            is no tensor or no mean.
    """
    device = torch.device("cpu")
    examples = torch.arange(min(_EXAMPLES, len(task.train)))
    ((inputs, targets),) = task.train.reader(device).read([examples])
    with seeded(device, 0):
        model = task.build_model()
        model.train()
        if task.augment is not None:
            inputs = task.augment(inputs, torch.Generator().manual_seed(0))
        loss = task.loss(model(inputs), targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise LabError(f"the loss of {task.name} must be a tensor of one number, got {_shape(loss)}")
        if not loss.isfinite().all():
            raise LabError(f"the loss of {task.name} is {loss.item()} at the start; it must be finite")
        if not loss.requires_grad:
            raise LabError(f"the loss of {task.name} has no gradient; it must depend on the model's parameters")
        loss.backward()
        model.eval()
        with torch.no_grad():
            for what, function in (("loss", task.loss), ("metric", task.metric)):
                _check_mean(task, what, function, model, inputs, targets)


def _check_mean(task: Task, what: str, function: Any, model: Any, inputs: Batch, targets: Batch) -> None:
    n = count(targets)
    whole = function(model(inputs), targets)
    if not isinstance(whole, Tensor):
        raise LabError(f"the {what} of {task.name} must return a tensor, got {_shape(whole)}")
    total = torch.zeros_like(whole, dtype=torch.float64)
    for first, last in ((0, n // 3), (n // 3, n)):
        if last > first:
            part = torch.arange(first, last)
            value = function(model(taken(inputs, part)), taken(targets, part))
            total += value.double() * ((last - first) / n)
    if not torch.allclose(total, whole.double(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise LabError(
            f"the {what} of {task.name} must be the mean over the examples: on {n} of them it is {whole.tolist()}, the "
            f"mean of its parts {total.tolist()}; a sum depends on the micro-batch (what is no mean at all, such as an "
            "F1 score, is a mean of counts and a `finish`)"
        )


@contextmanager
def pointing(path: Path | None) -> Iterator[None]:
    """Turn an exception that came through a user's file (None: no file) into a LabError that names file and line."""
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        line = None if path is None else _line(path, error)
        if line is None:
            raise
        message = " ".join(str(error).split())
        raise LabError(f"{path}, line {line}: {type(error).__name__}: {message}") from error


def _line(path: Path, error: BaseException) -> int | None:
    """Return the last line of the file that the exception came through."""
    file = path.resolve()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
    if not lines and isinstance(error, SyntaxError) and Path(error.filename or path).resolve() == file:
        return error.lineno or 1  # Python names no line, or no file, for an encoding or a NUL that it cannot read
    return lines[-1] if lines else None


def _attribute(path: Path, name: str) -> Any:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # what pickles its classes, or a worker of a DataLoader, finds them by name
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        tasks = [key for key, value in vars(module).items() if isinstance(value, Problem) or callable(value)]
        raise unknown(f"name in {path}", name, [key for key in tasks if not key.startswith("_")] or ["none"])
    return getattr(module, name)


def _shape(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
