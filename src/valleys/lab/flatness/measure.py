"""The flatness of one trained model, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from valleys.lab.errors import LabError, unknown
from valleys.lab.problem.data import Batch, Split, Stream, count
from valleys.lab.problem.task import Task
from valleys.landscape.objective import Objective

__all__ = ["EXAMPLES", "MEASURES", "measure"]

EXAMPLES = 1024
"""Training examples whose loss is measured."""
_CHUNK = 256  # examples that a pass takes at most at a time
# Radius of the l2 ball, of the adaptive one, and the standard deviation of the average.
_RHO, _ADAPTIVE_RHO, _SIGMA = 0.05, 0.5, 0.05
_MATVECS, _PAIRS, _STEPS = 50, 20, 20

MEASURES = {
    "top_eigenvalue": "top Hessian eigenvalue",
    "trace": "Hessian trace",
    "sharpness": f"sharpness (l2, {_RHO:g})",
    "adaptive_sharpness": f"adaptive sharpness ({_ADAPTIVE_RHO:g})",
    "average_sharpness": f"average adaptive sharpness ({_SIGMA:g})",
    "train_loss": "train loss",
    "gap": "test minus train loss",
    "drift": "distance from the start",
}
"""The measures, with their names in tables. Of all but the last three, smaller is flatter."""


def measure(
    task: Task,
    model: nn.Module,
    start: nn.Module,
    *,
    examples: int = EXAMPLES,
    device: torch.device | str = "cpu",
    seed: int = 0,
    measures: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    r"""Measure flatness where a trained model lies.

    .. math:: \lambda_{\max}(H),\; \operatorname{tr} H,\; \max_{|\delta| \le \rho} L(\theta + \delta) - L(\theta),\;
        \operatorname{E}_\delta L(\theta + \delta) - L(\theta),\; L_\text{test} - L_\text{train},\; |\theta - \theta_0|

    L is the task's own loss over evenly spaced training examples, without augmentation, the model in evaluation mode
    (no dropout, running statistics) and in its own precision; so all models of a task are measured on the same function
    of their parameters. The sharpness reached by ascent is a lower bound. Adaptive measures do not change when a ReLU
    network is rescaled without computing anything else; the others do.

    Args:
        task: what was learnt.
        model: the trained model, put into evaluation mode here and left where it was.
        start: the same model before its training.
        examples: training examples of the loss, at least 1; at most those of the split.
        device: where to.
        seed: of what is random about the measures: the same points for all models.
        measures: which; default: all of ``MEASURES``.
        progress: called with (measures made, measures in all).

    Returns:
        The values by the names of ``MEASURES``, with ``top_eigenvalue_error`` (the residual, which bounds the distance
        to an exact eigenvalue), ``trace_error`` and ``average_sharpness_error`` (standard errors), and ``test_loss``.

    Raises:
        LabError: an unknown measure.

    Source: Hochreiter & Schmidhuber 1997 and Keskar et al. 2017 (flatness); Foret et al. 2021, Kwon et al. 2021,
    Andriushchenko et al. 2023 (sharpness).
    """
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        objective = Objective(model, task.loss, Spaced(task.train, examples, device), denominator=count)
        setup = _Setup(task, objective, model, start, device, seed)
        values: dict[str, float] = {}
        for number, name in enumerate(chosen(measures), 1):
            values |= _FUNCTIONS[name](setup)
            if progress is not None:
                progress(number, len(chosen(measures)))
    finally:
        model.train(training)
    return values


def chosen(measures: Collection[str] | None) -> list[str]:
    """Return the measures to make (None: all), in the order of the tables.

    Example:
        >>> chosen(["drift", "trace"])
        ['trace', 'drift']
    """
    if measures is None:
        return list(MEASURES)
    for name in measures:
        if name not in MEASURES:
            raise unknown("measure", name, list(MEASURES))
    if not measures:
        raise LabError(f"measures: none is named; choose from {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in measures]


@dataclass(frozen=True)
class _Setup:
    task: Task
    objective: Objective
    model: nn.Module
    start: nn.Module
    device: torch.device
    seed: int


def _top_eigenvalue(setup: _Setup) -> dict[str, float]:
    from valleys.landscape.curvature.spectrum import eigenvalues

    result = eigenvalues(setup.objective, 1, seed=setup.seed)
    return {"top_eigenvalue": float(result.values[0]), "top_eigenvalue_error": float(result.residuals[0])}


def _trace(setup: _Setup) -> dict[str, float]:
    from valleys.landscape.curvature.trace import trace

    result = trace(setup.objective, matvecs=_MATVECS, seed=setup.seed)
    return {"trace": result.value, "trace_error": result.standard_error}


def _sharpness(setup: _Setup, adaptive: bool = False) -> dict[str, float]:
    from valleys.landscape.sharpness.worst_case import sharpness

    name, rho = ("adaptive_sharpness", _ADAPTIVE_RHO) if adaptive else ("sharpness", _RHO)
    return {name: sharpness(setup.objective, rho, adaptive=adaptive, steps=_STEPS, seed=setup.seed).value}


def _average_sharpness(setup: _Setup) -> dict[str, float]:
    from valleys.landscape.sharpness.average import average_sharpness

    result = average_sharpness(setup.objective, _SIGMA, adaptive=True, samples=_PAIRS, seed=setup.seed)
    return {"average_sharpness": result.value, "average_sharpness_error": result.standard_error}


def _gap(setup: _Setup) -> dict[str, float]:
    from valleys.landscape.sharpness.generalization import gap

    test = setup.task.test
    held_out = Objective(setup.model, setup.task.loss, Spaced(test, len(test), setup.device), check=False)
    result = gap(setup.objective, held_out)
    return {"test_loss": result.test, "gap": result.value}


def _drift(setup: _Setup) -> dict[str, float]:
    total = torch.zeros((), dtype=torch.float64)
    ends = dict(setup.model.named_parameters())
    for name, begin in setup.start.named_parameters():
        if ends[name].requires_grad:
            total += (ends[name].detach().double() - begin.detach().to(ends[name].device).double()).square().sum().cpu()
    return {"drift": float(total.sqrt())}


_FUNCTIONS: dict[str, Callable[[_Setup], dict[str, float]]] = {
    "top_eigenvalue": _top_eigenvalue,
    "trace": _trace,
    "sharpness": _sharpness,
    "adaptive_sharpness": partial(_sharpness, adaptive=True),
    "average_sharpness": _average_sharpness,
    "train_loss": lambda setup: {"train_loss": setup.objective.value()},
    "gap": _gap,
    "drift": _drift,
}


@dataclass(frozen=True)
class Spaced:
    """Evenly spaced examples of a split, read anew each time, so that a large split need not fit into memory."""

    split: Split | Stream
    examples: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        size = min(self.examples, len(self.split))
        spaced = (torch.arange(size) * len(self.split)) // size
        # Chunks of equal size: batch normalisation has no variance over a last one of a single example.
        return self.split.reader(self.device).read(spaced.tensor_split(-(-size // _CHUNK)))
