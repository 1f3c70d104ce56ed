"""The straight line between two solutions, and the barrier on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.landscape.evaluation import Evaluation, Metric, Recalibrate, columns, evaluate, grid, statistics
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter
from valleys.landscape.slices.directions import checked

__all__ = ["Path1D", "interpolate"]


@dataclass(frozen=True, eq=False)
class Path1D:
    """The loss on the way from one solution (t = 0) to another (t = 1). All tensors are float64 on the CPU.

    Args:
        t: where, (points,).
        losses: (points,). Where the loss overflowed, inf or NaN stays.
        metric: a metric at the same points; None without one.
    """

    t: Tensor
    losses: Tensor
    metric: Tensor | None

    @property
    def excess(self) -> Tensor:
        """The loss above the straight line between the losses at both ends, (points,); 0 at the ends."""
        return self.losses - ((1 - self.t) * self.losses[0] + self.t * self.losses[-1])

    @property
    def barrier(self) -> float:
        """The largest excess. Never negative, as the ends take part; 0 for a convex loss. NaN if a loss is."""
        return float(self.excess.max())

    @property
    def barrier_at(self) -> float:
        """The t where the excess is largest."""
        return float(self.t[self.excess.argmax()])

    @property
    def instability(self) -> float:
        """The largest loss less the mean of the two ends', as Frankle et al. define it."""
        return float(self.losses.max() - (self.losses[0] + self.losses[-1]) / 2)


def interpolate(
    objective: Objective,
    first: Tensor | Sequence[Tensor],
    second: Tensor | Sequence[Tensor],
    points: int = 21,
    *,
    metric: Metric | None = None,
    recalibrate: Recalibrate = None,
    progress: Progress | bool | None = None,
) -> Path1D:
    r"""The loss on the straight line between two solutions.

    .. math:: f(t) = L((1 - t)\,\theta_0 + t\,\theta_1), \qquad
        \text{barrier} = \max_t \; f(t) - \big((1 - t) f(0) + t f(1)\big)

    Two solutions without a barrier are linearly connected: they lie in one basin. The maximum is taken over the points
    that were measured, so it is a lower bound of the barrier, close for 21 or more.

    Args:
        objective: the loss. Its parameters and statistics are exactly as before afterwards, also after an exception.
        first: the parameters at t = 0: a flat vector, or one tensor per parameter.
        second: those at t = 1.
        points: how many, at least 2, both ends among them.
        metric: ``(outputs, targets) -> number`` to measure as well; reduced over a batch as the loss is.
        recalibrate: ``(inputs, targets)`` batches, of the training data, from which running statistics (BatchNorm) are
            estimated anew at each point, the ends too. They cannot be interpolated: the mean of two variances is not
            the variance of the mean network. None: those the model holds now serve at every point, with a warning if
            there are any; False: without.
        progress: a function of the evaluations made and to make, or True for a counter on a terminal.

    Returns:
        The losses, with the barrier.

    Raises:
        ValueError: solutions of other shapes or not finite; too few points.

    Example:
        >>> class Well(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.x = torch.nn.Parameter(torch.zeros(1))
        ...     def forward(self, inputs):
        ...         return (self.x**2 - 1) ** 2 * inputs
        >>> objective = Objective(Well(), lambda outputs, _: outputs.mean(), [(torch.ones(1), torch.ones(1))])
        >>> path = interpolate(objective, torch.tensor([-1.0]), torch.tensor([1.0]), points=5)
        >>> path.losses, path.barrier, path.barrier_at
        (tensor([0.0000, 0.5625, 1.0000, 0.5625, 0.0000], dtype=torch.float64), 1.0, 0.5)

    Source: Goodfellow et al. 2015 (arXiv 1412.6544); Frankle et al. 2020 (arXiv 1912.05671), who subtract the mean of
    the ends (``instability``); the line in its place: Entezari et al. 2022 (arXiv 2110.06296). Statistics estimated at
    each point: Izmailov et al. 2018 (arXiv 1803.05407), for averaged weights.
    """
    start, end = checked(objective, first, "first", zero=True), checked(objective, second, "second", zero=True)
    if points < 2:
        raise ValueError(f"points {points}: choose 2 or more; 21 is usual")
    ts = grid(0.0, 1.0, points)
    evaluations: list[Evaluation] = []
    report = reporter(progress, "interpolation", "evaluations")
    with statistics(objective, recalibrate) as estimate:
        for t in ts.tolist():
            with objective.placed([torch.lerp(a, b, t) for a, b in zip(start, end, strict=True)]):
                estimate()
                evaluations.append(evaluate(objective, metric))
            report(len(evaluations), points)
    return Path1D(ts, *columns(evaluations, ts.shape))
