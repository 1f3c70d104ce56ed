"""Test functions of one or two variables, on which one can see where an optimizer stops and where it goes on.

Each takes points of shape (..., dimension) to values of shape (...), its gradient to gradients of the points' shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FUNCTIONS", "Function"]


@dataclass(frozen=True)
class Function:
    r"""A test function.

    A point is inside the valley, if the function has one, where :math:`f(x) \le` ``valley``: one rule for all.

    Args:
        name: what it is called.
        f: points of shape (..., dimension) to values of shape (...), in the points' dtype.
        gradient: points of shape (..., dimension) to gradients of that shape, in closed form.
        start: where descents begin.
        minima: its local minima, of f1's those below 100, and of a valley whose whole floor is minimal some points;
            numerical to double precision where they have no closed form.
        bounds: a window that shows it, (low, high) for each coordinate.
        valley: the value up to which a point is in the valley; None: it has no valley, or is of one variable.
        floor: the valley's floor, t in [0, 1] of shape (n,) to points (n, dimension); closed if both ends are one
            point. None: unknown.
    """

    name: str
    f: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    minima: tuple[tuple[float, ...], ...]
    bounds: tuple[tuple[float, float], ...]
    valley: float | None = None
    floor: Callable[[Tensor], Tensor] | None = None

    @property
    def dimension(self) -> int:
        """The number of variables."""
        return len(self.start)

    def inside(self, points: Tensor) -> Tensor:
        """Tell which points, (..., dimension), are in the valley.

        Raises:
            ValueError: the function has no valley.

        Example:
            >>> FUNCTIONS["cardioid"].inside(torch.tensor([[-2.0, 0.0], [1.0, 0.0]]))
            tensor([ True, False])
        """
        if self.valley is None:
            have = ", ".join(name for name, function in FUNCTIONS.items() if function.valley is not None)
            raise ValueError(f"function {self.name!r}: it has no valley; those that have one: {have}")
        return self.f(points) <= self.valley


def cardioid(point: Tensor) -> Tensor:
    r"""The square of a cardioid's equation: a closed valley on whose whole floor the value is zero.

    .. math:: f(x, y) = \left( (x^2 + y^2 + x)^2 - (x^2 + y^2) \right)^2

    The floor is the curve r = 1 - cos(phi), from its cusp at the origin to (-2, 0). Evaluated as
    :math:`(\rho\,(\rho + 2 x) - y^2)^2,\ \rho = x^2 + y^2`, whose terms near the cusp are as small as their difference
    allows.

    Example:
        >>> cardioid(torch.tensor([[-2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        tensor([0., 0., 9.])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 1, calls it "(cardioid)^2"; the size, 1, and the cusp at the
    origin are ours.
    """
    x, y = point.unbind(-1)
    rho = x * x + y * y
    return (rho * (rho + 2 * x) - y * y).square()


def _cardioid_gradient(point: Tensor) -> Tensor:
    r"""Return the gradient.

    .. math:: 2 u\, (4 x \rho + 4 x^2 + 2 \rho,\ 4 y \rho + 4 x y - 2 y),
        \qquad u = \rho\,(\rho + 2 x) - y^2,\ \rho = x^2 + y^2
    """
    x, y = point.unbind(-1)
    rho = x * x + y * y
    u = rho * (rho + 2 * x) - y * y
    return torch.stack([4 * u * (2 * x * (rho + x) + rho), 4 * u * y * (2 * (rho + x) - 1)], dim=-1)


def rosenbrock(point: Tensor) -> Tensor:
    r"""Rosenbrock's function: a bent valley whose floor falls very slowly to the one minimum, at (1, 1).

    .. math:: f(x, y) = (1 - x)^2 + 100\,(y - x^2)^2

    Example:
        >>> rosenbrock(torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
        tensor([  0.,   1., 104.])

    Source: Rosenbrock 1960, An automatic method for finding the greatest or least value of a function.
    """
    x, y = point.unbind(-1)
    return (1 - x).square() + 100 * (y - x * x).square()


def _rosenbrock_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`(-2\,(1 - x) - 400\,x\,(y - x^2),\ 200\,(y - x^2))`."""
    x, y = point.unbind(-1)
    above = y - x * x
    return torch.stack([-2 * (1 - x) - 400 * x * above, 200 * above], dim=-1)


def f1(point: Tensor) -> Tensor:
    r"""Minima without end, each lower than the one before and behind a higher barrier.

    .. math:: f_1(x) = \frac{1}{0.05\, x \sin^2 2x + \ln(x + 1)}, \qquad x > 0

    At x = 0 it has a pole, and beyond it no meaning: there its value is infinite, so that a jump across the pole is not
    taken for progress.

    Example:
        >>> f1(torch.tensor([[torch.pi], [-0.5]]))
        tensor([0.7037,    inf])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 8.
    """
    x = point.squeeze(-1)
    inside = torch.where(x > 0, x, 1.0)  # autograd visits both branches: the one not taken must be finite
    values = 1 / (0.05 * inside * (2 * inside).sin().square() + inside.log1p())
    return torch.where(x > 0, values, torch.where(x.isnan(), x, torch.inf))


def _f1_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`-(0.05 \sin^2 2x + 0.1\,x \sin 4x + 1 / (1 + x))\, f_1(x)^2`; 0 beyond the pole."""
    inside = torch.where(point > 0, point, 1.0)
    wave = (2 * inside).sin().square()
    below = 0.05 * inside * wave + inside.log1p()
    slope = -(0.05 * wave + 0.1 * inside * (4 * inside).sin() + 1 / (1 + inside)) / below.square()
    return torch.where(point > 0, slope, torch.where(point.isnan(), point, 0.0))


def f2(point: Tensor) -> Tensor:
    r"""A wide minimum, at 0, between two that are as deep and a sixth as wide, at 0.6 and -0.6.

    .. math:: f_2(x) = 1 - e^{-900 (x - 0.6)^2} - e^{-900 (x + 0.6)^2} - e^{-25 x^2}

    Evaluated as :math:`-\mathrm{expm1}(-25 x^2) - \ldots`, which keeps its digits near 0. The narrow minima are lower
    by 1.2e-4, the tail of the wide one.

    Example:
        >>> f2(torch.tensor([[0.6], [0.3]], dtype=torch.float64))
        tensor([-1.2341e-04,  8.9460e-01], dtype=torch.float64)

    Source: Zhao et al. 2025 (arXiv 2510.27153), Fig. 8.
    """
    x = point.squeeze(-1)
    narrow = (-900 * (x - 0.6).square()).exp() + (-900 * (x + 0.6).square()).exp()
    return -(-25 * x * x).expm1() - narrow


def _f2_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`50 x e^{-25 x^2} + 1800 \sum_\pm (x \mp 0.6)\, e^{-900 (x \mp 0.6)^2}`."""
    right, left = point - 0.6, point + 0.6
    narrow = right * (-900 * right * right).exp() + left * (-900 * left * left).exp()
    return 50 * point * (-25 * point * point).exp() + 1800 * narrow


def beale(point: Tensor) -> Tensor:
    r"""Beale's function: a flat, curved valley with one minimum, at (3, 0.5), and steep walls.

    .. math:: f(x, y) = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2

    Example:
        >>> beale(torch.tensor([[3.0, 0.5], [0.0, 0.0]]))
        tensor([ 0.0000, 14.2031])

    Source: Beale 1958, On an iterative method for finding a local minimum of a function of more than one variable.
    """
    x, y = point.unbind(-1)
    return sum(((c - x * (1 - y**n)).square() for n, c in enumerate((1.5, 2.25, 2.625), start=1)), torch.zeros_like(x))


def _beale_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`2 \sum_n u_n\,(y^n - 1,\ n\,x\,y^{n-1})` with :math:`u_n = c_n - x\,(1 - y^n)`."""
    x, y = point.unbind(-1)
    parts = []
    for n, c in enumerate((1.5, 2.25, 2.625), start=1):
        u = c - x * (1 - y**n)
        parts.append(2 * u.unsqueeze(-1) * torch.stack([y**n - 1, n * x * y ** (n - 1)], dim=-1))
    return torch.stack(parts).sum(0)


def himmelblau(point: Tensor) -> Tensor:
    r"""Himmelblau's function: four minima, all zero, around one hill.

    .. math:: f(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2

    Example:
        >>> himmelblau(torch.tensor([[3.0, 2.0], [0.0, 0.0]]))
        tensor([  0., 170.])

    Source: Himmelblau 1972, Applied nonlinear programming.
    """
    x, y = point.unbind(-1)
    return (x * x + y - 11).square() + (x + y * y - 7).square()


def _himmelblau_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`(4 x u + 2 v,\ 2 u + 4 y v)` with :math:`u = x^2 + y - 11` and :math:`v = x + y^2 - 7`."""
    x, y = point.unbind(-1)
    u, v = x * x + y - 11, x + y * y - 7
    return torch.stack([4 * x * u + 2 * v, 2 * u + 4 * y * v], dim=-1)


def rastrigin(point: Tensor) -> Tensor:
    r"""Rastrigin's function: a bowl full of minima, one near every point of whole numbers.

    .. math:: f(x) = \sum_i x_i^2 + 10\,(1 - \cos 2 \pi x_i) = \sum_i x_i^2 + 20 \sin^2 \pi x_i

    The second form keeps its digits near 0.

    Example:
        >>> rastrigin(torch.tensor([[0.0, 0.0], [0.5, 1.0]], dtype=torch.float64))
        tensor([ 0.0000, 21.2500], dtype=torch.float64)

    Source: Rastrigin 1974, Systems of extremal control; Muhlenbein, Schomisch and Born 1991 for any dimension.
    """
    return (point * point + 20 * (math.pi * point).sin().square()).sum(-1)


def _rastrigin_gradient(point: Tensor) -> Tensor:
    r"""Return :math:`2 x_i + 20 \pi \sin 2 \pi x_i`."""
    return 2 * point + 20 * math.pi * (2 * math.pi * point).sin()


def _cardioid_floor(t: Tensor) -> Tensor:
    # Half of the angle: r = 1 - cos(phi) = 2 sin^2(phi / 2), whose length from the cusp is 4 (1 - cos(phi / 2)).
    half = (1 - 2 * t).acos()
    r, phi = 2 * half.sin().square(), 2 * half
    return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


def _rosenbrock_floor(t: Tensor) -> Tensor:
    x = 4 * t - 2
    return torch.stack([x, x * x], dim=-1)


def _newton(x: float, step: Callable[[float], float]) -> float:
    for _ in range(20):
        x -= step(x)
    return x


def _f1_minima(end: float) -> tuple[tuple[float, ...], ...]:
    """Return the maxima of the denominator below ``end``, one a little above each pi/4 + k pi/2 from k = 2 on."""

    def step(x: float) -> float:
        slope = 0.05 * math.sin(2 * x) ** 2 + 0.1 * x * math.sin(4 * x) + 1 / (1 + x)
        return slope / (0.2 * math.sin(4 * x) + 0.4 * x * math.cos(4 * x) - 1 / (1 + x) ** 2)

    minima = (_newton(math.pi / 4 + k * math.pi / 2, step) for k in range(2, math.ceil(2 * end / math.pi)))
    return tuple((x,) for x in minima if x < end)


def _rastrigin_minima(reach: int) -> tuple[tuple[float, ...], ...]:
    """Return all near whole numbers of at most ``reach``, the lowest first."""

    def step(x: float) -> float:
        return (x + 10 * math.pi * math.sin(2 * math.pi * x)) / (1 + 20 * math.pi**2 * math.cos(2 * math.pi * x))

    line = [_newton(float(number), step) for number in range(-reach, reach + 1)]
    return tuple(sorted(((x, y) for x in line for y in line), key=lambda point: point[0] ** 2 + point[1] ** 2))


FUNCTIONS = {
    function.name: function
    for function in (
        Function(
            name="cardioid",
            f=cardioid,
            gradient=_cardioid_gradient,
            start=(0.5, 1.0),
            minima=((-2.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.0, 0.0)),
            bounds=((-2.6, 1.2), (-1.9, 1.9)),
            valley=0.01,
            floor=_cardioid_floor,
        ),
        Function(
            name="rosenbrock",
            f=rosenbrock,
            gradient=_rosenbrock_gradient,
            start=(-1.2, 1.0),
            minima=((1.0, 1.0),),
            bounds=((-2.0, 2.0), (-1.0, 3.0)),
            valley=5.0,
            floor=_rosenbrock_floor,
        ),
        Function(
            name="f1",
            f=f1,
            gradient=_f1_gradient,
            start=(2.3,),
            minima=_f1_minima(100.0),
            bounds=((0.5, 12.0),),
        ),
        Function(
            name="f2",
            f=f2,
            gradient=_f2_gradient,
            start=(0.95,),
            minima=((-0.5999979430500482,), (0.0,), (0.5999979430500482,)),
            bounds=((-1.1, 1.1),),
        ),
        Function(
            name="beale",
            f=beale,
            gradient=_beale_gradient,
            start=(1.0, 1.5),
            minima=((3.0, 0.5),),
            bounds=((-4.5, 4.5), (-2.0, 2.0)),
            valley=1.0,
        ),
        Function(
            name="himmelblau",
            f=himmelblau,
            gradient=_himmelblau_gradient,
            start=(-0.5, -5.0),
            minima=(
                (3.0, 2.0),
                (-2.805118086952745, 3.131312518250573),
                (-3.779310253377747, -3.283185991286170),
                (3.584428340330492, -1.848126526964404),
            ),
            bounds=((-5.5, 5.5), (-5.5, 5.5)),
        ),
        Function(
            name="rastrigin",
            f=rastrigin,
            gradient=_rastrigin_gradient,
            start=(4.2, 3.3),
            minima=_rastrigin_minima(5),
            bounds=((-5.12, 5.12), (-5.12, 5.12)),
        ),
    )
}
"""The functions by name. The starts of f1 and f2 are the paper's, Rosenbrock's is his, the others are ours, as are the
levels up to which a point is in a valley: low enough that the start is outside, high enough that the whole floor from
there to the minimum is inside."""
