"""Pure data: every public optimizer in each of its backends, as the tests of soundness build it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import valleys
from backends import BACKENDS

__all__ = ["PUBLIC", "STATES", "Build", "available", "feed", "parameters", "snapshot", "train"]

Build = Callable[..., Optimizer]

_LAYERWISE = {**BACKENDS, "triton": {"fused": "triton"}}


def _layerwise(cls: Any, backend: dict[str, Any]) -> Build:
    return lambda params, **options: cls(params, **{"lr": 0.02, **backend, **options})


def _adapted(cls: Any, **fixed: Any) -> Build:
    return lambda params, **options: valleys.adapt(cls(params, **{"lr": 0.02, **fixed, **options}))


PUBLIC: dict[str, Build] = {
    **{f"ALTO {name}": _layerwise(valleys.ALTO, backend) for name, backend in _LAYERWISE.items()},
    **{f"Lamb {name}": _layerwise(valleys.Lamb, backend) for name, backend in _LAYERWISE.items()},
    "ESGD": lambda params, **options: valleys.ESGD(params, **{"lr": 0.02, **options}),
    "EAdam": lambda params, **options: valleys.EAdam(params, **{"lr": 0.02, **options}),
    "EAdamW": lambda params, **options: valleys.EAdamW(params, **{"lr": 0.02, **options}),
    "EAdamW in one pass": lambda params, **options: valleys.EAdamW(params, **{"lr": 0.02, "fused": True, **options}),
    "EAdam in one pass": lambda params, **options: valleys.EAdam(params, **{"lr": 0.02, "fused": True, **options}),
    "adapt(SGD)": _adapted(torch.optim.SGD),
    "adapt(SGD), momentum": _adapted(torch.optim.SGD, momentum=0.9),
    "adapt(RMSprop)": _adapted(torch.optim.RMSprop),
    "adapt(AdamW), bfloat16 buffer": lambda params, **options: valleys.adapt(
        torch.optim.AdamW(params, **{"lr": 0.02, **options}), state_dtype=torch.bfloat16
    ),
}
"""From a name to a function that builds the optimizer over parameters, with options."""

STATES = ("exp_avg", "exp_avg_sq", "momentum_buffer", "explore_exp_avg")
"""States of the parameter's shape that are checked before a step, where an optimizer has them."""


@contextlib.contextmanager
def available(name: str) -> Iterator[Build]:
    """The builder of that name while its backend works: Triton's kernels need an interpreter here."""
    if "triton" not in name:
        yield PUBLIC[name]
        return
    pytest.importorskip("triton", reason="triton is not installed")
    from triton_interpreter import interpreted

    with interpreted(block=1024):
        yield PUBLIC[name]


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.nn.Parameter]:
    """Fresh parameters, always the same."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator, device="cpu")) for s in shapes]


def feed(params: list[torch.nn.Parameter], step: int) -> None:
    """Put the gradients of a fixed sequence into ``.grad``."""
    generator = torch.Generator(device="cpu").manual_seed(1000 + step)
    for param in params:
        param.grad = torch.randn(param.shape, dtype=param.dtype, generator=generator, device="cpu")


def snapshot(optimizer: Optimizer) -> tuple[list[Tensor], dict[Any, dict[str, Any]], list[dict[str, Any]]]:
    """Copies of parameters, states and options, to be compared later."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = {
        index: {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state.get(param, {}).items()}
        for index, param in enumerate(params)
    }
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return [param.detach().clone() for param in params], states, options


def train(optimizer: Optimizer, params: list[torch.nn.Parameter], steps: int) -> None:
    """Make some steps."""
    for step in range(steps):
        feed(params, step)
        optimizer.step()
