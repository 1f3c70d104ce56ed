"""Gradient scale, clipping and skipped steps: what happens to a whole group's gradients, read where it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys._engine.dtensor import is_sharded
from valleys._engine.layer_norms import Pool, Pools
from valleys._engine.state import ROUNDING_STEP, SKIPPED_STEPS
from valleys.kernels.layout import materialized
from valleys.kernels.ratio import sum_dtype


class Scale(NamedTuple):
    """State of a GradScaler on an optimizer that unscales by itself; None without one."""

    grad_scale: Tensor | None  # the gradients are this many times too large
    found_inf: Tensor | None  # not zero if one of them is not finite

    @classmethod
    def of(cls, optimizer: Any) -> Scale:
        """Read both from an optimizer."""
        return cls(*(_scalar(getattr(optimizer, name, None)) for name in ("grad_scale", "found_inf")))


class Gradients(NamedTuple):
    """Gradients whose squares are summed together."""

    group: int  # number of their parameter group
    pool: Pool | None  # over whose ranks the sum goes; None if they are whole
    square_sum: Callable[[list[Tensor]], Tensor]
    tensors: list[Tensor]


class Factors(NamedTuple):
    """Effect on one group, as 0-dimensional tensors."""

    clip: Tensor | None  # factor on all gradients; None for 1
    skip: Tensor | None  # not zero if the step leaves the group as it is; None for 0


def factors(
    groups: Sequence[dict[str, Any]], gradients: Sequence[Gradients], pools: Pools, scale: Scale
) -> list[Factors]:
    """The factor and the decision to skip of each group; norms accumulate in float64, where the device has it."""
    wanting = [group["max_grad_norm"] is not None or group["skip_nonfinite"] for group in groups]
    if not any(wanting):
        clip = None if scale.grad_scale is None else _inverse(scale.grad_scale, scale.grad_scale.device)
        return [Factors(clip, scale.found_inf)] * len(groups)
    sums = [(entry.group, entry.pool, entry.square_sum(entry.tensors)) for entry in gradients if wanting[entry.group]]
    totals = pools.totals(sums, len(groups))
    return [_factors(group, total, scale) for group, total in zip(groups, totals, strict=True)]


def advance(states: Sequence[dict[str, Any]], skip: Tensor | None) -> None:
    """Count one step in the states of a group, unless ``skip`` keeps it from being one."""
    counters: dict[Any, list[Tensor]] = {}
    for name in ("step", ROUNDING_STEP):
        for state in states:
            if name in state:
                counters.setdefault((state[name].device, state[name].dtype), []).append(state[name])
    for (device, dtype), tensors in counters.items():
        # A list, as torch may read a single tensor on the host.
        torch._foreach_add_(tensors, 1 if skip is None else [(skip == 0).to(device, dtype)] * len(tensors))
    if skip is not None:
        for state in states:
            if SKIPPED_STEPS in state:
                state[SKIPPED_STEPS] += (skip != 0).to(state[SKIPPED_STEPS].device)


def square_sum(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares over gradients of any kind that no kernel takes."""
    sums = [tensor.detach().abs().to(sum_dtype(tensor.device)).square().sum() for tensor in tensors]
    return torch.stack([x.to(sums[0].device) for x in sums]).sum()


def _factors(group: dict[str, Any], total: Tensor, scale: Scale) -> Factors:
    clip = None if scale.grad_scale is None else _inverse(scale.grad_scale, total.device)
    bound, skip = group["max_grad_norm"], scale.found_inf
    if bound is not None:
        norm = total.sqrt() if clip is None else total.sqrt() * clip
        bounded = (bound / (norm + 1e-6)).clamp(max=1.0)
        clip = bounded if clip is None else bounded * clip
    if group["skip_nonfinite"]:
        nonfinite = ~total.isfinite()
        skip = nonfinite if skip is None else nonfinite | (skip.to(total.device) != 0)
    return Factors(clip, skip)


def _inverse(scale: Tensor, device: torch.device) -> Tensor:
    return scale.to(device, sum_dtype(device)).reciprocal()


def _scalar(value: Any) -> Tensor | None:
    """A GradScaler's number, 0-dimensional and whole on every rank."""
    if value is None:
        return None
    whole = value.full_tensor() if is_sharded(value) else torch.as_tensor(value)
    return materialized(whole).reshape(())
