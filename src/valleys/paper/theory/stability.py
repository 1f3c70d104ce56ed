r"""Stability of E-adapted momentum on a quadratic, and the meaning of the paper's bound.

On a loss of curvature h the gradient is h theta and Alg. 3 (ESGD) is linear. With x = lr h and c = alpha (1 - beta1):

.. math::
    m &\leftarrow \beta_2 m + (1-d) [(1+c)\,\theta - c s], \quad \theta \leftarrow \theta - x m, \quad
    s \leftarrow \beta_1 s + (1-\beta_1)\,\theta

in units of h for m and s, which leaves x, c, beta1, beta2 and the dampening d as the only numbers. Its characteristic
polynomial is, with x scaled by 1 - d,

.. math:: (z-1)(z-\beta_1)(z-\beta_2) + x z\,[(1+c) z - (\beta_1 + c)].

Of Jury's conditions for a cubic two can fail, and both are linear in x. Hence the stable x are one interval (0, limit),
for **every** alpha. ``docs/analysis.md`` has the derivation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valleys.paper.theory.checks import Floats, decay, real

__all__ = [
    "continuous_limit",
    "frequency_response",
    "largest_stable_lr",
    "spectral_radius",
    "widest",
]


class Widest(NamedTuple):
    """The alpha with the largest stable learning rate."""

    alpha: float
    limit: float  # its largest stable lr, times the curvature


def iteration_matrix(
    x: ArrayLike, alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike = 0.0
) -> Floats:
    r"""Return the matrix that takes (theta, m, s) from one step of E-adapted momentum to the next, on a quadratic.

    .. math::
        \begin{pmatrix} 1 - x d' (1+c) & -x \beta_2 & x d' c \\ d'(1+c) & \beta_2 & -d' c \\ 1-\beta_1 & 0 & \beta_1
        \end{pmatrix}, \qquad d' = 1 - d,\; c = \alpha (1-\beta_1)

    with m and s in units of the curvature (``reference.esgd``'s m and s divided by h). x is the learning rate times the
    curvature, d the dampening of PyTorch's SGD (Alg. 3: 0); the shape is (..., 3, 3).

    Example:
        >>> iteration_matrix(0.5, alpha=0.0, beta1=0.0, beta2=0.0)
        array([[ 0.5, -0. ,  0. ],
               [ 1. ,  0. , -0. ],
               [ 1. ,  0. ,  0. ]])

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 3; the matrix is ours.
    """
    x = real("x", x, -np.inf, np.inf, "it is the learning rate times a curvature")
    c, b1, b2, damp = _symbols(alpha, beta1, beta2, dampening)
    keep = 1 - damp
    shape = np.broadcast_shapes(x.shape, c.shape, b2.shape, keep.shape)
    matrix = np.zeros((*shape, 3, 3))
    matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2] = keep * (1 + c), b2, -keep * c
    matrix[..., 0, :] = -x[..., None] * matrix[..., 1, :]
    matrix[..., 0, 0] += 1
    matrix[..., 2, 0], matrix[..., 2, 2] = 1 - b1, b1
    return matrix


def spectral_radius(
    x: ArrayLike, alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike = 0.0
) -> Floats:
    """Return the largest absolute eigenvalue of ``iteration_matrix``: below 1 is stable.

    Args:
        x: learning rate times curvature.
        alpha: strength of E.
        beta1: decay of E's memory, in [0, 1).
        beta2: decay of the momentum, in [0, 1).
        dampening: in [0, 1). Default: 0.

    Returns:
        What the arguments broadcast to.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> spectral_radius([0.5, 1.9, 2.1], alpha=0.0, beta1=0.0, beta2=0.0).round(3)  # descent: |1 - x|
        array([0.5, 0.9, 1.1])

    Source: ours.
    """
    eigenvalues = np.linalg.eigvals(iteration_matrix(x, alpha, beta1, beta2, dampening))
    radius: Floats = np.abs(eigenvalues).max(axis=-1)
    return radius


def flip_limit(alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike = 0.0) -> Floats:
    r"""Return the lr times curvature at which an eigenvalue leaves through -1: the sign flips at every step.

    .. math:: x < \frac{2 (1+\beta_1)(1+\beta_2)}{(1-d)(1 + \beta_1 + 2c)} \quad\text{if } 1+\beta_1+2c > 0,
        \text{ else } \infty

    Example:
        >>> flip_limit([0.0, -5.0, -50.0, -90.0], beta1=0.99, beta2=0.9).round(2)
        array([ 3.8 ,  4.  ,  7.64, 39.8 ])

    Source: Jury's conditions; ours.
    """
    c, b1, b2, damp = _symbols(alpha, beta1, beta2, dampening)
    return _bound(2 * (1 + b1) * (1 + b2), (1 - damp) * (1 + b1 + 2 * c))


def rotation_limit(alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike = 0.0) -> Floats:
    r"""Return the lr times curvature at which a complex pair leaves the unit circle: growing swings.

    .. math:: x < \frac{(1-\beta_1\beta_2)(1-\beta_1)(1-\beta_2)}{(1-d)\,[-c (1-\beta_1\beta_2) - \beta_1(1-\beta_2)]}
        \quad\text{if } c < -\frac{\beta_1(1-\beta_2)}{1-\beta_1\beta_2}, \text{ else } \infty

    Example:
        >>> rotation_limit([-90.0, -95.0], beta1=0.99, beta2=0.9).round(4)
        array([   inf, 0.024])

    Source: Jury's conditions; ours.
    """
    c, b1, b2, damp = _symbols(alpha, beta1, beta2, dampening)
    both = 1 - b1 * b2
    return _bound(both * (1 - b1) * (1 - b2), (1 - damp) * (-c * both - b1 * (1 - b2)))


def largest_stable_lr(alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike = 0.0) -> Floats:
    r"""Return the learning rate, times the curvature, up to which E-adapted momentum is stable.

    The smaller of ``flip_limit`` and ``rotation_limit``. It is finite and positive for every alpha.

    Args:
        alpha: strength of E; any finite number, also beyond the paper's bound.
        beta1: decay of E's memory, in [0, 1).
        beta2: decay of the momentum, in [0, 1).
        dampening: in [0, 1). Default: 0.

    Returns:
        What the arguments broadcast to; divide by the largest curvature.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> largest_stable_lr([0.5, 0.0, -5.0, -90.0, -95.0], beta1=0.99, beta2=0.9).round(3)
        array([3.781e+00, 3.800e+00, 4.001e+00, 3.980e+01, 2.400e-02])

    Source: ours.
    """
    return np.minimum(flip_limit(alpha, beta1, beta2, dampening), rotation_limit(alpha, beta1, beta2, dampening))


def continuous_limit(alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike | None = None) -> Floats:
    r"""Return the learning rate, times the curvature, up to which E-adapted momentum is stable in continuous time.

    .. math::
        \dot\theta = -\eta\, m, \quad \dot m = -q\, m + g + \alpha a, \quad \dot a = -k\, a + k\, \dot g, \qquad
        k = 1 - \beta_1,\; q = 1 - \beta_2

    with the learning rate :math:`\eta` is Alg. 3 with differential in place of difference quotients. On a quadratic it
    is stable, by Routh's and Hurwitz's conditions, for

    .. math:: x < \frac{k q (k+q)}{-c (k+q) - q} \quad\text{if } c < -\frac{q}{k+q}, \text{ else } \infty,
        \qquad c = \alpha (1 - \beta_1)

    and without momentum (m = g + alpha a) for :math:`x < k / (-1 - c)` if c < -1, else for every x > 0. No upper bound
    on c appears. Where this is finite, ``largest_stable_lr`` is below it, and their ratio tends to 1 as k and q shrink
    in proportion at fixed c.

    Args:
        alpha: strength of E; any finite number, also beyond the paper's bound.
        beta1: decay of E's memory, in [0, 1).
        beta2: decay of the momentum, in [0, 1). Default: None, no momentum.

    Returns:
        What the arguments broadcast to; infinite where every learning rate is stable.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> continuous_limit([-150.0, -99.0, -5.0, 1000.0], beta1=0.99)
        array([0.02,  inf,  inf,  inf])
        >>> continuous_limit([-95.0, -90.0], beta1=0.99, beta2=0.9).round(4)
        array([0.0244,    inf])

    Source: ours; ``docs/mechanism.md`` has the derivation.
    """
    c, b1, b2, _ = _symbols(alpha, beta1, 0.0 if beta2 is None else beta2, 0.0)
    k, q = 1 - b1, 1 - b2
    return _bound(k, -1 - c) if beta2 is None else _bound(k * q * (k + q), -c * (k + q) - q)


def widest(beta1: float, beta2: float) -> Widest:
    r"""Return the alpha with the largest stable learning rate, where both limits meet.

    .. math:: c^* = -\frac{(1+\beta_1)^2 (1-\beta_2)}{4 (1-\beta_1\beta_2)}, \qquad
        x^* = \frac{4 (1-\beta_1\beta_2)}{1-\beta_1}

    c* is always within (-1, 0). Beyond it the limit falls steeply: a slightly larger -alpha costs most of it.

    Args:
        beta1: decay of E's memory, in [0, 1).
        beta2: decay of the momentum, in [0, 1).

    Returns:
        alpha and its limit, without dampening.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> alpha, limit = widest(0.99, 0.9)
        >>> round(alpha, 2), round(limit, 2)
        (-90.83, 43.6)

    Source: ours.
    """
    decay("beta1", beta1)
    decay("beta2", beta2)
    both = 1 - beta1 * beta2
    c = -((1 + beta1) ** 2) * (1 - beta2) / (4 * both)
    return Widest(c / (1 - beta1), 4 * both / (1 - beta1))


def frequency_response(omega: ArrayLike, alpha: float, beta1: float) -> NDArray[np.complex128]:
    r"""Return the complex factor by which E multiplies a gradient of angular frequency omega per step.

    .. math:: E(z) = 1 + c\,\frac{z - 1}{z - \beta_1}, \qquad z = e^{i\omega}

    At frequency 0 it is 1 for every alpha: a steady gradient passes unchanged. At the highest, pi, it is
    :math:`1 + 2c/(1+\beta_1)`. Its real part is positive at every frequency, so that the adapted gradient never points
    against the gradient, if and only if :math:`c > -(1+\beta_1)/2`.

    Args:
        omega: radians per step, in [0, pi].
        alpha: strength of E.
        beta1: decay of E's memory, in [0, 1).

    Returns:
        Complex factors, in omega's shape.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> abs(frequency_response([0.0, np.pi], alpha=-50.0, beta1=0.99)).round(3)
        array([1.   , 0.497])

    Source: ours.
    """
    omega = real("omega", omega, -np.inf, np.inf, "it is an angle per step, of which 0 to pi differ")
    c, b1, _, _ = _symbols(alpha, beta1, 0.0, 0.0)
    z = np.exp(1j * omega)
    response: NDArray[np.complex128] = 1 + c * (z - 1) / (z - b1)
    return response


def _symbols(
    alpha: ArrayLike, beta1: ArrayLike, beta2: ArrayLike, dampening: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    a = real("alpha", alpha, -np.inf, np.inf, "0 switches E off")
    b1, b2, damp = decay("beta1", beta1), decay("beta2", beta2), decay("dampening", dampening)
    return a * (1 - b1), b1, b2, damp


def _bound(numerator: Floats, denominator: Floats) -> Floats:
    """Divide where the condition can bind; elsewhere the bound is infinite."""
    binds = denominator > 0
    with np.errstate(over="ignore"):  # next to zero it is infinite as well
        bound: Floats = np.where(binds, numerator / np.where(binds, denominator, 1.0), np.inf)
    return bound
