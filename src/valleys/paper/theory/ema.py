"""Weights of the past, by age, in a moving average of a moving average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from valleys.paper.theory.checks import Floats, decay, whole

__all__ = ["ema_age", "ema_weights", "nested_weights"]


def ema_weights(n: int, beta: float, steps: int) -> Floats:
    r"""Return the weights of the inputs in n nested exponential moving averages of one beta, the newest first.

    .. math:: w_j = (1-\beta)^n \, \beta^j \binom{j+n-1}{n-1}, \qquad j = k - i

    is the weight at step k of the input of step i; for E the input is :math:`g_i - g_{i-1}`. One average has its peak
    at age 0. With two or more the newest input hardly counts, and the peak is near age
    :math:`((n-1)\beta - 1)/(1-\beta)`. All weights together are 1: they are a negative binomial distribution.

    The logarithms are summed, so that neither a power underflows nor a binomial overflows.

    Args:
        n: how many averages are nested, at least 1.
        beta: decay of each, in [0, 1).
        steps: how many ages, at least 1.

    Returns:
        (steps,), :math:`w_0, w_1, \ldots`

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> ema_weights(1, 0.5, 4)
        array([0.5   , 0.25  , 0.125 , 0.0625])
        >>> ema_weights(2, 0.5, 4)
        array([0.25  , 0.25  , 0.1875, 0.125 ])

    Source: Zhao et al. 2025 (arXiv 2510.27153), the formula of EMA_n; its evaluation is ours.
    """
    n = whole("n", n, 1, "one is a plain moving average")
    steps = whole("steps", steps, 1, "one is the newest input alone")
    decay("beta", beta)
    if beta == 0:
        return _impulse(steps)
    ages = np.arange(1, steps)
    growth = np.log1p((n - 1) / ages) + np.log(beta)
    weights: Floats = np.exp(n * np.log1p(-beta) + np.concatenate([[0.0], np.cumsum(growth)]))
    return weights


def ema_age(n: int, beta: float) -> tuple[float, float]:
    r"""Return mean and standard deviation, in steps, of the age of the inputs in n nested averages.

    .. math:: \mu = \frac{n \beta}{1 - \beta}, \qquad \sigma = \frac{\sqrt{n \beta}}{1 - \beta}

    Args:
        n: how many averages are nested, at least 1.
        beta: decay of each, in [0, 1).

    Returns:
        Mean and standard deviation.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> mean, deviation = ema_age(2, 0.9)
        >>> round(mean, 2), round(deviation, 2)
        (18.0, 13.42)

    Source: moments of the negative binomial distribution.
    """
    n = whole("n", n, 1, "one is a plain moving average")
    decay("beta", beta)
    return n * beta / (1 - beta), float(np.sqrt(n * beta)) / (1 - beta)


def nested_weights(betas: Sequence[float], steps: int) -> Floats:
    r"""Return the weights of the inputs in nested exponential moving averages of different decays, the newest first.

    .. math:: y^{(l)}_k = \beta_l y^{(l)}_{k-1} + (1 - \beta_l)\, y^{(l-1)}_k

    E inside a momentum is such a pair, beta1 within beta2: the momentum holds an average of an average. The order does
    not matter.

    Args:
        betas: one decay per average, each in [0, 1).
        steps: how many ages, at least 1.

    Returns:
        (steps,), the response to a one at age 0.

    Raises:
        ValueError: an argument out of range, or no beta.

    Example:
        >>> nested_weights([0.5, 0.5], 4)
        array([0.25  , 0.25  , 0.1875, 0.125 ])

    Source: ours.
    """
    decay("betas", list(betas))
    steps = whole("steps", steps, 1, "one is the newest input alone")
    weights = _impulse(steps)
    for beta in betas:
        average = 0.0
        for age in range(steps):
            average = beta * average + (1 - beta) * weights[age]
            weights[age] = average
    return weights


def _impulse(steps: int) -> Floats:
    impulse = np.zeros(steps)
    impulse[0] = 1.0
    return impulse
