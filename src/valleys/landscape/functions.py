"""Test functions of one or two variables, on which one can see where an optimizer stops and where it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FUNCTIONS", "Function", "cardioid", "f1", "f2", "rosenbrock"]


@dataclass(frozen=True)
class Function:
    """A test function.

    Args:
        name: what it is called.
        f: points of shape (..., dimension) to values of shape (...), in the points' dtype.
        start: where descents begin.
        minima: its local minima, the first three of f1's, and of a valley whose whole floor is minimal some points;
            numerical to double precision where they have no closed form.
        source: where it comes from.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    minima: tuple[tuple[float, ...], ...]
    source: str


def cardioid(point: Tensor) -> Tensor:
    r"""The square of a cardioid's equation: a closed valley on whose whole floor the value is zero.

    .. math:: f(x, y) = \left( (x^2 + y^2 + x)^2 - (x^2 + y^2) \right)^2

    The floor is the curve r = 1 - cos(phi), from its cusp at the origin to (-2, 0). Evaluated as
    :math:`(\rho\,(\rho + 2 x) - y^2)^2,\ \rho = x^2 + y^2`, whose terms near the cusp are as small as their difference
    allows.

    Args:
        point: (..., 2).

    Returns:
        Values, (...).

    Example:
        >>> cardioid(torch.tensor([[-2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        tensor([0., 0., 9.])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 1, calls it "(cardioid)^2"; the size, 1, and the cusp at the
    origin are ours.
    """
    x, y = point.unbind(-1)
    rho = x * x + y * y
    return (rho * (rho + 2 * x) - y * y).square()


def rosenbrock(point: Tensor) -> Tensor:
    r"""Rosenbrock's function: a bent valley whose floor falls very slowly to the one minimum, at (1, 1).

    .. math:: f(x, y) = (1 - x)^2 + 100\,(y - x^2)^2

    Args:
        point: (..., 2).

    Returns:
        Values, (...).

    Example:
        >>> rosenbrock(torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
        tensor([  0.,   1., 104.])

    Source: Rosenbrock 1960, An automatic method for finding the greatest or least value of a function.
    """
    x, y = point.unbind(-1)
    return (1 - x).square() + 100 * (y - x * x).square()


def f1(point: Tensor) -> Tensor:
    r"""Minima without end, each lower than the one before and behind a higher barrier.

    .. math:: f_1(x) = \frac{1}{0.05\, x \sin^2 2x + \ln(x + 1)}, \qquad x > 0

    At x = 0 it has a pole, and beyond it no meaning: there its value is infinite, so that a jump across the pole is not
    taken for progress.

    Args:
        point: (..., 1).

    Returns:
        Values, (...).

    Example:
        >>> f1(torch.tensor([[torch.pi], [-0.5]]))
        tensor([0.7037,    inf])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 8.
    """
    x = point.squeeze(-1)
    inside = torch.where(x > 0, x, 1.0)  # autograd visits both branches: the one not taken must be finite
    values = 1 / (0.05 * inside * (2 * inside).sin().square() + inside.log1p())
    return torch.where(x > 0, values, torch.where(x.isnan(), x, torch.inf))


def f2(point: Tensor) -> Tensor:
    r"""A wide minimum, at 0, between two that are as deep and a sixth as wide, at 0.6 and -0.6.

    .. math:: f_2(x) = 1 - e^{-900 (x - 0.6)^2} - e^{-900 (x + 0.6)^2} - e^{-25 x^2}

    Evaluated as :math:`-\mathrm{expm1}(-25 x^2) - \ldots`, which keeps its digits near 0. The narrow minima are lower
    by 1.2e-4, the tail of the wide one.

    Args:
        point: (..., 1).

    Returns:
        Values, (...).

    Example:
        >>> f2(torch.tensor([[0.6], [0.3]], dtype=torch.float64))
        tensor([-1.2341e-04,  8.9460e-01], dtype=torch.float64)

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 8.
    """
    x = point.squeeze(-1)
    narrow = (-900 * (x - 0.6).square()).exp() + (-900 * (x + 0.6).square()).exp()
    return -(-25 * x * x).expm1() - narrow


_PAPER = "Zhao et al. 2025 (arXiv 2510.27153)"

FUNCTIONS = {
    function.name: function
    for function in (
        Function("cardioid", cardioid, (0.5, 1.0), ((-2.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.0, 0.0)), _PAPER),
        Function("rosenbrock", rosenbrock, (-1.2, 1.0), ((1.0, 1.0),), "Rosenbrock 1960"),
        Function("f1", f1, (2.3,), ((4.085332314326505,), (5.589321248828754,), (7.12959273103164,)), _PAPER),
        Function("f2", f2, (0.95,), ((-0.5999979430500482,), (0.0,), (0.5999979430500482,)), _PAPER),
    )
}
"""The functions by name. The starts of the first two are ours, those of f1 and f2 the paper's."""
