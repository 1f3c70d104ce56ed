"""Measures of a walk: its way along the valley, its lowest value, the minima that it passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.walk import Walk

__all__ = [
    "Measures",
    "arc_length",
    "covered",
    "measure",
]

RADIUS = 0.1  # around a minimum of a function of two variables
_PIECES = 8000  # of a floor, each a few times 1e-4 long


@dataclass(frozen=True)
class Measures:
    """A walk in numbers; None where the function has no valley, or no floor that is known.

    Args:
        arc: length of the walk inside the valley.
        floor: length of the valley's floor along which it came, after it had entered the valley; of a function of one
            variable the width of the range that it saw.
        lowest: the lowest value.
        visited: how many minima it reached.
        passed: how many of these it left again.
        end: the last point, before divergence if it diverged.
        value: the function there.
        diverged: whether it did.
    """

    arc: float | None
    floor: float | None
    lowest: float
    visited: int
    passed: int
    end: tuple[float, ...]
    value: float
    diverged: bool


def arc_length(points: Tensor, inside: Tensor | None = None) -> float:
    r"""Return the length of a path, or of its part inside a valley.

    .. math:: \sum_k |\theta_k - \theta_{k-1}|

    over the steps both of whose ends are inside. It counts every step, also those from wall to wall: for the way
    along a valley see :func:`covered`.

    Args:
        points: (n, d); steps from or to a point that is not finite are left out.
        inside: booleans, (n,). Default: all.

    Returns:
        The length, >= 0.

    Example:
        >>> path = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
        >>> arc_length(path), arc_length(path, torch.tensor([False, True, True]))
        (6.0, 1.0)

    Source: ours.
    """
    counted = points.isfinite().all(-1)
    if inside is not None:
        counted = counted & inside
    lengths = points.diff(dim=0).norm(dim=-1)
    return float(lengths[counted[1:] & counted[:-1]].sum())


def covered(walk: Walk) -> float | None:
    r"""Return the length of the valley's floor along which a walk came, after it had entered the valley.

    .. math:: \max_k s_k - \min_k s_k

    with the position :math:`s_k`, in length along the floor, of the floor's point that is nearest to :math:`\theta_k`;
    of steps inside the valley alone. Zigzags across the valley do not count, nor does going to and fro. On a closed
    floor the position goes on from round to round, so more than its length is possible. Of a function of one variable
    it is the width of the range that the walk saw.

    Returns:
        The length, 0 if it never entered the valley, None if no floor is known.

    Example:
        >>> path = torch.tensor([[-2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)  # from the tip to the cusp
        >>> round(covered(Walk(FUNCTIONS["cardioid"], path, torch.zeros(2))), 3)
        4.0

    Source: ours.
    """
    function = walk.function
    points = walk.points[: walk.finite]
    if function.dimension == 1:
        return float(points.max() - points.min())
    if function.floor is None:
        return None
    inside = function.inside(points)
    if not inside.any():
        return 0.0
    begin = int(inside.nonzero()[0])
    import numpy as np

    tree, lengths, closed = _floor(function.name)
    position = lengths[tree.query(points[begin:].numpy())[1]]
    if closed:
        position = np.unwrap(position, period=lengths[-1])
    return float(np.ptp(position[inside[begin:].numpy()]))


@lru_cache
def _floor(name: str) -> tuple[Any, Any, bool]:
    """Return the floor's points for look-up, the length up to each, and whether it is closed."""
    from scipy.spatial import KDTree

    floor = FUNCTIONS[name].floor
    assert floor is not None
    points = floor(torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64))
    lengths = torch.cat([torch.zeros(1), points.diff(dim=0).norm(dim=-1).cumsum(0)])
    return KDTree(points.numpy()), lengths.numpy(), bool((points[0] - points[-1]).norm() < 1e-9)


def lowest(walk: Walk) -> tuple[float, tuple[float, ...]]:
    """Return the lowest value of a walk, and the first point at which it had it.

    Example:
        >>> f2 = FUNCTIONS["f2"]
        >>> path = torch.tensor([[0.95], [0.02], [0.3]], dtype=torch.float64)
        >>> lowest(Walk(f2, path, f2.f(path)))[1]
        (0.02,)
    """
    at = int(walk.values[: walk.finite].argmin())
    return float(walk.values[at]), _point(walk.points[at])


def minima_visited(walk: Walk, radius: float = RADIUS) -> tuple[tuple[float, ...], ...]:
    """Return the minima that a walk reached, in the order of ``function.minima``; those of f1 end at 100.

    On a function of two variables a minimum is reached by a point within the radius. On one of one variable it is
    reached by going across it, or by being as near as a tenth of the radius.

    Raises:
        ValueError: a radius that is not above 0.

    Example:
        >>> f2 = FUNCTIONS["f2"]
        >>> path = torch.tensor([[0.95], [0.3], [0.02]], dtype=torch.float64)
        >>> len(minima_visited(Walk(f2, path, f2.f(path))))  # across 0.6, not yet at 0
        1
    """
    if not radius > 0:
        raise ValueError(f"radius {radius}: choose a distance above 0")
    points = walk.points[: walk.finite]
    minima = torch.tensor(walk.function.minima, dtype=torch.float64)
    if walk.function.dimension == 1:
        low, high = points.min() - radius / 10, points.max() + radius / 10
        near = ((minima >= low) & (minima <= high)).squeeze(-1)
    else:
        near = torch.cdist(minima, points).min(dim=-1).values <= radius
    return tuple(_point(point) for point in minima[near])


def where_it_ends(walk: Walk, radius: float = RADIUS) -> tuple[float, ...] | None:
    """Return the minimum at which a walk ends; None: there is none, or it diverged.

    On a function of two variables it is the nearest minimum, if it is within the radius of the last point; on one of
    one variable the minimum in whose basin the last point is.

    Example:
        >>> f2 = FUNCTIONS["f2"]
        >>> path = torch.tensor([[0.95], [0.3]], dtype=torch.float64)
        >>> where_it_ends(Walk(f2, path, f2.f(path)))
        (0.0,)
    """
    if walk.diverged:
        return None
    last = walk.points[-1:]
    minima = torch.tensor(walk.function.minima, dtype=torch.float64)
    if walk.function.dimension == 1:
        # Between two neighbouring minima there is one maximum: the slope says on which side of it a point is.
        ordered = minima.sort(dim=0).values
        right = float(walk.function.gradient(last)) <= 0
        after = int((ordered < last).sum())
        at = after if right else after - 1
        return _point(ordered[at]) if 0 <= at < len(ordered) else None
    distances = torch.cdist(minima, last).squeeze(-1)
    at = int(distances.argmin())
    return _point(minima[at]) if distances[at] <= radius else None


def minima_passed(walk: Walk, radius: float = RADIUS) -> tuple[tuple[float, ...], ...]:
    """Return the minima that a walk reached and left again: all that it visited but the one at which it ends.

    Example:
        >>> f2 = FUNCTIONS["f2"]
        >>> path = torch.tensor([[0.95], [0.3], [0.0]], dtype=torch.float64)
        >>> len(minima_passed(Walk(f2, path, f2.f(path))))
        1
    """
    end = where_it_ends(walk, radius)
    return tuple(minimum for minimum in minima_visited(walk, radius) if minimum != end)


def measure(walk: Walk, radius: float = RADIUS) -> Measures:
    """Measure a walk.

    Args:
        walk: The walk.
        radius: A minimum of a function of two variables is reached by a point that is so near. Default: 0.1.

    Returns:
        The numbers.

    Example:
        >>> from valleys.paper.walks.walk import walk
        >>> sgd = walk(FUNCTIONS["cardioid"], lambda params: torch.optim.SGD(params, lr=1e-3), steps=500)
        >>> measure(sgd).diverged, round(measure(sgd).floor, 3)
        (False, 0.001)

    Source: ours.
    """
    valley = walk.function.valley is not None
    last = walk.finite - 1
    return Measures(
        arc=arc_length(walk.points, walk.function.inside(walk.points)) if valley else None,
        floor=covered(walk),
        lowest=lowest(walk)[0],
        visited=len(minima_visited(walk, radius)),
        passed=len(minima_passed(walk, radius)),
        end=_point(walk.points[last]),
        value=float(walk.values[last]),
        diverged=walk.diverged,
    )


def _point(point: Tensor) -> tuple[float, ...]:
    return tuple(float(x) for x in point)
