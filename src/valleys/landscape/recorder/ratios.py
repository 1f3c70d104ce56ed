"""The trust ratios that ALTO and Lamb used in their last step, from the states that the step left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.layerwise import Layerwise
from valleys._engine.options import rule_of
from valleys.kernels.ratio import step_lengths
from valleys.landscape.recorder.sums import plain, reduced

__all__ = ["trust_ratios"]


def trust_ratios(
    optimizer: Optimizer,
    stepped: Sequence[Tensor],
    theta: Sequence[Tensor],
    squares: Tensor,
    gradients: Tensor,
    present: Sequence[bool],
) -> Tensor | None:
    r"""phi(|theta|) / (|r| + eps2 phi(|theta|)) of each parameter, right after a step.

    The step keeps no norms. But it leaves both moments and the count, of which, with the old theta, r is made again:

    .. math:: r = \hat m / (\sqrt{\hat v} + \epsilon_1) + \lambda \theta_{k-1}

    Args:
        optimizer: after its step.
        stepped: all its parameters, in the order of the other arguments.
        theta: as they were before the step, real.
        squares: of their norms.
        gradients: squares of the norms of the gradients that the step saw.
        present: whether there was a gradient.

    Returns:
        One ratio per parameter; NaN for one that has none of its own: not stepped, divided into ``blocks``, without
        ``layer_adaptation``, or with 8-bit states. None if the optimizer is not one of ours.
    """
    if not isinstance(optimizer, Layerwise):
        return None
    result = torch.full_like(squares, float("nan"))
    numbers = {parameter: number for number, parameter in enumerate(stepped)}
    for group in optimizer.param_groups:
        if not group["layer_adaptation"] or group["blocks"] or group["state_dtype"] == "8bit":
            continue
        # A step that skip_nonfinite left out may have been the first: there are moments then, and no step.
        stepping = (p for p in group["params"] if present[numbers[p]] and "exp_avg" in optimizer.state[p])
        chosen = [numbers[p] for p in stepping if float(optimizer.state[p]["step"])]
        if not chosen:
            continue
        states = [optimizer.state[stepped[number]] for number in chosen]
        updates = _updates([theta[number] for number in chosen], states, group)
        which = torch.tensor(chosen, device=squares.device)
        sums = torch.stack([squares[which], updates.to(squares), gradients[which]])
        # A learning rate of 1 leaves the ratio alone.
        result[which] = step_lengths(sums, rule_of(group)._replace(lr=1.0))
    return result


def _updates(theta: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """The squares of |r|."""
    rule = rule_of(group)
    counts = [float(state["step"]) for state in states]
    # With the corrections as factors: r = (c2 m) / (c3 sqrt(v) + eps1) + lambda theta.
    factors = [
        (1 / (1 - rule.beta2**k), 1 / math.sqrt(1 - rule.beta3**k)) if rule.bias_correction else (1.0, 1.0)
        for k in counts
    ]

    def squares(owners: list[int], ms: list[Tensor], vs: list[Tensor], weights: list[Tensor]) -> Tensor:
        norms = []
        for owner, m, v, weight in zip(owners, ms, vs, weights, strict=True):
            of_m, of_root = factors[owner]
            root = v.sqrt().mul_(of_root).add_(rule.eps)
            r = torch.div(m, root, out=root).mul_(of_m).add_(weight, alpha=rule.weight_decay)
            norms.append(torch.linalg.vector_norm(r))
        return torch.stack(norms).double().square()

    moments = [[plain(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq")]
    return reduced(squares, *moments, theta)
