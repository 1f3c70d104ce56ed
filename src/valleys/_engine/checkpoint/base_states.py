"""States and options that a checkpoint of torch's optimizers must hold, learned from steps with a small tensor."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from valleys._engine.checkpoint.checks import Kind
from valleys.hyperparameters import check_range

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# States of the parameter's shape: torch's kernels would raise, or not notice, after E's buffer has moved.
SHAPED: dict[type[Optimizer], tuple[str, ...]] = {SGD: ("momentum_buffer",), Adam: _MOMENTS, AdamW: _MOMENTS}

# Options that torch added later and gives to an older checkpoint itself.
_LATER = {"amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}


def base_options(optimizer: Optimizer, base: type[Optimizer]) -> list[str]:
    """Options that a saved group must have; none for an optimizer that is not torch's."""
    return [name for name in optimizer.defaults if name not in _LATER and not name.startswith("explore_")] * _known(
        base
    )


def base_kinds(base: type[Optimizer], group: dict[str, Any], param: Tensor) -> dict[str, Kind]:
    """The states of a parameter with the options of a saved group; empty for an optimizer that is not torch's."""
    if not _known(base) or param.device.type == "meta":
        return {}
    names = inspect.signature(base).parameters
    options = {name: value for name, value in group.items() if name in names and name != "params"}
    # Small, with dimensions that tell its shape from any other.
    sample = torch.zeros(tuple(range(2, 2 + param.dim())), dtype=param.dtype, device=param.device)
    sample.grad = torch.zeros_like(sample)
    try:
        for name, value in options.items():
            # torch takes True for 1, which its kernels do not.
            if type(names[name].default) is float:
                check_range(name, value, -math.inf)
        optimizer = base([sample], **options)
        # Without the hooks that a user registered for all optimizers; the second step uses what the first one made.
        step: Any = base.step
        for _ in range(2):
            (step.__wrapped__ if getattr(step, "hooked", False) else step)(optimizer)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"E{base.__name__}: the options of a saved group do not fit: {reason}") from error
    return {name: _kind(name, value, sample) for name, value in optimizer.state.get(sample, {}).items()}


def _kind(name: str, value: Any, sample: Tensor) -> Kind:
    if name == "step":
        return Kind.STEP
    if not isinstance(value, Tensor):
        return Kind.NUMBER if isinstance(value, (int, float)) else Kind.ANY
    if value.shape == sample.shape:
        return Kind.MOMENTUM if name == "momentum_buffer" else Kind.MOMENT
    return Kind.NUMBER if value.dim() == 0 else Kind.TENSOR


def _known(base: type[Optimizer]) -> bool:
    return base.__module__.startswith("torch.optim")
