"""The examples as modules, and what two runs of one must have in common."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["differences", "example", "snapshot", "watched"]

FOLDER = Path(__file__).parents[2] / "examples" / "trainers"


def example(name: str) -> Any:
    """The module of ``examples/trainers``; importable afterwards, in the processes that a test starts as well."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


def snapshot(model: Any, *optimizers: Any) -> dict[str, Any]:
    """Copies of all parameters and of all that the optimizers would save."""
    tensors: dict[str, Any] = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        saved = optimizer.state_dict()
        assert saved["state"], "an optimizer without states proves nothing"
        for index, state in saved["state"].items():
            assert "explore_exp_avg" in state, "a plain optimizer trains and resumes as well"
            tensors |= {f"optimizer {number}, state {index}, {name}": value for name, value in state.items()}
        for index, group in enumerate(saved["param_groups"]):
            assert group.get("explore_alpha", group.get("alpha")), "with alpha = 0 it is a plain optimizer"
            tensors |= {f"optimizer {number}, group {index}, {name}": value for name, value in group.items()}
    return {name: _copy(value) for name, value in tensors.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@contextmanager
def watched() -> Iterator[list[tuple[int, float]]]:
    """For each step of an optimizer: how many images went forward for it, and the norm of the gradients it got."""
    steps: list[tuple[int, float]] = []
    images = 0

    def forward(module: nn.Module, inputs: Any, _: Any) -> None:
        nonlocal images
        if isinstance(module, nn.Sequential) and torch.is_grad_enabled():
            images += len(inputs[0])

    def step(optimizer: Any, *_: Any) -> None:
        nonlocal images
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        steps.append((images, math.hypot(*(float(_copy(grad).norm()) for grad in grads))))
        images = 0

    handles = [register_module_forward_hook(forward), register_optimizer_step_post_hook(step)]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def differences(a: dict[str, Any], b: dict[str, Any], but: Iterable[str] = ()) -> list[str]:
    """Names of what is not the same to the bit, or is in one of them alone; ``but`` names ends of names."""
    names = [name for name in a.keys() | b.keys() if not name.endswith(tuple(but))]
    return sorted(name for name in names if not (name in a and name in b and _equal(a[name], b[name])))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    # A tuple comes back from JSON or a safe loader as a list.
    return bool((list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b))
