"""Pure data: every optimizer of torch.optim, in each of its implementations, as the contract suite builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import valleys

__all__ = ["CASES", "Case", "gradients", "parameters", "set_gradients"]


@dataclass(frozen=True)
class Case:
    """One optimizer with plain options.

    Args:
        cls: the class.
        options: arguments beside the parameters.
        matrices_only: takes 2-D parameters only.
        complex: accepts complex parameters.
        maximize: has the option.
        tensor_lr: accepts a tensor as learning rate.
        amp: does the unscaling of a GradScaler itself.
    """

    cls: Callable[..., Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    matrices_only: bool = False
    complex: bool = True
    maximize: bool = True
    tensor_lr: bool = True
    amp: bool = False

    def build(self, params: Any, **changes: Any) -> Optimizer:
        """The plain optimizer over ``params``."""
        return self.cls(params, **{**self.options, **changes})


_O = torch.optim
_FOREACH = {
    "SGD": Case(_O.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD plain": Case(_O.SGD, {"lr": 0.02}),
    "Adam": Case(_O.Adam, {"lr": 0.02, "weight_decay": 0.01}),
    "Adam amsgrad": Case(_O.Adam, {"lr": 0.02, "amsgrad": True}),
    "AdamW": Case(_O.AdamW, {"lr": 0.02}),
    "NAdam": Case(_O.NAdam, {"lr": 0.02}),
    "RAdam": Case(_O.RAdam, {"lr": 0.02}),
    "RMSprop": Case(_O.RMSprop, {"lr": 0.02, "centered": True, "momentum": 0.9}),
    "Adagrad": Case(_O.Adagrad, {"lr": 0.02}),
    "Adadelta": Case(_O.Adadelta, {"lr": 0.02}),
    "Adamax": Case(_O.Adamax, {"lr": 0.02}),
    "ASGD": Case(_O.ASGD, {"lr": 0.02}),
    "Rprop": Case(_O.Rprop, {"lr": 0.02}),
    "Adafactor": Case(_O.Adafactor, {"lr": 0.02}, complex=False),
}
_OTHERS = {
    "Muon": Case(_O.Muon, {"lr": 0.02}, matrices_only=True, complex=False, maximize=False),
    "SGD fused": Case(_O.SGD, {"lr": 0.02, "momentum": 0.9, "fused": True}, complex=False, amp=True),
    "Adam fused": Case(_O.Adam, {"lr": 0.02, "fused": True}, complex=False, amp=True),
    "AdamW fused": Case(_O.AdamW, {"lr": 0.02, "fused": True}, complex=False, amp=True),
    "Adagrad fused": Case(_O.Adagrad, {"lr": 0.02, "fused": True}, complex=False, amp=True),
    "Lamb": Case(valleys.Lamb, {"lr": 0.02}, amp=True),
    "Lamb foreach": Case(valleys.Lamb, {"lr": 0.02, "foreach": True}, amp=True),
}

CASES: dict[str, Case] = {
    **{
        f"{name} {'foreach' if foreach else 'loop'}": replace(
            case,
            options={**case.options, "foreach": foreach},
            tensor_lr=not (foreach and case.cls in (_O.Adam, _O.AdamW)),
        )
        for name, case in _FOREACH.items()
        for foreach in (False, True)
    },
    **_OTHERS,
}


def parameters(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.nn.Parameter]:
    """Fresh parameters that ``case`` accepts."""
    shapes: list[tuple[int, ...]] = [(4, 3), (3, 5)] if case.matrices_only else [(4, 3), (5,), (2, 1, 3)]
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in shapes]


def gradients(params: list[torch.nn.Parameter], step: int, missing: bool = True) -> list[Tensor | None]:
    """Gradients of one step, from a fixed sequence; with ``missing`` some parameters have none at some steps."""
    generator = torch.Generator().manual_seed(1000 + step)
    grads = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in params]
    return [None if missing and (step + 2 * i) % 7 == 5 else grad for i, grad in enumerate(grads)]


def set_gradients(params: list[torch.nn.Parameter], step: int, missing: bool = True) -> None:
    """Puts the gradients of ``step`` into ``.grad``."""
    for param, grad in zip(params, gradients(params, step, missing), strict=True):
        param.grad = grad
