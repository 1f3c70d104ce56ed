"""A user's own task, from a Python file; mistakes are reported with file and line."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valleys.lab import tasks
from valleys.lab.errors import LabError, pointing, shortened, unknown
from valleys.lab.optimizers.resolve import importing
from valleys.lab.problem.data import Batch, count, taken
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task

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

    Data folder and preset are for the lab's own tasks alone.

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
    if isinstance(task, str):
        return load(task)
    if not isinstance(task, Problem):
        raise LabError(f"task must be a name, FILE.py:NAME, or a valleys.lab.Task or a Loop, not {shortened(task)}")
    return task


def load(text: str) -> Problem:
    """Load a task from ``FILE.py:NAME`` and try it on a few examples; a LabError names file and line.

    NAME is a ``Task`` or a ``Loop``, or a function without arguments that returns one. The file's folder is on the
    import path, as when the file is run. The task's variant names the file and a hash of its text, so that a task that
    was changed is not mixed up with what it was.
    """
    path = file_of(text)
    name = text.rpartition(":")[2]
    if path is None or not name.isidentifier():
        raise LabError(f"task {text!r} is not of the form FILE.py:NAME, such as my_task.py:task")
    if not path.is_file():
        raise LabError(f"task {text!r}: there is no file {path}; name it as seen from this folder")
    with pointing(path, str(path)):
        task = _attribute(path, name)
        if callable(task):
            task = task()
        if not isinstance(task, Problem):
            raise LabError(f"{path}: {name} is a {type(task).__name__}; it must be a valleys.lab.Task or a Loop")
    check(task, path)
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return replace(task, variant=f"{task.variant} {path.name}@{mark}".strip())


def check(task: Problem, path: Path | None = None) -> None:
    r"""Try a task on a few examples, so that a mistake costs no tuning runs; of a ``Loop`` there is nothing to try.

    .. math:: L(x_1, \dots, x_n) = \tfrac1n \sum_i L(x_i)

    Its model is built twice, called, and differentiated; loss and metric are compared between all the examples and
    their parts, and the metric is computed on examples of the other splits, too. The path names its file in messages.

    Raises:
        LabError: a model that is none, or the same one at every call; a loss that is no scalar, not finite, without a
            gradient, or no mean over the examples; a metric that is no tensor or no mean, or of which ``finish`` makes
            no number; whatever else these raise, with file and line.
    """
    if not isinstance(task, Task):
        return
    device = torch.device("cpu")
    file = "" if path is None else f"{path}: "
    with pointing(path, f"{file}{task.name} fails on examples of its train split"), seeded(device, 0):
        inputs, targets = _examples(task, "train")
        model = _model(task)
        model.train()
        if task.augment is not None:
            inputs = task.augment(inputs, torch.Generator().manual_seed(0))
        loss = task.loss(model(inputs), targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
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
            for name in ("validation", "test"):
                with pointing(path, f"{file}{task.name} fails on examples of its {name} split"):
                    inputs, targets = _examples(task, name)
                    value = task.score(task.metric(model(inputs), targets))
                    if isinstance(value, bool) or not isinstance(value, (int, float)):
                        raise LabError(f"the metric of {task.name} must be a number, got {_shape(value)}")


def _examples(task: Task, split: str) -> tuple[Batch, Batch]:
    examples = getattr(task, split)
    indices = torch.arange(min(_EXAMPLES, len(examples)))
    ((inputs, targets),) = examples.reader(torch.device("cpu")).read([indices])
    for side in (inputs, targets):
        if not isinstance(side, Tensor) and not all(isinstance(one, Tensor) for one in getattr(side, "values", list)()):
            raise LabError(f"the {split} split of {task.name} must give tensors, got {_shape(side)}")
    return inputs, targets


def _model(task: Task) -> nn.Module:
    """Return a new model; refuse one that a second call does not make anew."""
    models = []
    for _ in range(2):
        with seeded(torch.device("cpu"), 0):
            models.append(task.build_model())
        if not isinstance(models[-1], nn.Module):
            raise LabError(f"build_model of {task.name} must return a torch.nn.Module, got {_shape(models[-1])}")
    first, second = ({id(one) for one in model.parameters() if one.requires_grad} for model in models)
    if models[0] is models[1] or first & second:
        raise LabError(f"build_model of {task.name} returns the same model again; it must make a new one at every call")
    if not first:
        raise LabError(f"the model of {task.name} has no parameter that can be trained")
    return models[0]


def _check_mean(task: Task, what: str, function: Any, model: Any, inputs: Batch, targets: Batch) -> None:
    n = count(targets)
    whole = function(model(inputs), targets)
    if not isinstance(whole, Tensor):
        raise LabError(f"the {what} of {task.name} must return a tensor, got {_shape(whole)}")
    if task.finish is None and whole.numel() != 1:
        raise LabError(f"the {what} of {task.name} has {whole.numel()} numbers; a metric of several needs a `finish`")
    total = torch.zeros_like(whole, dtype=torch.float64)
    for first, last in ((0, n // 3), (n // 3, n)):
        if last > first:
            part = torch.arange(first, last)
            value = function(model(taken(inputs, part)), taken(targets, part))
            if not isinstance(value, Tensor) or value.shape != whole.shape:
                raise LabError(f"the {what} of {task.name} must always return a tensor of one shape")
            total += value.double() * ((last - first) / n)
    if not torch.allclose(total, whole.double(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise LabError(
            f"the {what} of {task.name} must be the mean over the examples: on {n} of them it is {whole.tolist()}, the "
            f"mean of its parts {total.tolist()}; a sum depends on the micro-batch (what is no mean at all, such as an "
            "F1 score, is a mean of counts and a `finish`)"
        )


def _attribute(path: Path, name: str) -> Any:
    module_name = _module_name(path)
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # what pickles its classes, or a worker of a DataLoader, finds them by name
    with importing(path.resolve().parent):
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        tasks = [key for key, value in vars(module).items() if isinstance(value, Problem) or callable(value)]
        raise unknown(f"name in {path}", name, [key for key in tasks if not key.startswith("_")] or ["none"])
    return getattr(module, name)


def _module_name(path: Path) -> str:
    """Return the file's own name or, where a library or another file has it, a private one."""
    file, name, module = path.resolve(), path.stem, sys.modules.get(path.stem)
    if name.isidentifier():
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
        if (spec is None and module is None) or (spec is not None and spec.origin == str(file)):
            return name
    return f"_{name}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"


def _shape(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
