"""The paper's rule for alpha and beta, and the checks that every optimizer of the package shares."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import TypedDict

__all__ = ["LARGE_BATCH", "Suggestion", "suggest"]


class Suggestion(TypedDict):
    """The two hyperparameters of E, a dictionary.

    Args:
        alpha: Strength of E; negative explores, positive exploits.
        beta: Memory of E, in [0, 1).

    Example:
        >>> Suggestion(alpha=-5.0, beta=0.99)
        {'alpha': -5.0, 'beta': 0.99}

    Source:
        Zhao et al., NeurIPS 2025, arXiv 2510.27153.
    """

    alpha: float
    beta: float


_SMALL = Suggestion(alpha=0.5, beta=0.01)
_LARGE = Suggestion(alpha=-5.0, beta=0.99)
LARGE_BATCH = 1024
"""Batch size from which the paper's rule is that of large batches; the paper writes "1K"."""


def suggest(batch_size: int) -> Suggestion:
    """Return alpha and beta by the paper's rule for this batch size.

    0.5 and 0.01 for batches below 1024, -5.0 and 0.99 from 1024 on. The result goes straight on, under the names that
    all optimizers here have for them: ``adapt(opt, **suggest(16384))``, ``ALTO(params, 1e-2, **suggest(16384))``.

    The rule is empirical: its authors found it on their tasks and prove nothing about it. It is a starting
    point and no substitute for tuning. In a noisy quadratic model its two points leave most of E's gain
    unused, and in quick looks at Fashion-MNIST (few runs, noise of about 0.3 points) it did not pay. Tune
    alpha and beta on your task, together with the learning rate: that is what ``valleys.lab`` is for.

    Args:
        batch_size: Examples per parameter update, over all devices and accumulation steps; at least 1.

    Returns:
        ``{"alpha": ..., "beta": ...}``, a new dictionary.

    Raises:
        TypeError: ``batch_size`` is not an integer (a bool is not one here).
        ValueError: ``batch_size`` is below 1.

    Example:
        >>> from valleys.hyperparameters import suggest
        >>> suggest(128)
        {'alpha': 0.5, 'beta': 0.01}
        >>> suggest(16384)
        {'alpha': -5.0, 'beta': 0.99}

    Source:
        Zhao et al., NeurIPS 2025, arXiv 2510.27153, the paper's default hyperparameters; the caveat is ours.
    """
    try:
        if isinstance(batch_size, bool):
            raise TypeError
        size = operator.index(batch_size)
    except TypeError:
        raise TypeError(
            f"batch_size must be an integer, got {batch_size!r} of type {type(batch_size).__name__}; "
            "pass the number of examples per parameter update"
        ) from None
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}; pass the number of examples per parameter update")
    return (_SMALL if size < LARGE_BATCH else _LARGE).copy()


def check_range(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
    remedy: str = "",
) -> None:
    """Refuse a hyperparameter that is not a finite real number (a bool is none) between ``low`` and ``high``.

    An infinite bound means "no bound"; the value itself must be finite all the same. A tensor of one element is read
    only on the CPU, and not while torch.compile traces: elsewhere its value goes unchecked, as the host would wait for
    the device. The remedy ends the message.

    Example:
        >>> check_range("lr", 1e-3, 0.0)
        >>> check_range("eps", 0.0, 0.0, low_open=True, remedy="use a small positive number such as 1e-8")
        Traceback (most recent call last):
        ...
        ValueError: eps must be a number in (0, inf), got 0.0; use a small positive number such as 1e-8
    """
    number, shape = value, None
    if not isinstance(value, (int, float)):
        import torch  # not for plain numbers: what the command lists needs no torch

        if isinstance(value, torch.Tensor) and value.numel() != 1:
            shape = tuple(value.shape)
        elif isinstance(value, torch.Tensor):
            if value.dtype == torch.bool or value.is_complex():
                number = None
            elif value.device.type != "cpu" or torch.compiler.is_compiling():
                return
            else:
                number = value.item()
    if isinstance(number, Real) and not isinstance(number, bool):
        x = _to_float(number)
        above = x > low if low_open else x >= low
        below = x < high if high_open else x <= high
        if math.isfinite(x) and above and below:
            return
    opening = "(" if low_open or math.isinf(low) else "["
    closing = ")" if high_open or math.isinf(high) else "]"
    # A tensor of many elements would fill the screen.
    text = f"{value!r}" if shape is None else f"a tensor of shape {shape}"
    raise ValueError(
        f"{name} must be a number in {opening}{low:g}, {high:g}{closing}, got {text}"
        + (f"; {remedy}" if remedy else "")
    )


def check_explore(alpha: float, beta: float, *, alpha_name: str = "alpha", beta_name: str = "beta") -> None:
    r"""Refuse an E whose adapted gradient could turn against the gradient, and say which values the other allows.

    .. math:: |\alpha| (1 - \beta) < 1, \qquad 0 \le \beta < 1

    Example:
        >>> check_explore(-5.0, 0.99)
        >>> check_explore(-5.0, 0.5)
        Traceback (most recent call last):
        ...
        ValueError: alpha = -5.0 and beta = 0.5 give |alpha| * (1 - beta) = 2.5, which must be below 1;
        use |alpha| < 2 with this beta, or beta > 0.8 with this alpha

    Source: Zhao et al., NeurIPS 2025, arXiv 2510.27153: :math:`|\alpha| < 1 / (1 - \beta_1)`.
    """
    check_range(alpha_name, alpha, -math.inf, remedy="0 switches E off; suggest(batch_size) gives the paper's value")
    check_range(
        beta_name,
        beta,
        0.0,
        1.0,
        high_open=True,
        remedy="0.99 remembers about 100 steps; suggest(batch_size) gives the paper's value",
    )
    size, forgetting = abs(float(alpha)), 1.0 - float(beta)
    if size * forgetting >= 1.0:
        # 12 digits: enough to tell betas near 1 apart, few enough to hide float noise (1 / (1 - 0.99)).
        raise ValueError(
            f"{alpha_name} = {alpha!r} and {beta_name} = {beta!r} give "
            f"|{alpha_name}| * (1 - {beta_name}) = {size * forgetting:.12g}, which must be below 1; "
            f"use |{alpha_name}| < {1.0 / forgetting:.12g} with this {beta_name}, "
            f"or {beta_name} > {1.0 - 1.0 / size:.12g} with this {alpha_name}"
        )


def _to_float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:  # an int beyond the float range: as good as infinite
        return math.inf
