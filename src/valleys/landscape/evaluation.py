"""Loss and metric at the points of a slice or an interpolation, and normalisation statistics that fit them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from valleys.landscape.objective import Objective, count, on_device

Metric = Callable[[Any, Any], Any]
"""``(outputs, targets) -> number``, reduced over a batch's examples as the objective's loss is, by its denominator."""

Recalibrate = Iterable[tuple[Any, Any]] | Literal[False] | None
"""Batches to estimate running statistics from; False: keep those stored; None: keep them and warn."""


Evaluation = tuple[float, float | None]
"""The loss, and the metric; None without one."""


def evaluate(objective: Objective, metric: Metric | None = None) -> Evaluation:
    """Evaluate the loss and a metric, weighted as the loss is, in one pass over the batches."""
    if metric is None:
        return objective.value(), None
    loss = measured = 0.0
    with torch.no_grad():
        for inputs, targets, weight in objective.batches():
            outputs = objective.model(inputs)
            loss += weight * objective.loss(outputs, targets).double().item()
            measured += weight * float(metric(outputs, targets))
    return loss, measured


@contextmanager
def statistics(objective: Objective, recalibrate: Recalibrate) -> Iterator[Callable[[], None]]:
    """Yield a function that fits BatchNorm's running statistics to the parameters; afterwards they are as before.

    It does nothing without batches or without such modules. Each batch counts by its examples. A batch's variance is
    around its own mean, so one large batch is best.
    """
    modules = [
        module
        for module in objective.model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    if not modules or recalibrate is None or recalibrate is False:
        if modules and recalibrate is None:
            warnings.warn(
                f"the model has running statistics ({type(modules[0]).__name__}) that belong to the parameters it "
                "holds now, and not to those on the way; a barrier or a wall may come from them alone. Pass "
                "recalibrate=batches, training batches from which they are estimated at each point, or "
                "recalibrate=False to keep them on purpose",
                stacklevel=4,
            )
        yield lambda: None
        return
    batches = recalibrate

    def estimate() -> None:
        total = 0
        for module in modules:
            module.reset_running_stats()  # a NaN of the last point would outlive a momentum of 1
            module.train()
        try:
            with torch.no_grad():
                for inputs, _ in batches:
                    examples = count(inputs)
                    total += examples
                    for module in modules:
                        module.momentum = examples / total
                    objective.model(on_device(inputs, objective.device))
        finally:
            for module in modules:
                module.eval()
        if not total:
            raise ValueError("recalibrate: it holds no example; give a list of (inputs, targets), not an iterator")

    before = [
        (module, module.training, module.momentum, [buffer.clone() for buffer in module.buffers()])
        for module in modules
    ]
    try:
        yield estimate
    finally:
        for module, training, momentum, buffers in before:
            module.train(training)
            module.momentum = momentum
            for buffer, old in zip(module.buffers(), buffers, strict=True):
                buffer.copy_(old)


def grid(low: float, high: float, points: int) -> Tensor:
    """Return equally spaced numbers, float64, with both ends and the middle exact."""
    inner = [low + (high - low) * index / (points - 1) for index in range(points - 1)]
    return torch.tensor([*inner, high], dtype=torch.float64)


def columns(evaluations: Sequence[Evaluation], shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Return the losses and the metrics, float64; None for metrics that were not measured."""
    losses = torch.tensor([loss for loss, _ in evaluations], dtype=torch.float64).reshape(shape)
    metrics = [metric for _, metric in evaluations if metric is not None]
    return losses, torch.tensor(metrics, dtype=torch.float64).reshape(shape) if metrics else None
