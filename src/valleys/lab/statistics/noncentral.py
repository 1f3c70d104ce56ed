"""The distribution of Student's t where there is a difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["noncentral_t_cdf", "noncentrality", "root"]

_REACH = 9.0
"""Beyond so many standard deviations a normal variable has a chance of 1e-19."""


def noncentral_t_cdf(t: float, freedom: float, shift: float) -> float:
    r"""The chance that a shifted t lies at or below a value.

    Scipy's ``nct`` is NaN far out (at -12.7 with 1 degree of freedom and shift 8; at 1e6), where few seeds and small
    levels lead. So the chance is integrated, over whichever of the two variables leaves the smoother integrand.

    .. math::
        P\bigl((Z + \delta) / S \le t\bigr)
        = \int f(s)\, \Phi(t s - \delta)\, ds
        = \Phi(-\delta) + \int_{-\delta}^\infty \varphi(z)\, P\Bigl(S \ge \frac{z + \delta}{t}\Bigr)\, dz,
        \quad Z \sim N(0, 1),\ \nu S^2 \sim \chi^2_\nu

    Args:
        t: the value.
        freedom: degrees of freedom.
        shift: the noncentrality.

    Returns:
        The probability, to about 1e-12.

    Example:
        >>> print(f"{noncentral_t_cdf(2.0, 4, 1.5):.4f}, {noncentral_t_cdf(1e6, 4, 5e5):.4f}")
        0.6189, 0.9098
    """
    import numpy as np
    from scipy.special import chdtrc, gammainccinv, gammaincinv, ndtr

    if t < 0:  # the second integral is of positive t
        return 1 - noncentral_t_cdf(-t, freedom, -shift)
    nodes, weights = _rule()
    if t <= math.sqrt(2 * freedom):  # t S varies less than Z
        low, high = (math.sqrt(2 / freedom * float(f(freedom / 2, 1e-18))) for f in (gammaincinv, gammainccinv))
        excess = (low - 1) + (high - low) / 2 * (nodes + 1)
        # The density of S up to its constant, as a function of S - 1: exact for any number of degrees of freedom.
        density = np.exp(freedom * (np.log1p(excess) - excess - excess**2 / 2)) / (1 + excess)
        return float(np.dot(weights, density * ndtr(t * (1 + excess) - shift)) / np.dot(weights, density))
    below, start = float(ndtr(-shift)), max(-shift, -_REACH)
    if start >= _REACH:
        return below
    half = (_REACH - start) / 2
    z = start + half * (nodes + 1)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return below + half * float(np.dot(weights, density * chdtrc(freedom, freedom * ((z + shift) / t) ** 2)))


def noncentrality(t: float, freedom: float, probability: float) -> float:
    r"""The shift under which a t at or below the given value has the given chance.

    .. math:: \delta:\ P(T_{\nu, \delta} \le t) = q

    Args:
        t: the observed value.
        freedom: degrees of freedom.
        probability: ``q``, in (0, 1).

    Returns:
        The shift, which falls as the probability grows.

    Example:
        >>> print(f"{noncentrality(2.0, 4, 0.5):.3f}")
        1.865
    """
    return root(lambda shift: probability - noncentral_t_cdf(t, freedom, shift), t, 1 + abs(t))


def root(rising: Callable[[float], float], start: float, step: float) -> float:
    """Where a rising function is zero.

    Args:
        rising: the function.
        start: where the search begins.
        step: its first step to either side, which doubles until the sign changes.

    Returns:
        The root.

    Example:
        >>> print(f"{root(lambda x: x**3 - 8, 0.0, 1.0):.6f}")
        2.000000
    """
    from scipy.optimize import brentq

    low, high = start - step, start + step
    while rising(low) > 0:
        low, step = low - 2 * step, 2 * step
    while rising(high) < 0:
        high, step = high + 2 * step, 2 * step
    return float(brentq(rising, low, high, xtol=1e-12, rtol=1e-12))


@lru_cache(maxsize=1)
def _rule() -> tuple[Any, Any]:
    """Nodes and weights on [-1, 1]."""
    import numpy as np

    return np.polynomial.legendre.leggauss(100)
