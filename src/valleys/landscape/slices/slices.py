"""The loss along one direction and over a plane through the parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from valleys.landscape.evaluation import Evaluation, Metric, Recalibrate, columns, evaluate, grid, statistics
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter
from valleys.landscape.slices.directions import checked, flat

__all__ = ["Slice", "project", "slice_1d", "slice_2d"]


@dataclass(frozen=True, eq=False)
class Slice:
    """A loss on a line or a plane. All tensors are float64 on the CPU.

    Args:
        x: coordinates along the first direction, (nx,).
        y: along the second, (ny,); None on a line.
        values: the losses, (nx,) on a line, (ny, nx) on a plane. Where the loss overflowed, inf or NaN stays.
        centre: the loss at the parameters themselves, coordinate 0.
        metric: a metric at the same points, of the same shape; None without one.
    """

    x: Tensor
    y: Tensor | None
    values: Tensor
    centre: float
    metric: Tensor | None

    @property
    def nonfinite(self) -> int:
        """At how many points the loss is not finite."""
        return int((~self.values.isfinite()).sum())


def slice_1d(
    objective: Objective,
    direction: Sequence[Tensor],
    span: float | tuple[float, float] = 1.0,
    points: int = 41,
    *,
    metric: Metric | None = None,
    recalibrate: Recalibrate = None,
    progress: Progress | bool | None = None,
) -> Slice:
    r"""The loss on a line through the parameters.

    .. math:: f(x) = L(\theta + x\, d)

    Args:
        objective: the loss. Its parameters are exactly as before afterwards, also after an exception.
        direction: d, one tensor per parameter: random, principal, an eigenvector, between two solutions.
        span: x from -span to span, or from the first to the second number of a pair.
        points: how many, at least 2; equally spaced. An odd number of a symmetric span includes 0.
        metric: ``(outputs, targets) -> number`` to measure as well; reduced over a batch as the loss is.
        recalibrate: ``(inputs, targets)`` batches from which running statistics (BatchNorm) are estimated anew at each
            point. None: the stored statistics serve at every point, with a warning if there are any; False: without.
        progress: a function of the evaluations made and to make, or True for a counter on a terminal.

    Returns:
        The slice.

    Raises:
        ValueError: a direction of other shapes, zero or not finite; an empty span; too few points.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
        >>> slice_1d(objective, [torch.ones(1, 1)], (-1, 1), points=3).values  # (1 + x)^2
        tensor([0., 1., 4.], dtype=torch.float64)

    Source: Goodfellow et al. 2015 (arXiv 1412.6544); Li et al. 2018 (arXiv 1712.09913).
    """
    parts = checked(objective, direction, "direction")
    xs = grid(*_span(span), _points(points))
    total = len(xs) + 1
    report = reporter(progress, "slice", "evaluations")
    evaluations: list[Evaluation] = []
    with statistics(objective, recalibrate) as estimate:
        for position in (0.0, *xs.tolist()):
            with objective.moved(parts, position):
                estimate()
                evaluations.append(evaluate(objective, metric))
            report(len(evaluations), total)
    return Slice(xs, None, *_values(evaluations, xs.shape))


def slice_2d(
    objective: Objective,
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    span: float | tuple[float, float] | tuple[tuple[float, float], tuple[float, float]] = 1.0,
    points: int | tuple[int, int] = 25,
    *,
    metric: Metric | None = None,
    recalibrate: Recalibrate = None,
    progress: Progress | bool | None = None,
) -> Slice:
    r"""The loss on a plane through the parameters.

    .. math:: f(x, y) = L(\theta + x\, d_x + y\, d_y)

    Costs points^2 passes over the batches.

    Args:
        objective: the loss. Its parameters are exactly as before afterwards, also after an exception.
        x: the first direction, one tensor per parameter.
        y: the second; it need not be orthogonal to the first, but must not be parallel.
        span: of both coordinates, as in ``slice_1d``, or a pair of pairs: x's and y's.
        points: of each coordinate, or a pair: x's and y's.
        metric: as in ``slice_1d``.
        recalibrate: as in ``slice_1d``.
        progress: a function of the evaluations made and to make, or True for a counter on a terminal.

    Returns:
        The slice, with values of shape (ny, nx).

    Raises:
        ValueError: a direction of other shapes, zero or not finite; parallel directions; an empty span; too few points.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.eye(2), torch.zeros(2, 1))])
        >>> x, y = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]
        >>> slice_2d(objective, x, y, span=((0, 2), (0, 1)), points=(3, 2)).values  # (x^2 + y^2) / 2
        tensor([[0.0000, 0.5000, 2.0000],
                [0.5000, 1.0000, 2.5000]], dtype=torch.float64)

    Source: Li et al. 2018 (arXiv 1712.09913).
    """
    across, along = checked(objective, x, "x"), checked(objective, y, "y")
    _solvable(_products([across, along]), "x and y")
    nested = isinstance(span, (tuple, list)) and isinstance(span[0], (tuple, list))
    spans: Any = span if nested else (span, span)
    counts = points if isinstance(points, tuple) else (points, points)
    xs, ys = (grid(*_span(one), _points(number)) for one, number in zip(spans, counts, strict=True))
    total = len(xs) * len(ys) + 1
    report = reporter(progress, "slice", "evaluations")
    with statistics(objective, recalibrate) as estimate:
        estimate()
        evaluations = [evaluate(objective, metric)]
        for vertical in ys.tolist():
            with objective.moved(along, vertical):
                for horizontal in xs.tolist():
                    with objective.moved(across, horizontal):
                        estimate()
                        evaluations.append(evaluate(objective, metric))
                    report(len(evaluations), total)
    return Slice(xs, ys, *_values(evaluations, (len(ys), len(xs))))


def project(
    path: Sequence[Tensor | Sequence[Tensor]],
    origin: Tensor | Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
) -> Tensor:
    r"""The coordinates of a trajectory in the plane of a slice, to be drawn on top of it.

    .. math:: c_i = \operatorname{argmin}_c \lVert \theta_i - \theta - \textstyle\sum_k c_k d_k \rVert^2

    Directions that are neither orthogonal nor of length 1 are allowed for: a path that lies in the plane is found
    exactly. What of a path does not lie in it is not seen; ``pca_directions`` says how much that is.

    Args:
        path: points, each a flat vector or one tensor per parameter.
        origin: the parameters that the slice goes through, in either form.
        directions: of the slice, each one tensor per parameter.

    Returns:
        (points, directions), float64, on the CPU.

    Raises:
        ValueError: no directions or points; points or directions of another size; parallel directions.

    Example:
        >>> x, y = [torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])]
        >>> project([torch.tensor([5.0, 3.0])], torch.zeros(2), [x, y])
        tensor([[2., 3.]], dtype=torch.float64)

    Source: Li et al. 2018 (arXiv 1712.09913), Sec. 7; least squares for oblique directions is ours.
    """
    if not path or not directions:
        raise ValueError(f"path of {len(path)} points, {len(directions)} directions: give at least one of each")
    start = flat(origin).double()
    axes = [flat(direction).double() for direction in directions]
    for name, vector in [
        *((f"directions[{i}]", axis) for i, axis in enumerate(axes)),
        *((f"path[{i}]", flat(point)) for i, point in enumerate(path)),
    ]:
        if vector.numel() != start.numel():
            raise ValueError(f"{name}: {vector.numel()} numbers; origin has {start.numel()}. Give points of one model")
    gram = _products([[axis] for axis in axes])
    _solvable(gram, "directions")
    steps = (flat(point).double() - start for point in path)
    along = torch.tensor([[float(axis @ step) for axis in axes] for step in steps], dtype=torch.float64)
    coordinates: Tensor = torch.linalg.solve(gram, along.T)
    return coordinates.T.contiguous()


def _products(directions: Sequence[Sequence[Tensor]]) -> Tensor:
    def product(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
        return sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))

    return torch.tensor([[product(one, other) for other in directions] for one in directions], dtype=torch.float64)


def _solvable(gram: Tensor, name: str) -> None:
    lengths = gram.diagonal().sqrt()
    if not bool((lengths > 0).all()):
        raise ValueError(f"{name}: one is zero everywhere; give directions that move something")
    if float(torch.linalg.eigvalsh(gram / torch.outer(lengths, lengths))[0]) < 1e-10:
        raise ValueError(f"{name}: they are parallel, so coordinates are not unique; give independent directions")


def _span(span: float | tuple[float, float]) -> tuple[float, float]:
    low, high = (float(x) for x in span) if isinstance(span, (tuple, list)) else (-float(span), float(span))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"span {span}: give a positive number, or a pair of finite numbers, the smaller one first")
    return low, high


def _points(points: int) -> int:
    if points < 2:
        raise ValueError(f"points {points}: choose 2 or more; 41 on a line and 25 on each side of a plane are usual")
    return points


def _values(evaluations: Sequence[Evaluation], shape: tuple[int, ...]) -> tuple[Tensor, float, Tensor | None]:
    """Return values, centre and metric from the evaluations at the centre and then at every point, row by row."""
    losses, metric = columns(evaluations[1:], shape)
    return losses, evaluations[0][0], metric
