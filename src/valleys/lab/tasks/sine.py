"""Noisy sine: the problem on which the paper shows how a large batch learns in sudden steps."""

from __future__ import annotations

import torch
from torch import nn

from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.shared.splits import SEED

__all__ = ["load"]

_NOISE = 0.1  # standard deviation; its square, 0.01, is the least mean squared error a model can have
_TRAIN = 32768
_HELD_OUT = 4096  # each of validation and test; with them the training points are 80 % of all
_WIDTH = 64


def load() -> Task:
    r"""Fit the sine from noisy points.

    .. math:: y = \sin x + 0.1\,\epsilon, \quad x \sim U(-10, 10), \quad \epsilon \sim N(0, 1)

    40,960 points, of which 32,768 (80 %) train, 10 % validate and 10 % test; an MLP with two hidden layers of 64 tanh
    units; a constant learning rate, as in the paper. The target, 0.02, is twice the variance of the noise: half of
    what is left is then no fault of the model, while a network that has not yet fitted the outer waves is far above.

    Source: Zhao et al. 2025 (arXiv 2510.27153), Appendix A, which does not state noise, width and activation.
    """
    generator = torch.Generator().manual_seed(SEED)
    count = _TRAIN + 2 * _HELD_OUT
    x = 20 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 10
    y = x.sin() + _NOISE * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    inputs, targets = (part.float().split([_TRAIN, _HELD_OUT, _HELD_OUT]) for part in (x, y))
    train, validation, test = (Split(*parts) for parts in zip(inputs, targets, strict=True))
    return Task(
        name="sine",
        train=train,
        validation=validation,
        test=test,
        build_model=_model,
        loss=nn.functional.mse_loss,
        metric=nn.functional.mse_loss,
        metric_name="mean squared error",
        maximize=False,
        resolution=0.0,
        target=2 * _NOISE**2,
        epochs=200,
        schedule=Schedule("constant"),
    )


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, 1))
