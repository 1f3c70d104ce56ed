"""Gradients of the test functions, in closed form: points of shape (..., d) to gradients of that shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["beale", "cardioid", "f1", "f2", "himmelblau", "rastrigin", "rosenbrock"]


def cardioid(point: Tensor) -> Tensor:
    r"""Of :math:`u^2`.

    .. math:: 2 u\, (4 x \rho + 4 x^2 + 2 \rho,\ 4 y \rho + 4 x y - 2 y),
        \qquad u = \rho\,(\rho + 2 x) - y^2,\ \rho = x^2 + y^2
    """
    x, y = point.unbind(-1)
    rho = x * x + y * y
    u = rho * (rho + 2 * x) - y * y
    return torch.stack([4 * u * (2 * x * (rho + x) + rho), 4 * u * y * (2 * (rho + x) - 1)], dim=-1)


def rosenbrock(point: Tensor) -> Tensor:
    r""":math:`(-2\,(1 - x) - 400\,x\,(y - x^2),\ 200\,(y - x^2))`."""
    x, y = point.unbind(-1)
    above = y - x * x
    return torch.stack([-2 * (1 - x) - 400 * x * above, 200 * above], dim=-1)


def f1(point: Tensor) -> Tensor:
    r""":math:`-(0.05 \sin^2 2x + 0.1\,x \sin 4x + 1 / (1 + x))\, f_1(x)^2`; 0 beyond the pole, where f1 is infinite."""
    inside = torch.where(point > 0, point, 1.0)
    wave = (2 * inside).sin().square()
    below = 0.05 * inside * wave + inside.log1p()
    slope = -(0.05 * wave + 0.1 * inside * (4 * inside).sin() + 1 / (1 + inside)) / below.square()
    return torch.where(point > 0, slope, torch.where(point.isnan(), point, 0.0))


def f2(point: Tensor) -> Tensor:
    r""":math:`50 x e^{-25 x^2} + 1800 \sum_\pm (x \mp 0.6)\, e^{-900 (x \mp 0.6)^2}`."""
    right, left = point - 0.6, point + 0.6
    narrow = right * (-900 * right * right).exp() + left * (-900 * left * left).exp()
    return 50 * point * (-25 * point * point).exp() + 1800 * narrow


def beale(point: Tensor) -> Tensor:
    r""":math:`2 \sum_n u_n\,(y^n - 1,\ n\,x\,y^{n-1})` with :math:`u_n = c_n - x\,(1 - y^n)`."""
    x, y = point.unbind(-1)
    parts = []
    for n, c in enumerate((1.5, 2.25, 2.625), start=1):
        u = c - x * (1 - y**n)
        parts.append(2 * u.unsqueeze(-1) * torch.stack([y**n - 1, n * x * y ** (n - 1)], dim=-1))
    return torch.stack(parts).sum(0)


def himmelblau(point: Tensor) -> Tensor:
    r""":math:`(4 x u + 2 v,\ 2 u + 4 y v)` with :math:`u = x^2 + y - 11` and :math:`v = x + y^2 - 7`."""
    x, y = point.unbind(-1)
    u, v = x * x + y - 11, x + y * y - 7
    return torch.stack([4 * x * u + 2 * v, 2 * u + 4 * y * v], dim=-1)


def rastrigin(point: Tensor) -> Tensor:
    r""":math:`2 x_i + 20 \pi \sin 2 \pi x_i`."""
    return 2 * point + 20 * math.pi * (2 * math.pi * point).sin()
