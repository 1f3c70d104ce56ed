"""The four stages of passing a minimum (the paper's Table 1), from what a training loop can measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["PAPER", "STAGES", "signs", "stage", "table_1"]

STAGES = ("1-2", "2-3", "3-4", "4-5")
"""Descending on the concave slope, descending in the convex bowl, ascending in it, ascending on the concave slope."""

QUANTITIES = (
    "theta_k - theta_{k-1}",
    "-g_k",
    "-grad |g|^2",
    "g_k - g_{k-1}",
    "<theta_k - theta_{k-1}, g_k - g_{k-1}>",
    "<theta_k - theta_{k-1}, -grad |g|^2>",
)
"""The rows of Table 1, and the product of its first and third, which it does not have."""

Signs = dict[str, str]

PAPER: dict[str, Signs] = {
    name: dict(zip(STAGES, row, strict=True))
    for name, row in zip(QUANTITIES, ("----", "--++", "+-+-", "+--+", "-++-", "-+-+"), strict=True)
}
"""Table 1 for a motion in the negative direction, as printed but for the last row, which follows from two others.

Both inner products are negative in stage 1-2 and positive in 2-3. In 3-4, out of the minimum, ``-grad |g|^2``
brakes and the gradient difference accelerates; in 4-5 it is the other way round."""


def stage(slope: float, curvature: float) -> str | None:
    r"""Name the stage of a step from its slope and its curvature along the motion.

    .. math:: \text{slope} = \langle u_k, g_k \rangle, \qquad
        \text{curvature} = \langle u_k, g_k - g_{k-1} \rangle, \qquad u_k = \theta_k - \theta_{k-1}

    With as many dimensions as a network has, "the negative direction" of Table 1 is the direction of motion: the signs
    of -g_k and of the gradient difference become those of their components along :math:`u_k`. These two tell all
    rows of the table, and so the stage:

    ========= ============ ===========
    stage     slope        curvature
    ========= ============ ===========
    1-2       descending   concave
    2-3       descending   convex
    3-4       ascending    convex
    4-5       ascending    concave
    ========= ============ ===========

    Args:
        slope: inner product of the step with the gradient where it ends; below 0: the loss still falls.
        curvature: inner product of the step with the gradient difference; below 0: concave.

    Returns:
        ``1-2``, ``2-3``, ``3-4`` or ``4-5``; None where either is 0 or not a number, which no stage is.

    Example:
        >>> stage(slope=-1.0, curvature=-0.2), stage(slope=1.0, curvature=0.2)
        ('1-2', '3-4')

    Source: Zhao et al. 2025 (arXiv 2510.27153), Table 1; in many dimensions: ours.
    """
    if not (slope < 0 or slope > 0) or not (curvature < 0 or curvature > 0):
        return None
    if slope < 0:
        return "1-2" if curvature < 0 else "2-3"
    return "3-4" if curvature > 0 else "4-5"


def signs(row: Mapping[str, float | None]) -> Signs | None:
    r"""Return the signs of Table 1 for one row of a recorder, the motion taken as the negative direction.

    .. math:: \langle u_k, -\nabla |g|^2 \rangle \approx |g_{k-1}|^2 - |g_k|^2

    is the last, exact as the mean over the step, and the third is its negative: how much larger the gradient became.

    Args:
        row: with ``slope``, ``inner``, ``gradient_norm`` and ``gradient_norm_before``, of :func:`~.recorder.record`.

    Returns:
        ``+``, ``-`` or ``0`` for each of ``QUANTITIES``; None where the row's next gradient has not been seen yet.

    Example:
        >>> signs({"slope": -1.0, "inner": -0.2, "gradient_norm": 2.0, "gradient_norm_before": 1.0})["-grad |g|^2"]
        '+'

    Source: Zhao et al. 2025 (arXiv 2510.27153), Table 1; in many dimensions: ours.
    """
    slope, inner = row["slope"], row["inner"]
    after, before = row["gradient_norm"], row["gradient_norm_before"]
    if slope is None or inner is None or after is None or before is None:
        return None
    values = (-1.0, slope, after - before, -inner, inner, before - after)
    return {name: _sign(value) for name, value in zip(QUANTITIES, values, strict=True)}


def well(x: Tensor) -> Tensor:
    """Minimum between two concave slopes, 1 - exp(-x^2), with inflexions at -0.71 and 0.71."""
    return 1 - torch.exp(-x.square())


def table_1(
    function: Callable[[Tensor], Tensor] = well, start: float = 2.0, stop: float = -2.0, steps: int = 401
) -> dict[str, Signs]:
    """Measure the paper's Table 1: walk through a minimum in the negative direction, and look at the signs.

    The walk goes in equal steps. A step counts for the stage in which it begins and ends, told by the signs of the
    first and second derivative; the few that cross from one stage into the next count for none. All derivatives are
    autograd's, in float64.

    Args:
        function: elementwise, smooth, with one minimum between two inflexions. Default: ``well``.
        start: where the walk begins. Default: 2.
        stop: where it ends, below ``start``. Default: -2.
        steps: how many, at least 8. Default: 401, so that no point is the minimum itself.

    Returns:
        For each of ``QUANTITIES`` its sign in each of :data:`STAGES`: ``+``, ``-``, or ``?`` where the steps of the
        stage disagree. It equals :data:`PAPER`.

    Raises:
        ValueError: a walk in the positive direction, too few steps, or one that does not meet all four stages.

    Example:
        >>> measured = table_1()
        >>> measured["g_k - g_{k-1}"]
        {'1-2': '+', '2-3': '-', '3-4': '-', '4-5': '+'}
        >>> measured == PAPER
        True

    Source: Zhao et al. 2025 (arXiv 2510.27153), Table 1; the walk: ours.
    """
    if not start > stop:
        raise ValueError(f"start {start}, stop {stop}: Table 1 moves in the negative direction; start above stop")
    if steps < 8:
        raise ValueError(f"steps {steps}: take at least 8; 401 are the default")
    x = torch.linspace(start, stop, steps + 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), x, retain_graph=True)
    (of_square,) = torch.autograd.grad(gradient.square().sum(), x)
    x, gradient = x.detach(), gradient.detach()
    moved, turned = x.diff(), gradient.diff()
    measured = torch.stack([moved, -gradient[1:], -of_square[1:], turned, moved * turned, -moved * of_square[1:]])
    # Along the motion, which is negative, the slope has the other sign.
    at = [stage(-g, c) for g, c in zip(gradient.tolist(), curvature.tolist(), strict=True)]
    table: dict[str, Signs] = {name: {} for name in QUANTITIES}
    for name in STAGES:
        inside = [k for k in range(steps) if at[k] == at[k + 1] == name]
        if not inside:
            raise ValueError(f"function: the walk from {start} to {stop} has no step within stage {name}; widen it")
        for quantity, values in zip(QUANTITIES, measured[:, inside].tolist(), strict=True):
            signs = {_sign(value) for value in values}
            table[quantity][name] = signs.pop() if len(signs) == 1 else "?"
    return table


def _sign(value: float) -> str:
    return "+" if value > 0 else "-" if value < 0 else "0"
