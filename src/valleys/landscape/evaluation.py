"""What slices and interpolations share: loss and metric at a point, and normalisation statistics that fit it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from valleys.landscape.objective import Objective, count, on_device

__all__ = ["Metric", "Progress", "Recalibrate", "evaluate", "grid", "placed", "statistics"]

Metric = Callable[[Any, Any], Any]
"""``(outputs, targets) -> number``, reduced over a batch's examples as the objective's loss is."""

Progress = Callable[[int, int], None]
"""Told how many evaluations are made and how many there will be."""

Recalibrate = Iterable[tuple[Any, Any]] | Literal[False] | None
"""Batches to estimate running statistics from; False: keep those stored; None: keep them and warn."""


def evaluate(objective: Objective, metric: Metric | None = None) -> tuple[float, float | None]:
    """The loss and a metric, from one pass over the batches.

    Args:
        objective: at the parameters where to measure.
        metric: weighted over the batches as the loss is.

    Returns:
        The loss, and the metric; None without one.
    """
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
def placed(objective: Objective, point: Sequence[Tensor]) -> Iterator[None]:
    """Within the context the parameters are exactly at a point; afterwards exactly where they were.

    Args:
        objective: whose parameters.
        point: one tensor per parameter, of its shape.

    Yields:
        Nothing.
    """
    before = [parameter.detach().clone() for parameter in objective.parameters]
    try:
        with torch.no_grad():
            for parameter, value in zip(objective.parameters, point, strict=True):
                parameter.copy_(value)
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(objective.parameters, before, strict=True):
                parameter.copy_(old)


@contextmanager
def statistics(objective: Objective, recalibrate: Recalibrate) -> Iterator[Callable[[], None]]:
    """Give what fits the running statistics to the present parameters; afterwards they are exactly as before.

    Each batch counts by its examples. A batch's variance is around its own mean, so one large batch is best.

    Args:
        objective: whose model's modules with running statistics (BatchNorm) are meant.
        recalibrate: see ``Recalibrate``.

    Yields:
        A function to call at every point; it does nothing without batches or without such modules.
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
        seen = 0
        for module in modules:
            module.reset_running_stats()  # a NaN of the last point would outlive a momentum of 1
            module.train()
        try:
            with torch.no_grad():
                for inputs, _ in batches:
                    examples = count(inputs)
                    seen += examples
                    for module in modules:
                        module.momentum = examples / seen
                    objective.model(on_device(inputs, objective.device))
        finally:
            for module in modules:
                module.eval()
        if not seen:
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
    """Equally spaced numbers, float64, with both ends and the middle exact.

    Args:
        low: the first.
        high: the last.
        points: how many, at least 2.

    Returns:
        (points,).
    """
    inner = [low + (high - low) * index / (points - 1) for index in range(points - 1)]
    return torch.tensor([*inner, high], dtype=torch.float64)
