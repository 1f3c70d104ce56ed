"""From parameters and their state to the lists of contiguous tensors that a kernel takes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from valleys.kernels import Tensors
from valleys.kernels.choice import Backend, select
from valleys.kernels.layout import Layout, is_plain, layout, ordered, put_back

__all__ = ["Bucket", "Row", "buckets", "real"]


_USUAL = {Tensor, torch.nn.Parameter}


class Row(NamedTuple):
    """One parameter as a kernel sees it: every tensor contiguous, elements in the same order.

    Args:
        target: the user's parameter (a complex one as a real view).
        order: of its dimensions in memory.
        param: ``target`` itself, a view of it, or a copy if its memory has gaps.
        grad: its gradient.
        states: its states, in the order of their names.
        step: steps made.
        salt: see :mod:`valleys.kernels.rounding`.
    """

    target: Tensor
    order: Layout
    param: Tensor
    grad: Tensor
    states: list[Tensor]
    step: Tensor
    salt: int

    @classmethod
    def of(cls, param: Tensor, state: dict[str, Any], names: Sequence[str], dtype: torch.dtype, salt: int) -> Row:
        """Gathers ``param``; replaces a state in ``state`` whose dtype or strides are no longer the parameter's."""
        assert param.grad is not None
        values = [state[name] for name in names]
        # The usual case at once: this runs for every tensor at every step.
        usual = param.grad.is_contiguous() and param.is_contiguous() and not param.is_complex()
        if usual and all(type(x) is Tensor and x.dtype == dtype and x.is_contiguous() for x in values):
            return cls(param, None, param, param.grad, values, state["step"], salt)
        target = real(param)
        order = layout(target)
        for name in names:
            value = state[name]
            if is_plain(value) and (value.dtype != dtype or not _in_order(real(value), order)):
                form = torch.contiguous_format if order is None else torch.preserve_format
                state[name] = torch.empty_like(param, dtype=dtype, memory_format=form, requires_grad=False).copy_(value)
        states = [ordered(real(state[name]), order) for name in names]
        grad = ordered(real(param.grad), order)
        return cls(target, order, ordered(target, order), grad, states, state["step"], salt)

    def write_back(self) -> None:
        """Puts the result into the parameter, if the kernel worked on a copy."""
        if self.param is not self.target:
            put_back(self.target, self.order, self.param)


class Bucket(NamedTuple):
    """Tensors for one kernel call, and who makes it."""

    backend: Backend
    tensors: Tensors


def buckets(rows: Sequence[Row], group: dict[str, Any], explores: bool) -> list[Bucket]:
    """Groups rows by device, dtypes and tensor type; without foreach and fused each by itself.

    Args:
        rows: of one parameter group; empty tensors are left out.
        group: the options.
        explores: whether the first state is E's buffer.
    """
    keyed: dict[Any, list[Row]] = {}
    for index, row in enumerate(rows):
        if row.param.numel() == 0:
            continue
        types = {type(row.param), *map(type, row.states)}
        key = (row.param.device, row.param.dtype, row.grad.dtype, None if types <= _USUAL else frozenset(types))
        keyed.setdefault(index if _singly(row.param, group) else key, []).append(row)
    return [_bucket(members, group, explores) for members in keyed.values()]


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, which is how torch.optim treats them."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _bucket(rows: list[Row], group: dict[str, Any], explores: bool) -> Bucket:
    params = [row.param for row in rows]
    columns = [[row.states[i] for row in rows] for i in range(len(rows[0].states))]
    tensors = Tensors(
        params=params,
        grads=[row.grad for row in rows],
        explore=columns[0] if explores else None,
        exp_avgs=columns[-2],
        exp_avg_sqs=columns[-1],
        steps=[row.step for row in rows],
        salts=[row.salt for row in rows],
        starts=[0] * len(rows),
    )
    dtypes = (params[0].dtype, tensors.grads[0].dtype, tensors.exp_avgs[0].dtype)
    # The rows of a bucket have tensors of the same types.
    return Bucket(select([params[0], *rows[0].states], dtypes, group["foreach"], group["fused"]), tensors)


def _singly(param: Tensor, group: dict[str, Any]) -> bool:
    """Whether the for-loop is wanted; without fused and foreach torch.optim's default is foreach on accelerators."""
    if group["fused"]:
        return False
    if group["foreach"] is None:
        return group["fused"] is False and param.device.type not in ("cuda", "xpu")
    return not group["foreach"]


def _in_order(tensor: Tensor, order: tuple[int, ...] | None) -> bool:
    return tensor.is_contiguous() if order is None else tensor.permute(order).is_contiguous()
