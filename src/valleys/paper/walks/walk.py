"""Walks of real optimizers on test functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.paper.walks.functions import Function

if TYPE_CHECKING:
    from valleys.lab.problem.loop import Running

__all__ = ["Walk", "starts", "walk", "walks"]

SPREAD = 0.01
"""Standard deviation of several starts, relative to the norm of the function's own."""

_EVALUATIONS = 20  # of a run of the lab


@dataclass(frozen=True)
class Walk:
    """One walk.

    Args:
        function: on which.
        points: (steps + 1, dimension), float64, the start first; NaN from the first point on that has no finite value.
        values: the function at the points, (steps + 1,).
    """

    function: Function
    points: Tensor
    values: Tensor

    @property
    def diverged(self) -> bool:
        """True if it ended because a value was not finite."""
        return bool(self.values[-1].isnan())

    @property
    def finite(self) -> int:
        """The number of points before it diverged, or of all."""
        return int(self.values.isfinite().sum())


def starts(function: Function, count: int, *, spread: float = SPREAD, seed: int = 0) -> Tensor:
    r"""Draw starts around a function's own.

    .. math:: \theta_0 = s + \sigma\, |s|\, \epsilon, \quad \epsilon \sim N(0, I)

    Raises:
        ValueError: a count or a spread out of range.

    Example:
        >>> from valleys.paper.walks.functions import FUNCTIONS
        >>> starts(FUNCTIONS["f1"], 2, spread=0.0)
        tensor([[2.3000],
                [2.3000]], dtype=torch.float64)
    """
    if count < 1:
        raise ValueError(f"count {count}: choose 1 or more starts")
    if not (spread >= 0 and math.isfinite(spread)):
        raise ValueError(f"spread {spread}: choose a finite number >= 0; 0.01 is one percent of the start's norm")
    start = torch.tensor(function.start, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(count, len(start), dtype=torch.float64, generator=generator)
    return start.expand(count, -1) + spread * float(start.norm()) * offsets


def walk(
    function: Function,
    optimizer: Callable[[list[Tensor]], Optimizer],
    *,
    steps: int,
    start: Sequence[float] | Tensor | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Walk:
    r"""Walk once.

    .. math:: \theta_k = \mathrm{step}(\theta_{k-1},\ \nabla f(\theta_{k-1}) + \sigma \epsilon_k)

    Args:
        function: on which.
        optimizer: makes it from a list of parameters, here one vector. Any ``torch.optim.Optimizer`` whose step needs
            no closure. It sees the gradient in closed form, in float64.
        steps: how many, >= 1.
        start: (dimension,). Default: the function's own.
        noise: sigma, >= 0, standard deviation of what is added to each coordinate of the gradient. Default: 0.
        seed: of the noise. Default: 0.

    Returns:
        The walk.

    Raises:
        ValueError: steps, noise or start out of range.

    Example:
        >>> from valleys.paper.walks.functions import FUNCTIONS
        >>> rosenbrock = FUNCTIONS["rosenbrock"]
        >>> descent = walk(rosenbrock, lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9), steps=2000)
        >>> descent.points.shape, round(descent.values[-1].item(), 4)
        (torch.Size([2001, 2]), 0.0)

    Source: ours.
    """
    where = function.start if start is None else start
    points = torch.as_tensor(where, dtype=torch.float64).unsqueeze(0)
    return walks(function, optimizer, steps=steps, starts=points, noise=noise, seed=seed)[0]


def walks(
    function: Function,
    optimizer: Callable[[list[Tensor]], Optimizer],
    *,
    steps: int,
    starts: Tensor,
    noise: float = 0.0,
    seed: int = 0,
    together: bool = False,
) -> tuple[Walk, ...]:
    """Walk from several starts at once, by one optimizer; much faster than one after the other.

    Args:
        function: on which.
        optimizer: as in :func:`walk`. It gets one vector per start, so that layers stay apart in LAMB and ALTO. What
            joins layers, such as clipping by the norm of all, would join the walks.
        steps: how many, >= 1.
        starts: (n, dimension).
        noise: as in :func:`walk`.
        seed: of the noise, which differs from start to start. Default: 0.
        together: the optimizer gets one tensor, (n, dimension), instead: faster still, and the same for optimizers
            that treat every coordinate by itself, such as SGD and Adam. Default: False.

    Returns:
        One walk per start.

    Raises:
        ValueError: steps, noise or starts out of range.

    Example:
        >>> from valleys.paper.walks.functions import FUNCTIONS
        >>> descents = walks(FUNCTIONS["f2"], lambda params: torch.optim.SGD(params, lr=1e-3), steps=3,
        ...                  starts=starts(FUNCTIONS["f2"], 5))
        >>> len(descents), descents[4].values.shape
        (5, torch.Size([4]))

    Source: ours.
    """
    if steps < 1:
        raise ValueError(f"steps {steps}: choose 1 or more")
    if not (noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"noise {noise}: choose a finite number >= 0; 0 is none")
    begin = torch.as_tensor(starts, dtype=torch.float64).detach()
    if begin.ndim != 2 or begin.shape[1] != function.dimension or not len(begin):
        raise ValueError(
            f"starts of shape {tuple(begin.shape)}: {function.name} needs points of {function.dimension} coordinate"
            f"{'s' if function.dimension > 1 else ''} each, (n, {function.dimension}) for n of them"
        )
    if not function.f(begin).isfinite().all():
        raise ValueError(f"starts: {function.name} is not finite at one of them; choose points inside its domain")
    generator = torch.Generator().manual_seed(seed)
    tensors = [begin.clone()] if together else list(begin.clone().unbind())
    stepper = optimizer(tensors)
    path = torch.empty(steps + 1, *begin.shape, dtype=torch.float64)
    path[0] = here = begin
    for step in range(1, steps + 1):
        gradient = function.gradient(here)
        if noise:
            gradient = gradient + noise * torch.randn(here.shape, dtype=torch.float64, generator=generator)
        for tensor, part in zip(tensors, [gradient] if together else gradient.unbind(), strict=True):
            tensor.grad = part
        stepper.step()
        here = tensors[0].clone() if together else torch.stack(tensors)
        path[step] = here
    values = function.f(path)
    diverged = (~values.isfinite()).cumsum(0) > 0  # a walk that jumps back from beyond a pole has not walked there
    path[diverged], values[diverged] = math.nan, math.nan
    return tuple(Walk(function, path[:, n].clone(), values[:, n].clone()) for n in range(len(begin)))


def descend(function: Function, running: Running) -> None:
    """Walk down a test function by a run's optimizer; the loss is the mean of its values since the last evaluation."""
    model = _Walker(function).to(running.device)
    optimizer = running.optimizer(model)
    due = {math.ceil(running.epochs * (part + 1) / _EVALUATIONS) for part in range(_EVALUATIONS)}
    values: list[Tensor] = []
    for step in range(1, running.epochs + 1):
        optimizer.zero_grad()
        value = model()
        value.backward()
        optimizer.step()
        values.append(value.detach())
        if step in due:
            with running.evaluation(), torch.no_grad():
                running.evaluated(torch.stack(values).mean().item(), model().item())
            values.clear()
    if running.test:
        running.tested(running.curve[-1].validation)


class _Walker(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        start = torch.tensor(function.start, dtype=torch.float64)
        self.f = function.f
        self.point = nn.Parameter(start + SPREAD * start.norm() * torch.randn_like(start))

    def forward(self) -> Tensor:
        value: Tensor = self.f(self.point)
        return value
