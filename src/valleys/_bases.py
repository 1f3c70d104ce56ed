"""What is known of the optimizers that E adapts most: the states and options that their checkpoints must hold."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from valleys._saved import Kind

__all__ = ["base_kinds", "base_options", "check_base_group"]


def base_kinds(base: type[Optimizer], group: dict[str, Any]) -> dict[str, Kind]:
    """The states of a parameter of a saved group, as far as they are known."""
    if base in (Adam, AdamW):
        names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        return {"step": Kind.STEP, **dict.fromkeys(names, Kind.MOMENT)}
    if base is SGD:
        return {"momentum_buffer": Kind.MOMENTUM} if group["momentum"] else {}
    return {"step": Kind.COUNT} if _is_torchs(base) else {}


def base_options(base: type[Optimizer]) -> tuple[str, ...]:
    """Options that a saved group must have."""
    if base in (Adam, AdamW):
        return ("lr", "betas", "eps", "weight_decay", "amsgrad")
    if base is SGD:
        return ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    return ("lr",) if _is_torchs(base) else ()


def check_base_group(base: type[Optimizer], group: dict[str, Any], params: list[Tensor]) -> None:
    """Raise where the constructor of one of torch's optimizers would refuse a group's options.

    Raises:
        ValueError: it refuses them.
    """
    if not _is_torchs(base) or not params:
        return
    names = inspect.signature(base).parameters
    options = {name: value for name, value in group.items() if name in names and name != "params"}
    matrix = torch.zeros(1, 1, dtype=params[0].dtype, device=params[0].device)
    try:
        base([matrix], **options)
    except Exception as error:
        raise ValueError(f"E{base.__name__}: the state dict's options do not fit: {error}") from error


def _is_torchs(base: type[Optimizer]) -> bool:
    return base.__module__.startswith("torch.optim")
